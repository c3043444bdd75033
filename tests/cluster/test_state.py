"""The state kept event by event, against the same state built anew."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extender.cluster.held import Held
from extender.cluster.objects import (
    GpuNodeObject,
    LimitRangeObject,
    NamespaceObject,
    NodeObject,
    PodObject,
    ResourceQuotaObject,
)
from extender.cluster.state import State
from extender.core.policy import Policy, Pool
from tests.cluster.picture import differences, picture
from tests.cluster.typed import LARGE, PRODUCT, SMALL, convert, node, pod
from tests.cluster.watching import Clock

GPU, OTHER_GPU = "nvidia.com/gpu", "example.com/gpu"

NODES = ["n0", "n1", "n2"]
PODS = [f"p{i}" for i in range(5)]
NAMESPACES = ["default", "team-a", "team-b"]
POLICIES = [
    Policy(),
    Policy(gpu_resource=OTHER_GPU),
    Policy(usable_mib={PRODUCT: {"1g.10gb": 5000}}),
    Policy(pools=(Pool(name="a100s", labels={"zone": "a"}, slices={LARGE: 2}),)),
]


# --- what may be there ---------------------------------------------------------------------------


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

devices = st.fixed_dictionaries(
    {
        "profile": st.sampled_from(["1g.10gb", "3g.40gb"]),
        "memoryMiB": st.sampled_from([9000, 9728, None]),
        "holders": st.one_of(
            st.none(),
            st.lists(
                st.builds(
                    lambda pod, peak: {
                        "namespace": "default",
                        "pod": pod,
                        "containers": ["main"],
                        "peakMiB": peak,
                    },
                    st.sampled_from(PODS),
                    st.sampled_from([None, 700, 9000]),
                ),
                max_size=2,
            ),
        ),
    }
)
gpu_nodes = st.builds(
    lambda name, gpus: convert(
        GpuNodeObject,
        metadata={"name": name},
        status={"heartbeatTime": "1970-01-01T00:16:40Z", "gpus": gpus},
    ),
    st.sampled_from(["n9", *NODES]),
    st.one_of(
        st.none(),
        st.lists(
            st.fixed_dictionaries({"mig": st.just(True), "slices": st.lists(devices, max_size=3)}),
            max_size=2,
        ),
    ),
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
        self.state = State(POLICIES[0], Clock(), Clock())
        tenants = self.state.tenants
        self.nodes = Kind(self.state.nodes)
        self.pods = Kind(self.state.pods)
        self.namespaces = Kind(tenants.namespaces)
        self.quotas = Kind(tenants.quotas)
        self.limits = Kind(tenants.limits)
        self.gpu_nodes = Kind(self.state.gpu_nodes.held)
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

    @rule(item=gpu_nodes, there=st.booleans())
    def change_gpu_node(self, item: GpuNodeObject, there: bool) -> None:
        (self.gpu_nodes.put if there else self.gpu_nodes.drop)(item)

    @rule(
        kind=st.sampled_from(["nodes", "pods", "namespaces", "quotas", "limits", "gpu_nodes"]),
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
        fresh = State(self.state.policy, Clock(), Clock())
        fresh.fill(
            gpu_nodes=_backwards(self.gpu_nodes),
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
