from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.pod import (
    Ask,
    ContainerKind,
    annotations,
    containers,
    display_name,
    environment,
    extended_ask,
    gpu_ask,
    labels,
    owner,
    plain_ask,
    priority,
    total,
    workload,
)
from tests.build import GPU, JSON, changed, container, mig, pod, without

GIB = 1024**3
INIT, SIDECAR, REGULAR = ContainerKind.INIT, ContainerKind.SIDECAR, ContainerKind.REGULAR

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def sidecar(name: str = "proxy", gpu: object = None) -> JSON:
    return container(name, gpu, restartPolicy="Always")


# --- containers ----------------------------------------------------------------------------------


def test_init_containers_sidecars_and_containers_are_found_in_the_order_they_start() -> None:
    tree = pod(container(), initContainers=[container("fetch"), sidecar()])
    assert [(c.name, c.kind, c.pointer) for c in containers(tree)] == [
        ("fetch", INIT, "/spec/initContainers/0"),
        ("proxy", SIDECAR, "/spec/initContainers/1"),
        ("asr", REGULAR, "/spec/containers/0"),
    ]


def test_ephemeral_containers_ask_for_nothing() -> None:
    tree = pod(container(), ephemeralContainers=[container("debug")])
    assert [c.name for c in containers(tree)] == ["asr"]


def test_a_pointer_counts_what_is_no_container_too() -> None:
    tree = changed(pod(), "spec", "containers", to=[None, container()])
    assert [c.pointer for c in containers(tree)] == ["/spec/containers/1"]


@pytest.mark.parametrize(
    ("gpu", "count"),
    [("1", 1), (1, 1), ("0", 0), (0, 0), ("2", 2), ("1k", 1000), ("1e1", 10), ("1Ki", 1024)],
)
def test_a_count_is_read_as_kubernetes_reads_a_quantity(gpu: object, count: int) -> None:
    (held,) = containers(pod(container(gpu=gpu)))
    assert held.count(GPU) == count


@pytest.mark.parametrize("gpu", [None, "one", "", True, [], {"count": 1}, "1.5.1"])
def test_a_count_that_is_no_quantity_is_none_at_all(gpu: object) -> None:
    tree = changed(pod(), "spec", "containers", 0, "resources", "limits", GPU, to=gpu)
    assert containers(tree)[0].count(GPU) == 0


@pytest.mark.parametrize("gpu", ["500m", "0.5", 0.5, "1500m", "1.5", "1n"])
def test_a_part_of_a_gpu_which_the_api_server_refuses_is_none_at_all(gpu: object) -> None:
    assert containers(pod(container(gpu=gpu)))[0].count(GPU) == 0


def test_a_request_that_is_not_the_limit_which_the_api_server_refuses_is_none_at_all() -> None:
    where = ("spec", "containers", 0, "resources", "requests", GPU)
    for request, count in (("2", 0), ("500m", 0), ("1", 1), (1, 1), ("1000m", 1)):
        tree = changed(pod(container(gpu="1")), *where, to=request)
        assert containers(tree)[0].count(GPU) == count


@pytest.mark.parametrize("part", ["limits", "requests"])
def test_a_count_stands_in_limits_or_in_requests(part: str) -> None:
    (held,) = containers(without(pod(), "spec", "containers", 0, "resources", part))
    assert held.count(GPU) == 1


def test_mig_resources_are_counted_by_name_and_those_of_count_0_not_at_all() -> None:
    limits = {mig("1g.10gb"): "2", mig("2g.20gb"): "0", GPU: "1", "cpu": "4"}
    (held,) = containers(pod({"name": "asr", "resources": {"limits": limits}}))
    assert held.mig_counts() == {mig("1g.10gb"): 2}


def test_environment_is_what_is_written_out_and_references_are_empty() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {}}}, "junk"]
    (held,) = containers(pod(container(env=env)))
    assert list(environment(held)) == [("A", "1"), ("B", "")]


# --- what a pod asks of a node -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ([(REGULAR, 1), (REGULAR, 1)], 2),
        ([(INIT, 1), (REGULAR, 1)], 1),
        ([(INIT, 3), (REGULAR, 1)], 3),
        ([(INIT, 2), (INIT, 1)], 2),
        ([(SIDECAR, 1), (REGULAR, 1)], 2),
        ([(SIDECAR, 1), (INIT, 2), (REGULAR, 1)], 3),
        ([(INIT, 2), (SIDECAR, 1), (REGULAR, 1)], 2),
        ([(SIDECAR, 1), (INIT, 1), (SIDECAR, 1), (REGULAR, 2)], 4),
        ([], 0),
    ],
)
def test_a_pod_asks_for_its_sum_or_for_the_peak_while_it_starts(
    amounts: list[tuple[ContainerKind, int]], expected: int
) -> None:
    assert total(amounts) == expected


steps = st.lists(st.tuples(st.sampled_from([INIT, SIDECAR]), st.integers(0, 4)), max_size=5)


@given(steps, st.lists(st.integers(0, 4), max_size=4))
def test_the_total_is_the_most_that_runs_at_any_one_time(
    starting: list[tuple[ContainerKind, int]], running: list[int]
) -> None:
    most = sidecars = 0
    for kind, amount in starting:  # one after the other, sidecars staying
        most = max(most, sidecars + amount)
        if kind is SIDECAR:
            sidecars += amount
    most = max(most, sidecars + sum(running))
    assert total([*starting, *((REGULAR, amount) for amount in running)]) == most


def test_what_a_pod_asks_of_gpus_is_told_by_name() -> None:
    both = {"name": "b", "resources": {"limits": {mig("1g.10gb"): 1}}}
    tree = pod(container("a"), both, initContainers=[container("fetch"), sidecar("s", gpu=1)])
    assert gpu_ask(containers(tree), GPU) == {mig("1g.10gb"): 1, GPU: 2}
    assert extended_ask(containers(tree), GPU) == 2


def test_plain_resources_add_up_over_containers_with_their_overhead() -> None:
    tree = pod(
        container("a"),
        {"name": "b", "resources": {"requests": {"cpu": "500m", "ephemeral-storage": "1Gi"}}},
        initContainers=[{"name": "fetch", "resources": {"requests": {"memory": "64Gi"}}}],
        overhead={"cpu": "250m", "memory": "1Gi"},
    )
    assert plain_ask(tree, containers(tree), GPU) == Ask(2750, 65 * GIB, GIB)


def test_limits_stand_in_for_requests_that_are_missing() -> None:
    tree = without(pod(), "spec", "containers", 0, "resources", "requests")
    assert plain_ask(tree, containers(tree), GPU) == Ask(2000, 8 * GIB, 0)


def test_pod_level_resources_count_instead_of_the_containers() -> None:
    tree = pod(container("a"), container("b"), resources={"requests": {"cpu": "3"}})
    assert plain_ask(tree, containers(tree), GPU) == Ask(3000, 16 * GIB, 0)


@pytest.mark.parametrize("cpu", ["much", "-4", None, True])
def test_a_plain_amount_that_is_no_quantity_counts_nothing(cpu: object) -> None:
    tree = changed(pod(), "spec", "containers", 0, "resources", "requests", "cpu", to=cpu)
    assert plain_ask(tree, containers(tree), GPU) == Ask(0, 8 * GIB, 0)


# --- who the pod is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("ReplicaSet", "asr-5d4f8c7b9d", "Deployment/asr"),
        ("ReplicaSet", "other", "ReplicaSet/other"),
        ("StatefulSet", "asr", "StatefulSet/asr"),
        ("Job", "nightly-29412345", "CronJob/nightly"),
        ("Job", "nightly-1", "Job/nightly-1"),
        ("RayCluster", "ray", "RayCluster/ray"),
    ],
)
def test_the_workload_is_what_a_person_deployed(kind: str, name: str, expected: str) -> None:
    reference = {"kind": kind, "name": name, "controller": True}
    tree = changed(pod(), "metadata", "ownerReferences", to=[{"kind": "Node"}, reference])
    assert str(workload(tree)) == expected


def test_a_pod_without_a_controller_is_its_own_workload() -> None:
    tree = changed(pod(), "metadata", "ownerReferences", 0, "controller", to=False)
    assert owner(tree) == {}
    assert str(workload(tree)) == "Pod/asr-5d4f8c7b9d-"


def test_a_pod_is_called_by_its_name_or_else_by_generate_name() -> None:
    assert display_name(pod()) == "asr-5d4f8c7b9d-"
    assert display_name(changed(pod(), "metadata", "name", to="asr-0")) == "asr-0"


def test_priority_is_what_the_api_server_resolved() -> None:
    assert priority(pod(priority=100)) == 100
    assert priority(pod(priority=None)) == 0


@given(anything)
def test_accessors_take_any_json_for_any_part_of_a_pod(junk: Any) -> None:
    trees: list[Any] = [
        *({part: junk} for part in ("metadata", "spec")),
        *(
            changed(pod(), "metadata", part, to=junk)
            for part in ("labels", "annotations", "ownerReferences", "name", "generateName")
        ),
        *(
            changed(pod(), "spec", part, to=junk)
            for part in ("containers", "initContainers", "overhead", "resources", "priority")
        ),
        changed(pod(), "spec", "containers", to=[junk]),
        *(
            changed(pod(), "spec", "containers", 0, part, to=junk)
            for part in ("name", "resources", "env", "image")
        ),
        changed(pod(), "spec", "containers", 0, "resources", to={"limits": junk, "requests": junk}),
    ]
    for tree in trees:
        held = containers(tree)
        assert all(count > 0 for count in gpu_ask(held, GPU).values())
        assert plain_ask(tree, held, GPU).cpu_milli >= 0
        assert all(isinstance(each, str) for each in (*labels(tree), *annotations(tree).values()))
        assert all(isinstance(word, str) for c in held for pair in environment(c) for word in pair)
        assert str(workload(tree)).count("/") >= 1
        assert isinstance(priority(tree), int)


def test_devices_of_other_kinds_and_huge_pages_are_asked_of_the_node_too() -> None:
    tree = pod()
    asked = {GPU: "1", "rdma/ib": "2", "hugepages-2Mi": "64Mi", "nvidia.com/mig-1g.10gb": "1"}
    tree["spec"]["containers"][0]["resources"] = {"limits": asked, "requests": asked}
    found = plain_ask(tree, containers(tree), GPU)
    assert found.others == (("hugepages-2Mi", 64 << 20), ("rdma/ib", 2))
