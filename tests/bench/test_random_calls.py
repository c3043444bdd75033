"""The dice of `bench/random_calls.py`: they make the same calls for the same seed, and get far."""

from bench._random_calls import questions, reviews
from bench.random_calls import call

MOST_GROWTH_MB = 2.0
"""One kilobyte for each review that is left over would be as much."""


def test_the_same_seed_makes_the_same_calls() -> None:
    for asking in (reviews, questions):
        first, again, other = asking(3), asking(3), asking(4)
        bodies = [first() for _ in range(50)]
        assert bodies == [again() for _ in range(50)]
        assert bodies != [other() for _ in range(50)]


def test_calls_are_decided_on_as_well_as_refused_and_none_fails() -> None:
    outcomes, _, _ = call(seed=1, count=600)

    assert outcomes["review"].keys() == {"left", "refused", "rewritten"}
    assert outcomes["filter"].keys() == outcomes["prioritize"].keys() == {"answered", "refused"}
    assert sum(found.total() for found in outcomes.values()) == 600


def test_after_the_first_tenth_of_the_calls_memory_grows_no_more() -> None:
    _, early_mb, late_mb = call(seed=2, count=6000)

    assert late_mb - early_mb < MOST_GROWTH_MB
