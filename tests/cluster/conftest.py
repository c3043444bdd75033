"""A state that has just been listed, and its clock."""

import pytest

from extender.cluster.state import State
from extender.core.policy import Policy
from tests.cluster.typed import node
from tests.cluster.watching import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> State:
    made = State(Policy(reservation_ttl_s=30, stale_after_s=180), clock)
    made.fill(nodes=[node("n0"), node("n1")])
    return made
