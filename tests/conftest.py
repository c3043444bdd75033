"""Hypothesis without time limits: the machines that run this differ by an order of magnitude."""

from hypothesis import HealthCheck, settings

settings.register_profile("migfit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("migfit")
