"""What agents tell, from their objects to nodes and scores; who is heard and who is not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from extender.cluster.gpu_nodes import STALE_S
from extender.cluster.objects import GpuNodeObject, NodeObject, PodObject
from extender.cluster.state import State
from extender.core.observed import Peak
from extender.core.occupancy import Occupancy, SeenGpu
from extender.core.policy import Policy
from tests.build import GPU, container, mig
from tests.build import node as node_json
from tests.build import pod as pod_json
from tests.cluster.watching import Clock

SMALL, LARGE = mig("1g.10gb"), mig("3g.40gb")
START_S = 1_800_000_000.0


def beat(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def piece(profile: str | None = "1g.10gb", *pods: str, **fields: Any) -> dict[str, Any]:
    """A slice that these pods hold."""
    return {"profile": profile, "memoryMiB": 9700, "holders": holders(*pods), **fields}


def holders(*pods: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"namespace": "speech", "pod": p, "containers": ["asr"], **fields} for p in pods]


def cut(*slices: dict[str, Any]) -> dict[str, Any]:
    return {"mig": True, "slices": list(slices)}


def gpu_node(*gpus: dict[str, Any], at_s: float = START_S, name: str = "a") -> GpuNodeObject:
    status = {"heartbeatTime": beat(at_s), "gpus": list(gpus)}
    return msgspec.convert({"metadata": {"name": name}, "status": status}, GpuNodeObject)


class Cluster:
    """A state with one node, and an agent on it."""

    def __init__(self) -> None:
        self.clock, self.wall = Clock(), Clock()
        self.wall.now_s = START_S
        self.state = State(Policy(), self.clock, self.wall)
        slices = {"1g.10gb": 8, "3g.40gb": 2}
        self.state.nodes.upsert(msgspec.convert(node_json("a", slices=slices, whole=0), NodeObject))

    def tell(self, *gpus: dict[str, Any], at_s: float | None = None) -> Occupancy | None:
        beat_s = self.wall.now_s if at_s is None else at_s
        self.state.gpu_nodes.held.upsert(gpu_node(*gpus, at_s=beat_s))
        return self.seen()

    def seen(self) -> Occupancy | None:
        node = self.state.capacity.index.get("a")
        assert node is not None
        return node.occupancy

    def later(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.wall.now_s += seconds
        self.state.gpu_nodes.expire()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_each_card_is_seen_with_its_pods_and_what_is_free_of_it(cluster: Cluster) -> None:
    seen = cluster.tell(
        cut(piece("3g.40gb", "llm"), piece("1g.10gb", "asr", "tts"), piece(), piece()),
        {"mig": False, "holders": holders("train"), "slices": []},
        cut(),
    )

    assert seen == Occupancy(
        gpus=(SeenGpu(3, ((SMALL, 2),)), SeenGpu(1), SeenGpu(0)),
        held=((SMALL, 1), (LARGE, 1)),
        slices=((SMALL, 3), (LARGE, 1)),
        usable_mib=((SMALL, 9700), (LARGE, 9700)),
    )


def test_a_pod_with_two_slices_of_a_card_is_one_pod_there(cluster: Cluster) -> None:
    seen = cluster.tell(cut(piece("1g.10gb", "a"), piece("1g.10gb", "a")))

    assert seen is not None
    assert seen.gpus == (SeenGpu(1),)


@pytest.mark.parametrize(
    "card",
    [
        cut(piece(), {"profile": "1g.10gb"}),
        {"mig": True},
        {"mig": False, "slices": []},
        {"mig": None, "holders": []},
        cut(piece(None)),
    ],
    ids=["slice-without-holders", "unread-slices", "card-without-holders", "mode", "profile"],
)
def test_where_one_holder_is_unknown_no_card_is_judged_by_its_holders(
    cluster: Cluster, card: dict[str, Any]
) -> None:
    seen = cluster.tell(cut(piece()), card)

    assert seen is not None
    assert seen.gpus is None


def test_slices_are_counted_only_if_every_card_was_read(cluster: Cluster) -> None:
    whole = cluster.tell(cut(piece()), {"mig": False, "slices": []})
    part = cluster.tell(cut(piece()), {"mig": True})

    assert whole is not None
    assert whole.slices == ((SMALL, 1),)
    assert part is not None
    assert part.slices is None


def test_a_slice_that_the_kubelet_does_not_serve_is_neither_there_nor_free(
    cluster: Cluster,
) -> None:
    seen = cluster.tell(cut(piece(allocatable=False), piece(allocatable=True)))

    assert seen is not None
    assert seen.slices == ((SMALL, 1),)
    assert seen.gpus == (SeenGpu(0, ((SMALL, 1),)),)


def test_usable_memory_is_the_least_and_only_where_every_slice_tells_it(cluster: Cluster) -> None:
    seen = cluster.tell(
        cut(piece(memoryMiB=9700), piece(memoryMiB=9500), piece("3g.40gb", memoryMiB=None))
    )

    assert seen is not None
    assert seen.usable_mib == ((SMALL, 9500),)


def test_capacity_follows_what_the_agent_sees_and_returns_when_it_is_gone(
    cluster: Cluster,
) -> None:
    node = cluster.state.capacity.index.nodes[0]
    assert node is not None
    assert node.gpus == {SMALL: 8, LARGE: 2}

    cluster.tell(cut(piece(), piece()))
    node = cluster.state.capacity.index.nodes[0]
    assert node is not None
    assert node.gpus == {SMALL: 2}
    assert node.offers[SMALL].usable_mib == 9700

    cluster.state.gpu_nodes.held.remove(gpu_node())
    node = cluster.state.capacity.index.nodes[0]
    assert node is not None
    assert node.gpus == {SMALL: 8, LARGE: 2}
    assert node.occupancy is None


def test_an_agent_is_heard_while_its_heartbeat_changes_and_not_for_long_after(
    cluster: Cluster,
) -> None:
    cluster.tell(cut(piece()))
    for _ in range(10):
        cluster.later(STALE_S - 1)
        assert cluster.tell(cut(piece())) is not None
    cluster.later(STALE_S - 1)
    cluster.tell(cut(piece()), at_s=cluster.wall.now_s - STALE_S + 1)  # the same again: a relist
    cluster.later(2)

    assert cluster.seen() is None
    assert (cluster.state.gpu_nodes.heard(), cluster.state.gpu_nodes.silent()) == (0, 1)
    assert cluster.tell(cut(piece())) is not None
    assert (cluster.state.gpu_nodes.heard(), cluster.state.gpu_nodes.silent()) == (1, 0)


def test_an_object_of_an_agent_long_gone_is_not_used_at_first_sight(cluster: Cluster) -> None:
    assert cluster.tell(cut(piece()), at_s=START_S - STALE_S - 60) is None


def test_a_node_whose_clock_is_wrong_is_heard_all_the_same(cluster: Cluster) -> None:
    cluster.tell(cut(piece()), at_s=START_S - 86_400)
    assert cluster.seen() is None
    cluster.later(60)
    assert cluster.tell(cut(piece()), at_s=START_S - 86_400 + 60) is not None

    ahead = Cluster()
    assert ahead.tell(cut(piece()), at_s=START_S + 86_400) is not None
    ahead.later(STALE_S + 1)
    assert ahead.seen() is None


def test_an_agent_may_come_before_its_node_and_outlive_it(cluster: Cluster) -> None:
    state = State(Policy(), cluster.clock, cluster.wall)
    state.gpu_nodes.held.upsert(gpu_node(cut(piece())))
    node = msgspec.convert(node_json("a", slices={"1g.10gb": 8}, whole=0), NodeObject)

    state.nodes.upsert(node)
    found = state.capacity.index.get("a")
    assert found is not None
    assert found.gpus == {SMALL: 1}
    state.nodes.remove(node)
    state.gpu_nodes.held.upsert(gpu_node(cut(piece(), piece()), at_s=START_S + 5))
    assert state.capacity.index.get("a") is None


def test_memory_in_use_alone_changes_no_node(cluster: Cluster) -> None:
    cluster.tell(cut(piece()))
    before = cluster.state.capacity.index.nodes[0]
    touched: list[str] = []
    cluster.state.capacity.touched = touched.append

    cluster.later(10)
    cluster.tell(cut(piece(usedMiB=5000)))

    assert cluster.state.capacity.index.nodes[0] is before
    assert touched == []


# --- what pods were seen to use ------------------------------------------------------------------

WORKLOAD = "speech/Deployment/asr"


def bound(name: str, uid: str) -> PodObject:
    """A pod of the Deployment `asr`, on node a, with a whole GPU."""
    pod = pod_json(container(), nodeName="a")
    pod["metadata"] |= {"name": name, "uid": uid, "namespace": "speech"}
    found = msgspec.convert(pod, PodObject)
    assert GPU in (found.spec.containers[0].resources.limits or {})  # type: ignore[union-attr]
    return found


def used(name: str, peak_mib: int, **fields: Any) -> dict[str, Any]:
    return {"mig": False, "slices": [], "holders": holders(name, peakMiB=peak_mib, **fields)}


def peaks(cluster: Cluster) -> dict[str, Peak]:
    return dict(cluster.state.snapshot().observed.of(WORKLOAD))


def test_the_peak_of_a_workload_is_the_highest_of_its_pods(cluster: Cluster) -> None:
    cluster.state.pods.upsert(bound("asr-1", "1"))
    cluster.state.pods.upsert(bound("asr-2", "2"))
    cluster.tell(used("asr-1", 9000), used("asr-2", 9604), used("else", 70_000))

    assert peaks(cluster) == {"asr": Peak(9604, pods=2)}
    assert cluster.state.snapshot().observed.of("speech/Deployment/tts") == {}


def test_one_that_reserves_ahead_makes_the_workloads_peak_no_need(cluster: Cluster) -> None:
    cluster.state.pods.upsert(bound("asr-1", "1"))
    cluster.state.pods.upsert(bound("asr-2", "2"))
    cluster.tell(used("asr-1", 9000), used("asr-2", 74_000, preallocates=True))

    assert peaks(cluster)["asr"].preallocates
    assert peaks(cluster)["asr"].footprint_bytes() is None


def test_of_several_containers_on_a_device_nobody_knows_whose_peak_it_is(cluster: Cluster) -> None:
    cluster.state.pods.upsert(bound("asr-1", "1"))
    cluster.tell(used("asr-1", 9000, containers=["asr", "side"]))

    assert peaks(cluster) == {}


def test_peaks_go_with_their_pod_and_with_their_agent(cluster: Cluster) -> None:
    pod = bound("asr-1", "1")
    cluster.state.pods.upsert(pod)
    cluster.tell(used("asr-1", 9000))
    cluster.later(STALE_S + 1)
    assert peaks(cluster) == {}
    cluster.tell(used("asr-1", 9000))
    assert peaks(cluster) == {"asr": Peak(9000, pods=1)}
    cluster.state.pods.remove(pod)

    assert peaks(cluster) == {}
    cluster.tell()
    assert vars(cluster.state.seen_pods) == {
        "_workload": {},
        "_pods": {},
        "_peaks": {},
        "_on": {},
    }
