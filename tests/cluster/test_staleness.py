"""When the state is too old, or not complete yet, to decide on."""

from typing import Any

import pytest

from extender.cluster.held import Held
from extender.cluster.holds import Holds
from extender.cluster.state import State
from extender.core.policy import Policy
from tests.cluster.watching import Clock


def sinks(state: State) -> dict[str, Held[Any]]:
    tenants = state.tenants
    return {
        "nodes": state.nodes,
        "pods": state.pods,
        "namespaces": tenants.namespaces,
        "quotas": tenants.quotas,
        "limits": tenants.limits,
    }


SINKS = ["nodes", "pods", "namespaces", "quotas", "limits"]


@pytest.mark.parametrize("missing", SINKS)
def test_it_is_stale_until_every_list_has_arrived(clock: Clock, missing: str) -> None:
    state = State(Policy(), clock)
    for name, sink in sinks(state).items():
        if name != missing:
            sink.fill([], clock.now_s)
    sinks(state)[missing].listing()
    before = state.synced, state.snapshot().stale

    sinks(state)[missing].listed()

    assert before == (False, True)
    assert (state.synced, state.snapshot().stale) == (True, False)


@pytest.mark.parametrize("silent", SINKS)
def test_one_silent_watch_makes_it_stale_and_a_bookmark_mends_that(
    state: State, clock: Clock, silent: str
) -> None:
    clock.now_s += 180
    assert not state.snapshot().stale
    clock.now_s += 1
    for name, sink in sinks(state).items():
        if name != silent:
            sink.heard(clock.now_s)
    assert state.snapshot().stale
    assert state.snapshot().age_s == state.age_s() == 181

    sinks(state)[silent].heard(clock.now_s)  # what a bookmark does

    assert not state.snapshot().stale
    assert state.age_s() == 0


def test_how_long_silence_may_last_follows_the_configuration(state: State, clock: Clock) -> None:
    clock.now_s += 60
    assert not state.snapshot().stale

    state.set_policy(Policy(stale_after_s=59))

    assert state.snapshot().stale


def test_before_anything_was_heard_the_age_is_nothing(clock: Clock) -> None:
    state = State(Policy(), clock)
    clock.now_s += 1000

    assert state.age_s() == 0
    assert state.snapshot().stale


def test_without_the_list_of_holds_it_is_stale_at_once_and_gets_older_and_yet_is_synced(
    state: State, clock: Clock
) -> None:
    def told() -> tuple[bool, bool, float]:
        return state.synced, state.snapshot().stale, state.age_s()

    state.holds = holds = Holds(clock=clock)
    before = told()
    clock.now_s += 100
    for sink in sinks(state).values():
        sink.heard(clock.now_s)
    then = told()

    holds.listing()
    holds.listed()
    holds.heard(clock.now_s)

    assert before == (True, True, 0.0)
    assert then == (True, True, 100.0)
    assert told() == (True, False, 0.0)


def test_a_silent_watch_of_the_holds_makes_it_stale(state: State, clock: Clock) -> None:
    state.holds = holds = Holds(clock=clock)
    holds.listing()
    holds.listed()
    holds.heard(clock.now_s)

    clock.now_s += 181
    for sink in sinks(state).values():
        sink.heard(clock.now_s)
    assert state.snapshot().stale
    assert state.age_s() == 181
    holds.heard(clock.now_s)

    assert not state.snapshot().stale
