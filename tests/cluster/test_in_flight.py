"""Reservations: slices promised to pods that have not shown up yet."""

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extender.admission.review import Reviewer
from extender.cluster.in_flight import MOST
from extender.cluster.state import State
from extender.core.decision import Decision
from extender.core.policy import Policy
from extender.core.reason import Action, Reason
from extender.demo.admission import review
from tests.cluster.typed import LARGE, SMALL, node, pod
from tests.cluster.watching import Clock

GPU = "nvidia.com/gpu"


def promise(state: State, name: str, resource: str = SMALL, count: int = 1) -> Decision:
    return Decision(
        action=Action.REWRITTEN,
        reason=Reason.FITS,
        message="",
        id=name,
        namespace="default",
        claims={resource: count},
        nodes=state.capacity.index.all,
    )


def promised(state: State, resource: str = SMALL) -> int:
    """As the next decision sees it."""
    snapshot = state.snapshot()
    return snapshot.reservations.on(resource, snapshot.capacity.index.all)


def test_a_reservation_ends_when_its_pod_shows_up_and_waits_in_its_stead(state: State) -> None:
    state.reserve(promise(state, "r1"))
    nodes = state.capacity.index.all
    assert (promised(state), state.capacity.waiting(SMALL, nodes, 0)) == (1, 0)

    state.pods.upsert(pod("a", decision='{"id":"r1","action":"rewritten"}'))

    assert (promised(state), state.capacity.waiting(SMALL, nodes, 0)) == (0, 1)
    assert state.snapshot().reservations.by_place == {}


def test_a_pod_that_is_on_its_node_already_ends_its_reservation_too(state: State) -> None:
    state.reserve(promise(state, "r1"))

    state.pods.upsert(pod("a", on="n0", decision='{"id":"r1"}'))

    assert promised(state) == 0
    assert state.capacity.usage("n0").gpus == {SMALL: 1}


@pytest.mark.parametrize(
    "mark",
    ["", '{"id":"r2"}', '{"id":7}', "{}", "null", "not json", '{"id":"r1"', "[" * 5000],
    ids=["none", "another", "number", "empty", "null", "text", "torn", "deep"],
)
def test_the_pod_of_somebody_else_ends_no_reservation(state: State, mark: str) -> None:
    state.reserve(promise(state, "r1"))

    state.pods.upsert(pod("a", decision=mark))

    assert promised(state) == 1


def test_a_reservation_whose_pod_never_comes_ends_by_time(state: State, clock: Clock) -> None:
    state.reserve(promise(state, "r1"))
    clock.now_s += 29.9
    assert promised(state) == 1

    clock.now_s += 0.2

    assert promised(state) == 0
    assert state.snapshot().in_flight == {}


def test_a_pod_that_shows_up_after_the_time_is_out_takes_nothing_twice(
    state: State, clock: Clock
) -> None:
    state.reserve(promise(state, "r1"))
    clock.now_s += 60
    assert promised(state) == 0

    state.pods.upsert(pod("a", decision='{"id":"r1"}'))

    assert state.snapshot().reservations.by_place == {}


def test_a_review_that_comes_twice_is_reserved_once(state: State) -> None:
    state.reserve(promise(state, "r1"))
    state.reserve(promise(state, "r1", LARGE))

    assert (promised(state, SMALL), promised(state, LARGE)) == (0, 1)


def test_a_reservation_counts_in_its_namespace_until_it_ends(state: State) -> None:
    before = dict(state.tenants.by_name)
    state.reserve(promise(state, "r1"))
    assert dict(state.tenants.by_name) != before

    state.in_flight.end("r1")

    assert dict(state.tenants.by_name) == before


def test_too_many_in_flight_push_out_the_oldest(state: State) -> None:
    for number in range(MOST + 5):
        state.reserve(promise(state, f"r{number}"))

    assert promised(state) == MOST
    assert "r4" not in state.snapshot().in_flight
    assert "r5" in state.snapshot().in_flight


@pytest.mark.parametrize(("dry_run", "kept"), [(True, 0), (False, 1)])
def test_only_what_will_be_stored_is_reserved(state: State, dry_run: bool, kept: int) -> None:
    reviewer = Reviewer(
        snapshot=state.snapshot,
        policy=lambda: state.policy,
        reserve=state.reserve,
        clock=lambda: 0.0,
    )
    limits = {"limits": {GPU: "1"}}
    asking = {
        "metadata": {"name": "asr", "annotations": {"migfit.io/gpu-memory": "5G"}},
        "spec": {"containers": [{"name": "main", "resources": limits}]},
    }
    body = json.dumps(review(asking, "default", dry_run=dry_run)).encode()

    decision = reviewer.review(body).decision

    assert (decision.action, decision.claims) == (Action.REWRITTEN, {SMALL: 1})
    assert promised(state) == kept
    assert len(state.snapshot().in_flight) == kept


class Promises(RuleBasedStateMachine):
    """Reviews, arrivals, refusals and passing time, while nodes come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.state = State(Policy(reservation_ttl_s=30), self.clock)
        self.state.fill(nodes=[node("n0"), node("n1")])
        self.made = 0

    @rule(resource=st.sampled_from([SMALL, LARGE]), count=st.integers(1, 3), again=st.booleans())
    def review(self, resource: str, count: int, again: bool) -> None:
        self.made += not again
        self.state.reserve(promise(self.state, f"r{self.made}", resource, count))

    @rule(number=st.integers(1, 20), on=st.sampled_from(["", "n0"]))
    def arrive(self, number: int, on: str) -> None:
        self.state.pods.upsert(pod(f"p{number}", on=on, decision=f'{{"id":"r{number}"}}'))

    @rule(number=st.integers(1, 20))
    def leave(self, number: int) -> None:
        self.state.pods.remove(pod(f"p{number}"))

    @rule(seconds=st.sampled_from([0.0, 1.0, 15.0, 29.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(name=st.sampled_from(["n0", "n1", "n2"]), there=st.booleans())
    def change_node(self, name: str, there: bool) -> None:
        (self.state.nodes.upsert if there else self.state.nodes.remove)(node(name))

    @invariant()
    def promises_are_those_in_flight(self) -> None:
        snapshot = self.state.snapshot()
        total = sum(sum(decision.claims.values()) for decision in snapshot.in_flight.values())
        reservations = snapshot.reservations
        by_resource = {name: sum(of.values()) for name, of in reservations.by_place.items()}
        assert sum(by_resource.values()) == total
        assert by_resource == reservations.in_all
        assert all(count > 0 for of in reservations.by_place.values() for count in of.values())

    def teardown(self) -> None:
        for number in range(1, 21):
            self.leave(number)
        self.clock.now_s += 31
        assert self.state.snapshot().reservations.by_place == {}
        assert dict(self.state.tenants.by_name) == {}


Promises.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestPromises = Promises.TestCase
