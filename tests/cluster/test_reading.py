"""Objects as the API server writes them, read for counting: the same as `core` reads a pod under review."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.objects import NodeObject, PodObject
from extender.cluster.reading import (
    asks_for_devices,
    read_node,
    read_pod,
    read_pool,
    read_share,
    workload_name,
)
from extender.core import pod as podlib
from extender.core.capacity import Demand, Holding
from extender.core.node import Taint
from extender.core.policy import Policy, Pool
from extender.core.quota import scope_of

GPU, SLICE = "nvidia.com/gpu", "nvidia.com/mig-2g.20gb"
POLICY = Policy()


def decoded(kind: type[Any], item: Mapping[str, Any]) -> Any:
    return msgspec.json.decode(json.dumps(item), type=kind)


def pod(spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    meta = {"name": "asr", "namespace": "team", "uid": "u", **metadata}
    status = {"phase": "Pending", "qosClass": "Burstable", "conditions": [{"type": "Ready"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def asking(**more: Any) -> dict[str, Any]:
    limits = {"cpu": "1", SLICE: "1"}
    return {
        "containers": [{"name": "main", "image": "x", "resources": {"limits": limits}}],
        **more,
    }


def read(spec: Mapping[str, Any], **metadata: Any) -> Holding | Demand | None:
    return read_pod(decoded(PodObject, pod(spec, **metadata)), POLICY)


# --- pods ----------------------------------------------------------------------------------------

plain = st.dictionaries(
    st.sampled_from(["cpu", "memory", "ephemeral-storage"]),
    st.sampled_from(["1", "250m", "1.5", "64Mi", "1e3", 2, 0.5, "0"]),
)
devices = st.dictionaries(
    st.sampled_from([GPU, SLICE, "nvidia.com/mig-1g.10gb.shared", "rdma/hca", "hugepages-2Mi"]),
    st.sampled_from(["0", "1", "2", "1k", 3]),
    max_size=2,
)
resources = st.builds(
    lambda limits, requests, devices: {
        "limits": {**limits, **devices},
        "requests": {**requests, **devices},
    },
    plain,
    plain,
    devices,
) | st.builds(lambda devices: {"limits": devices}, devices)
containers = st.fixed_dictionaries(
    {"name": st.sampled_from("abc")},
    optional={"resources": resources, "restartPolicy": st.sampled_from(["Always", "Never"])},
)
specs = st.fixed_dictionaries(
    {"containers": st.lists(containers, min_size=1, max_size=3), "nodeName": st.just("n0")},
    optional={
        "initContainers": st.lists(containers, max_size=3),
        "overhead": st.just({"cpu": "100m", "memory": "8Mi"}),
        "resources": st.just({"requests": {"cpu": "3"}, "limits": {"memory": "2Gi"}}),
        "activeDeadlineSeconds": st.just(5),
        "priorityClassName": st.just("high"),
    },
)
owners = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["ReplicaSet", "Job", "StatefulSet"])},
        optional={"controller": st.booleans()},
    ).flatmap(
        lambda owner: st.sampled_from(["asr-f7", "asr-29000000", "asr"]).map(
            lambda name: {**owner, "name": name}
        )
    ),
    max_size=2,
)
metadata = st.fixed_dictionaries(
    {"ownerReferences": owners},
    optional={"labels": st.just({"pod-template-hash": "f7"})},
)


@given(specs, metadata)
def test_a_bound_pod_holds_what_the_decision_on_it_had_counted(
    spec: dict[str, Any], meta: dict[str, Any]
) -> None:
    raw = pod(spec, **meta)
    held = podlib.containers(raw)
    item = decoded(PodObject, raw)

    record = read_pod(item, POLICY)

    assert isinstance(record, Holding)
    assert record.node == "n0"
    assert record.plain == podlib.plain_ask(raw, held, GPU)
    assert dict(record.gpus) == podlib.gpu_ask(held, GPU)
    assert workload_name(item) == f"team/{podlib.workload(raw)}"
    assert record.workload == (workload_name(item) if record.gpus else "")
    assert asks_for_devices(item) or not record.gpus


@given(specs)
def test_a_pod_falls_under_the_quotas_that_the_decision_on_it_had_seen(
    spec: dict[str, Any],
) -> None:
    raw = pod(spec)

    counted = read_share(decoded(PodObject, raw), POLICY)

    if counted is None:
        assert podlib.gpu_ask(podlib.containers(raw), GPU) == {}
    else:
        share, gpus = counted
        assert share.scope == scope_of(raw, podlib.containers(raw))
        assert dict(gpus) == podlib.gpu_ask(podlib.containers(raw), GPU)


def test_a_waiting_pod_asks_for_its_slices_with_its_priority() -> None:
    record = read(asking(nodeSelector={"zone": "a"}, priority=7))

    assert isinstance(record, Demand)
    assert record.gpus == ((SLICE, 1),)
    assert record.priority == 7
    assert record.spec["nodeSelector"] == {"zone": "a"}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("node_name", ["", "n0"])
def test_a_pod_that_has_ended_counts_for_nothing(phase: str, node_name: str) -> None:
    item = {**pod(asking(nodeName=node_name)), "status": {"phase": phase}}

    assert read_pod(decoded(PodObject, item), POLICY) is None
    assert read_share(decoded(PodObject, item), POLICY) is None


@pytest.mark.parametrize(
    "held_back",
    [
        pod(asking(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])),
        pod(asking(), deletionTimestamp="2026-01-01T00:00:00Z"),
        pod({"containers": [{"name": "main", "resources": {"limits": {"cpu": "1"}}}]}),
    ],
    ids=["gated", "being deleted", "without a GPU"],
)
def test_a_pod_that_the_scheduler_does_not_look_at_for_gpus_waits_for_none(
    held_back: dict[str, Any],
) -> None:
    assert read_pod(decoded(PodObject, held_back), POLICY) is None


def test_a_pod_that_is_being_deleted_holds_its_slice_until_it_is_gone() -> None:
    record = read(asking(nodeName="n0"), deletionTimestamp="2026-01-01T00:00:00Z")

    assert isinstance(record, Holding)
    assert record.gpus == ((SLICE, 1),)


WHERE = {
    "nodeSelector": {"zone": "a", "disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
}


def test_pods_that_may_land_on_the_same_nodes_have_one_signature() -> None:
    backwards = {"zone": "a", "disk": "ssd"}
    same = read(asking(**{**WHERE, "nodeSelector": backwards}, priority=100), name="other")
    one = read(asking(**WHERE))

    assert isinstance(one, Demand)
    assert isinstance(same, Demand)
    assert one.signature == same.signature


@pytest.mark.parametrize(
    "changed",
    [
        {"nodeSelector": {"zone": "b", "disk": "ssd"}},
        {"tolerations": []},
        {"affinity": {"nodeAffinity": {}}},
    ],
)
def test_pods_that_may_land_elsewhere_have_another_signature(changed: dict[str, Any]) -> None:
    one, other = read(asking(**WHERE)), read(asking(**{**WHERE, **changed}))

    assert isinstance(one, Demand)
    assert isinstance(other, Demand)
    assert one.signature != other.signature


def test_a_gpu_is_what_the_configuration_calls_one() -> None:
    spec = asking(nodeName="n0")
    spec["containers"][0]["resources"]["limits"] = {"example.com/gpu": "2", SLICE: "1"}
    item = decoded(PodObject, pod(spec))

    usual = read_pod(item, POLICY)
    other = read_pod(item, Policy(gpu_resource="example.com/gpu"))

    assert isinstance(usual, Holding)
    assert isinstance(other, Holding)
    assert usual.gpus == ((SLICE, 1),)
    assert other.gpus == (("example.com/gpu", 2), (SLICE, 1))


# --- nodes ---------------------------------------------------------------------------------------

NODE: dict[str, Any] = {
    "metadata": {
        "name": "gpu-1",
        "labels": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.count": "2"},
        "annotations": {"csi": "x" * 1000},
        "managedFields": [{"manager": "kubelet"}],
    },
    "spec": {
        "podCIDR": "10.0.0.0/24",
        "unschedulable": True,
        "taints": [
            {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
            {"key": "spare", "effect": "PreferNoSchedule"},
            {"key": "drain", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
        ],
    },
    "status": {
        "allocatable": {
            "cpu": "63850m",
            "memory": "503Gi",
            "ephemeral-storage": "1e12",
            "pods": 110,
            GPU: "0",
            SLICE: "3",
            "rdma/hca": "1k",
        },
        "images": [{"sizeBytes": 1}],
    },
}


def test_a_node_is_read_with_what_a_decision_needs_of_it() -> None:
    node = read_node(decoded(NodeObject, NODE), POLICY)

    assert node.name == "gpu-1"
    assert (node.cpu_milli, node.memory_bytes) == (63_850, 503 << 30)
    assert (node.ephemeral_bytes, node.pods) == (10**12, 110)
    assert node.gpus == {SLICE: 3}
    assert list(node.offers) == [SLICE]
    assert node.cordoned
    assert node.gpu_count == 2
    assert node.taints == (
        Taint("nvidia.com/gpu", "present", "NoSchedule"),
        Taint("drain", "", "NoExecute"),
    )


def test_a_node_that_says_nothing_has_nothing() -> None:
    node = read_node(decoded(NodeObject, {"metadata": {"name": "bare"}}), POLICY)

    assert (node.cpu_milli, node.memory_bytes, node.pods) == (0, 0, 0)
    assert node.gpus == {}
    assert not node.cordoned


def test_a_quantity_that_is_none_counts_as_nothing_and_hides_no_other() -> None:
    odd = {"metadata": {"name": "odd"}, "status": {"allocatable": {SLICE: "many", "cpu": "4"}}}

    node = read_node(decoded(NodeObject, odd), POLICY)

    assert node.gpus == {}
    assert node.cpu_milli == 4000


def test_the_admins_word_on_usable_memory_reaches_nodes_and_pools() -> None:
    product = NODE["metadata"]["labels"]["nvidia.com/gpu.product"]
    policy = Policy(usable_mib={product: {"2g.20gb": 12_345}})
    pool = Pool(name="future", labels=NODE["metadata"]["labels"], slices={SLICE: 3})

    node, future = read_node(decoded(NodeObject, NODE), policy), read_pool(pool, policy)

    assert node.offers[SLICE].usable_mib == future.offers[SLICE].usable_mib == 12_345


def test_a_pool_is_one_node_such_as_it_would_make() -> None:
    pool = Pool(
        name="future",
        labels={"zone": "a"},
        taints=(
            {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
            {"key": "spot", "effect": "PreferNoSchedule"},
        ),
        slices={SLICE: 3},
    )

    node = read_pool(pool, POLICY)

    assert (node.name, node.labels, node.gpus) == ("future", {"zone": "a"}, {SLICE: 3})
    assert node.taints == (Taint("gpu", "yes", "NoSchedule"),)
    assert node.cpu_milli == 0
