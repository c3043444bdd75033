"""The state kept event by event, against the same state built anew; reservations; staleness."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extender.admission.review import Reviewer
from extender.cluster.held import Held
from extender.cluster.in_flight import MOST
from extender.cluster.objects import (
    LimitRangeObject,
    NamespaceObject,
    NodeObject,
    PodObject,
    ResourceQuotaObject,
)
from extender.cluster.state import State
from extender.core.decision import Decision
from extender.core.policy import Policy, Pool
from extender.core.reason import Action, Reason
from extender.core.rewrite import DECISION_ANNOTATION
from extender.demo.admission import review
from tests.cluster.picture import differences, picture
from tests.cluster.watching import Clock

T = TypeVar("T")

GPU, OTHER_GPU = "nvidia.com/gpu", "example.com/gpu"
SMALL, LARGE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"
PRODUCT = "NVIDIA-A100-SXM4-80GB"

NODES = ["n0", "n1", "n2"]
PODS = [f"p{i}" for i in range(5)]
NAMESPACES = ["default", "team-a", "team-b"]
POLICIES = [
    Policy(),
    Policy(gpu_resource=OTHER_GPU),
    Policy(usable_mib={PRODUCT: {"1g.10gb": 5000}}),
    Policy(pools=(Pool(name="a100s", labels={"zone": "a"}, slices={LARGE: 2}),)),
]


def convert(kind: type[T], **fields: Any) -> T:
    return msgspec.convert(fields, kind)


# --- what may be there ---------------------------------------------------------------------------


def node(name: str, **more: Any) -> NodeObject:
    fields = {
        "labels": {"nvidia.com/gpu.product": PRODUCT},
        "allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110", SMALL: "4", LARGE: "1"},
        **more,
    }
    return convert(
        NodeObject,
        metadata={"name": name, "labels": fields["labels"]},
        spec={k: v for k, v in fields.items() if k in ("taints", "unschedulable")},
        status={"allocatable": fields["allocatable"]},
    )


def pod(
    name: str,
    resource: str = SMALL,
    count: int = 1,
    *,
    on: str = "",
    namespace: str = "default",
    decision: str = "",
    phase: str = "Pending",
    **spec: Any,
) -> PodObject:
    mark = {"annotations": {DECISION_ANNOTATION: decision}} if decision else {}
    asked = {"cpu": "500m", resource: str(count)} if resource else {"cpu": "500m"}
    container = {"name": "main", "resources": {"limits": asked, "requests": asked}}
    return convert(
        PodObject,
        metadata={"name": name, "namespace": namespace, "uid": f"uid-{name}", **mark},
        spec={"containers": [container], "nodeName": on, **spec},
        status={"phase": phase},
    )


labels = st.fixed_dictionaries(
    {"nvidia.com/gpu.product": st.just(PRODUCT)},
    optional={
        "zone": st.sampled_from("ab"),
        "size": st.sampled_from("15"),
        "karpenter.sh/nodepool": st.just("gpus"),
        "nvidia.com/mig.strategy": st.sampled_from(["mixed", "single"]),
        "nvidia.com/mig.config.state": st.sampled_from(["success", "pending"]),
        f"{SMALL}.memory": st.sampled_from(["9728", "9856", "0"]),
    },
)
allocatable = st.fixed_dictionaries(
    {"cpu": st.sampled_from(["2", "64"]), "memory": st.just("64Gi"), "pods": st.just("4")},
    optional={
        GPU: st.sampled_from(["0", "1", "4"]),
        OTHER_GPU: st.sampled_from(["0", "2"]),
        SMALL: st.sampled_from(["0", "3", "7"]),
        LARGE: st.sampled_from(["1", "2"]),
    },
)
taints = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from("xy"),
            "effect": st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"]),
        }
    ),
    max_size=2,
)
nodes = st.builds(
    node,
    st.sampled_from(NODES),
    labels=labels,
    allocatable=allocatable,
    taints=taints,
    unschedulable=st.sampled_from([None, False, True]),
)

owners = st.sampled_from(
    [
        [],
        [{"kind": "ReplicaSet", "name": "asr-abc12", "controller": True}],
        [{"kind": "StatefulSet", "name": "tts", "controller": True}],
    ]
)
pod_metadata = st.fixed_dictionaries(
    {"namespace": st.sampled_from(NAMESPACES), "ownerReferences": owners},
    optional={
        "labels": st.fixed_dictionaries(
            {"pod-template-hash": st.just("abc12")},
            optional={"migfit.io/rewritten": st.just("true")},
        ),
    },
)
asked = st.dictionaries(
    st.sampled_from([GPU, OTHER_GPU, SMALL, LARGE, "rdma/hca"]),
    st.sampled_from(["1", "2"]),
    max_size=2,
)
containers = st.builds(
    lambda limits, cpu, always: {
        "resources": {"limits": limits, "requests": {**limits, **cpu}},
        **({"restartPolicy": "Always"} if always else {}),
    },
    asked,
    st.sampled_from([{}, {"cpu": "1"}, {"cpu": "250m", "memory": "1Gi"}]),
    st.booleans(),
)
pod_spec = st.fixed_dictionaries(
    {
        "containers": st.lists(containers, min_size=1, max_size=2),
        "initContainers": st.lists(containers, max_size=1),
    },
    optional={
        "nodeSelector": st.just({"zone": "a"}),
        "tolerations": st.just([{"key": "x", "operator": "Exists"}]),
        "priority": st.sampled_from([0, 100]),
        "activeDeadlineSeconds": st.just(60),
    },
)
progress = st.fixed_dictionaries(
    {
        "phase": st.sampled_from(["Pending", "Running", "Running", "Succeeded"]),
        "nodeName": st.sampled_from(["", "", "", *NODES, "unknown"]),
        "gated": st.sampled_from([False, False, False, True]),
        "deleting": st.sampled_from([False, False, False, True]),
    }
)
namespaces = st.builds(
    lambda name, mode: convert(NamespaceObject, metadata={"name": name, "labels": mode}),
    st.sampled_from(NAMESPACES),
    st.sampled_from([{}, {"migfit.io/mode": "ignore"}]),
)
hard = st.dictionaries(
    st.sampled_from([f"requests.{GPU}", f"requests.{OTHER_GPU}", f"requests.{SMALL}", "pods"]),
    st.sampled_from(["0", "2", 4]),
    max_size=2,
)
quotas = st.builds(
    lambda namespace, name, hard: convert(
        ResourceQuotaObject, metadata={"name": name, "namespace": namespace}, spec={"hard": hard}
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from("qr"),
    hard,
)
limits = st.builds(
    lambda namespace, most: convert(
        LimitRangeObject,
        metadata={"name": "l", "namespace": namespace},
        spec={"limits": [{"type": "Container", "max": most}]},
    ),
    st.sampled_from(NAMESPACES),
    st.dictionaries(st.sampled_from([GPU, OTHER_GPU, SMALL]), st.just("0"), max_size=1),
)


# --- the state after any events ------------------------------------------------------------------


class Kind:
    """The objects of one kind as the API server has them, and where a state takes them in."""

    def __init__(self, sink: Held[Any]) -> None:
        self.sink = sink
        self.there: dict[str, Any] = {}

    def put(self, item: Any) -> None:
        self.there[self.sink._key(item)] = item
        self.sink.upsert(item)

    def drop(self, item: Any) -> None:
        self.there.pop(self.sink._key(item), None)
        self.sink.remove(item)

    def any(self, pick: int) -> Any:
        """One of those that are there."""
        return self.there[sorted(self.there)[pick % len(self.there)]]

    def relist(self, rng: Random, *, broken_off: bool) -> None:
        """List anew, after events that nobody saw; perhaps at the second attempt."""
        if broken_off:
            self.sink.listing()
            for key in rng.sample(sorted(self.there), len(self.there) // 2):
                self.sink.upsert(self.there[key])
        for key in sorted(self.there):
            if rng.random() < 0.2:
                del self.there[key]
        self.sink.listing()
        for key in sorted(self.there, key=lambda _: rng.random()):
            self.sink.upsert(self.there[key])
        self.sink.listed()


class Events(RuleBasedStateMachine):
    """Events of a cluster in any order, pods before their node included."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(POLICIES[0], Clock())
        tenants = self.state.tenants
        self.nodes = Kind(self.state.nodes)
        self.pods = Kind(self.state.pods)
        self.namespaces = Kind(tenants.namespaces)
        self.quotas = Kind(tenants.quotas)
        self.limits = Kind(tenants.limits)
        self.specs: dict[str, tuple[Any, Any]] = {}

    @initialize(there=st.lists(nodes, min_size=2, max_size=4))
    def begin(self, there: list[NodeObject]) -> None:
        for item in there:
            self.nodes.put(item)

    @rule(item=nodes)
    def change_node(self, item: NodeObject) -> None:
        self.nodes.put(item)

    @precondition(lambda self: self.nodes.there)
    @rule(pick=st.integers(0, 9))
    def drop_node(self, pick: int) -> None:
        self.nodes.drop(self.nodes.any(pick))

    @rule(uid=st.sampled_from(PODS), metadata=pod_metadata, spec=pod_spec, now=progress)
    def put_pod(self, uid: str, metadata: Any, spec: Any, now: Any) -> None:
        """A new pod, or a known one one step further: what it asks for never changes."""
        if uid not in self.pods.there:
            self.specs[uid] = metadata, spec
        metadata, spec = self.specs[uid]
        metadata = {**metadata, "name": uid, "uid": uid}
        if now["deleting"]:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        spec = {**spec, "nodeName": now["nodeName"]}
        if now["gated"]:
            spec["schedulingGates"] = [{"name": "wait"}]
        status = {"phase": now["phase"]}
        self.pods.put(convert(PodObject, metadata=metadata, spec=spec, status=status))

    @precondition(lambda self: self.pods.there)
    @rule(pick=st.integers(0, 9))
    def drop_pod(self, pick: int) -> None:
        self.pods.drop(self.pods.any(pick))

    @rule(name=st.sampled_from(["n9", *NODES]))
    def drop_what_may_never_have_been_there(self, name: str) -> None:
        self.nodes.drop(node(name))
        self.pods.drop(pod(name))

    @rule(item=namespaces, there=st.booleans())
    def change_namespace(self, item: NamespaceObject, there: bool) -> None:
        (self.namespaces.put if there else self.namespaces.drop)(item)

    @rule(item=quotas, there=st.booleans())
    def change_quota(self, item: ResourceQuotaObject, there: bool) -> None:
        (self.quotas.put if there else self.quotas.drop)(item)

    @rule(item=limits, there=st.booleans())
    def change_limits(self, item: LimitRangeObject, there: bool) -> None:
        (self.limits.put if there else self.limits.drop)(item)

    @rule(
        kind=st.sampled_from(["nodes", "pods", "namespaces", "quotas", "limits"]),
        rng=st.randoms(use_true_random=False),
        broken_off=st.booleans(),
    )
    def relist(self, kind: str, rng: Random, broken_off: bool) -> None:
        getattr(self, kind).relist(rng, broken_off=broken_off)

    @rule(policy=st.sampled_from(POLICIES))
    def configure(self, policy: Policy) -> None:
        self.state.set_policy(policy)

    @invariant()
    def equals_one_built_from_what_is_there(self) -> None:
        fresh = State(self.state.policy, Clock())
        fresh.fill(
            nodes=_backwards(self.nodes),
            pods=_backwards(self.pods),
            namespaces=_backwards(self.namespaces),
            quotas=_backwards(self.quotas),
            limits=_backwards(self.limits),
        )
        differ = differences(picture(self.state), picture(fresh))
        assert not differ


def _backwards(kind: Kind) -> Iterator[Any]:
    """In an order that no event had, so that slots and the like differ."""
    return (kind.there[key] for key in sorted(kind.there, reverse=True))


Events.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestEvents = pytest.mark.timeout(900)(Events.TestCase)  # a failure takes minutes to be made short


def test_pods_without_a_uid_as_in_files_written_by_hand_are_told_apart_by_name() -> None:
    state = State(Policy(), Clock())
    bare = [
        convert(
            PodObject,
            metadata={"name": name, "namespace": "default"},
            spec={"containers": [{"resources": {"limits": {SMALL: "1"}}}], "nodeName": "n0"},
        )
        for name in "ab"
    ]

    state.fill(nodes=[node("n0")], pods=bare)

    assert state.capacity.usage("n0").gpus == {SMALL: 2}


# --- reservations --------------------------------------------------------------------------------


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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> State:
    made = State(Policy(reservation_ttl_s=30, stale_after_s=180), clock)
    made.fill(nodes=[node("n0"), node("n1")])
    return made


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
        assert sum(snapshot.reservations.by_place.values()) == total
        assert all(count > 0 for count in snapshot.reservations.by_place.values())

    def teardown(self) -> None:
        for number in range(1, 21):
            self.leave(number)
        self.clock.now_s += 31
        assert self.state.snapshot().reservations.by_place == {}
        assert dict(self.state.tenants.by_name) == {}


Promises.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestPromises = Promises.TestCase


# --- staleness -----------------------------------------------------------------------------------


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
