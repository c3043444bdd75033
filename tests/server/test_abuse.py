"""Clients nobody wants, in small; `bench/abuse.py` sends them in earnest and prints the figures."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from bench._abuse import (
    Attack,
    Target,
    crowd,
    dense,
    half_open,
    huge,
    storm,
    survive,
    unfinished,
)
from extender.server.connections import MOST_CONNECTIONS
from tests.server.conftest import Start
from tests.server.serving import Serving, review_of

PORTS = ("webhook", "extender", "ops")
MOST_MB = 537.0
"""The 512 MiB that the Deployment gives."""


@pytest.fixture(scope="module")
def abused(serving: Serving) -> Iterator[Target]:
    """The shared server; whatever it stands, no trace of an exception may be in its log."""
    before = len(serving.tracebacks())
    ports = {name: serving.port(name) for name in PORTS}
    yield Target(serving.process.pid, ports, serving.tls, review_of())
    assert serving.tracebacks()[before:] == []


def survived(target: Target, attack: Attack) -> Counter[str]:
    """What came of an attack, if the process has kept its memory and answered all along.

    How soon it said that it is alive is for `bench/abuse.py` to tell: a time depends on the machine.
    That it need not wait for the reviews is shown in `test_operations.py`.
    """
    found = survive(target, attack)
    assert found.pulse.failed == 0
    assert found.pulse.latencies_s
    assert found.peak_mb < MOST_MB
    assert "hung" not in found.outcomes
    return found.outcomes


@pytest.mark.parametrize("name", PORTS)
def test_malformed_requests_are_all_refused(abused: Target, name: str) -> None:
    outcomes = survived(abused, partial(storm, abused, name, 60))

    assert outcomes.total() == 60
    assert all(status.startswith("4") for status in outcomes), outcomes


@pytest.mark.parametrize("name", PORTS)
def test_beside_more_half_open_connections_than_a_port_takes_others_are_served(
    abused: Target, name: str
) -> None:
    many = MOST_CONNECTIONS + 50

    outcomes = survived(abused, partial(half_open, abused, name, many, 3.0))

    assert outcomes["200"] >= 1, outcomes


@pytest.mark.parametrize("name", PORTS)
def test_huge_bodies_are_refused_by_their_size_or_read_and_refused(
    abused: Target, name: str
) -> None:
    outcomes = survived(abused, partial(huge, abused, name, 2))

    assert outcomes.total() == 2
    assert outcomes.keys() <= {"400", "405", "413"}


@pytest.mark.parametrize("name", ["webhook", "extender"])
def test_beside_large_bodies_that_lack_their_end_small_ones_are_taken_in(
    abused: Target, name: str
) -> None:
    outcomes = survived(abused, partial(unfinished, abused, name, 60))

    assert outcomes.keys() == {"200"}


@pytest.mark.parametrize("name", ["webhook", "extender"])
def test_json_that_takes_thirty_times_its_size_is_refused(abused: Target, name: str) -> None:
    assert survived(abused, partial(dense, abused, name, 2)) == {"400": 2}


def test_a_crowd_of_reviews_is_answered_to_the_last(start: Start) -> None:
    running = start().wait_ready()
    ports = {name: running.port(name) for name in PORTS}
    target = Target(running.process.pid, ports, running.tls, review_of())

    assert survived(target, partial(crowd, target, 150)) == {"200": 150}
