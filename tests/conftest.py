"""Hypothesis without time limits: the machines that run this differ by an order of magnitude.

`pytest --hypothesis-profile=deep` looks much longer.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("migfit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", settings.get_profile("migfit"), max_examples=3000)
settings.load_profile("migfit")
