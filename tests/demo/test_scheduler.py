from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from extender.demo.cluster import Cluster
from extender.demo.hardware import cut, node_object, product_named
from extender.demo.kubelet import Kubelets, Spot
from extender.demo.store import NODES, PODS, key_of

PODS_PATH = "/api/v1/namespaces/default/pods"
SLICE = "nvidia.com/mig-3g.40gb"
GpuPod = Callable[..., dict[str, Any]]
Answer = Callable[[dict[str, Any]], Any]
Listen = Callable[[dict[str, Answer]], Awaitable[str]]


async def add_node(cluster: Cluster, name: str, **more: Any) -> None:
    """One whole A100 and one with two 3g.40gb."""
    product = product_named("A100-80GB")
    assert product
    gpus = [cut(name, 0, product, "whole"), cut(name, 1, product, ["3g.40gb", "3g.40gb"])]
    node = node_object(
        name,
        gpus,
        "NVIDIA-A100-SXM4-80GB",
        plain={"cpu": "8", "memory": "64Gi"},
        labels=more.pop("labels", {}),
        taints=more.pop("taints", ()),
    )
    node["spec"].update(more)
    assert (await cluster.post("/api/v1/nodes", node))[0] == 201


async def placed(cluster: Cluster, pod: dict[str, Any]) -> tuple[str, str]:
    """Where a new pod goes, or why it goes nowhere."""
    status, body, _ = await cluster.post(PODS_PATH, pod)
    assert status == 201, body
    await cluster.scheduler.settled()
    stored = cluster.store.get(PODS, ("default", pod["metadata"]["name"]))
    conditions = stored["status"].get("conditions", [{}])
    return stored["spec"].get("nodeName", ""), conditions[0].get("message", "")


async def test_a_pod_goes_where_its_resource_is_left_until_none_is(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    await add_node(cluster, "a")
    assert (await placed(cluster, gpu_pod("p1", SLICE)))[0] == "a"
    assert (await placed(cluster, gpu_pod("p2", SLICE)))[0] == "a"
    assert await placed(cluster, gpu_pod("p3", SLICE)) == (
        "",
        f"0/1 nodes are available: 1 Insufficient {SLICE}.",
    )


async def test_a_pending_pod_is_tried_again_when_another_goes(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    await add_node(cluster, "a")
    assert (await placed(cluster, gpu_pod("p1")))[0] == "a"
    assert (await placed(cluster, gpu_pod("p2")))[0] == ""
    cluster.store.delete(PODS, ("default", "p1"))
    await cluster.scheduler.settled()
    assert cluster.store.get(PODS, ("default", "p2"))["spec"]["nodeName"] == "a"


def using_cpu(pod: dict[str, Any]) -> dict[str, Any]:
    """LeastAllocated sees cpu and memory only."""
    pod["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "2", SLICE: 1}
    return pod


async def test_without_an_extender_pods_spread(cluster: Cluster, gpu_pod: GpuPod) -> None:
    for name in "ab":
        await add_node(cluster, name)
    pods = [using_cpu(gpu_pod(f"p{n}", SLICE)) for n in range(4)]
    assert [(await placed(cluster, pod))[0] for pod in pods] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("node", "spec"),
    [
        ({"unschedulable": True}, {}),
        ({"taints": [{"key": "x", "value": "y", "effect": "NoSchedule"}]}, {}),
        ({"labels": {"zone": "1"}}, {"nodeSelector": {"zone": "2"}}),
    ],
)
async def test_a_node_the_pod_may_not_land_on_is_passed_over(
    cluster: Cluster, gpu_pod: GpuPod, node: dict[str, Any], spec: dict[str, Any]
) -> None:
    await add_node(cluster, "a", **node)
    where, why = await placed(cluster, gpu_pod("p", **spec))
    assert (where, "didn't match" in why) == ("", True)


async def test_cpu_and_pod_slots_count_too(cluster: Cluster, gpu_pod: GpuPod) -> None:
    await add_node(cluster, "a")
    pod = gpu_pod("p", SLICE)
    pod["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "9", SLICE: 1}
    assert "Insufficient cpu" in (await placed(cluster, pod))[1]
    node = cluster.store.get(NODES, ("", "a"))
    status = {**node["status"], "allocatable": {**node["status"]["allocatable"], "pods": "0"}}
    cluster.store.replace(NODES, ("", "a"), {**node, "status": status})
    assert "Too many pods" in (await placed(cluster, gpu_pod("q", SLICE)))[1]


async def test_pods_of_other_schedulers_and_gated_ones_are_left_alone(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    await add_node(cluster, "a")
    assert await placed(cluster, gpu_pod("p", schedulerName="volcano")) == ("", "")
    gates = [{"name": "wait"}]
    assert await placed(cluster, gpu_pod("q", schedulingGates=gates)) == ("", "")


async def with_extender(
    cluster: Cluster, listen: Listen, filtered: Answer, prioritized: Answer
) -> None:
    base = await listen({"/scheduler/filter": filtered, "/scheduler/prioritize": prioritized})
    cluster.register("https://127.0.0.1:1/mutate", f"{base}/scheduler")


def all_pass(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"NodeNames": arguments["NodeNames"], "FailedNodes": {}, "Error": ""}


def prefer_b(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"Host": name, "Score": 10 if name == "b" else 0} for name in arguments["NodeNames"]]


async def test_the_extenders_score_beats_the_default_one(
    cluster: Cluster, listen: Listen, gpu_pod: GpuPod
) -> None:
    seen: list[dict[str, Any]] = []

    def noted(arguments: dict[str, Any]) -> Any:
        seen.append(arguments)
        return prefer_b(arguments)

    for name in "abc":
        await add_node(cluster, name)
    await with_extender(cluster, listen, all_pass, noted)
    pods = [using_cpu(gpu_pod(f"p{n}", SLICE)) for n in range(2)]
    assert [(await placed(cluster, pod))[0] for pod in pods] == ["b", "b"]
    first = seen[0]
    assert set(first) == {"Pod", "Nodes", "NodeNames"}
    assert (first["Nodes"], first["NodeNames"]) == (None, ["a", "b", "c"])
    assert "kind" not in first["Pod"]
    assert first["Pod"]["metadata"]["name"] == "p0"


async def test_the_extender_is_not_asked_about_pods_without_gpus_or_about_one_node(
    cluster: Cluster, listen: Listen, gpu_pod: GpuPod
) -> None:
    asked: list[str] = []

    def filtered(arguments: dict[str, Any]) -> Any:
        asked.append("filter")
        return all_pass(arguments)

    def prioritized(arguments: dict[str, Any]) -> Any:
        asked.append("prioritize")
        return prefer_b(arguments)

    await add_node(cluster, "a")
    await with_extender(cluster, listen, filtered, prioritized)
    await placed(cluster, gpu_pod("web", "cpu"))
    assert asked == []
    await placed(cluster, gpu_pod("p", SLICE))
    assert asked == ["filter"]


async def test_a_node_the_extender_refuses_is_not_taken_and_its_reason_is_told(
    cluster: Cluster, listen: Listen, gpu_pod: GpuPod
) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        why = "node is being reconfigured"
        return {"NodeNames": [], "FailedAndUnresolvableNodes": {"a": why}, "Error": ""}

    await add_node(cluster, "a")
    await with_extender(cluster, listen, refuse, prefer_b)
    where, why = await placed(cluster, gpu_pod("p", SLICE))
    assert (where, why) == ("", "0/1 nodes are available: 1 node is being reconfigured.")


def crash(_: dict[str, Any]) -> web.Response:
    return web.Response(status=500)


def stranger(_: dict[str, Any]) -> dict[str, Any]:
    return {"NodeNames": ["elsewhere"]}


def an_error(_: dict[str, Any]) -> dict[str, Any]:
    return {"NodeNames": [], "Error": "no"}


def a_fraction(_: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"Host": "b", "Score": 7.5}]


@pytest.mark.parametrize(
    ("filtered", "prioritized"),
    [(crash, crash), (stranger, prefer_b), (an_error, prefer_b), (all_pass, a_fraction)],
)
async def test_an_extender_that_fails_is_ignored(
    cluster: Cluster, listen: Listen, gpu_pod: GpuPod, filtered: Answer, prioritized: Answer
) -> None:
    for name in "ab":
        await add_node(cluster, name)
    await with_extender(cluster, listen, filtered, prioritized)
    assert (await placed(cluster, gpu_pod("p", SLICE)))[0] in ("a", "b")
    assert cluster.scheduler.extender
    assert cluster.scheduler.extender.errors


async def test_each_pod_gets_the_first_free_piece_and_gives_it_back(
    tmp_path: Any, gpu_pod: GpuPod
) -> None:
    product = product_named("A100-80GB")
    assert product
    gpus = [
        cut("a", 0, product, ["3g.40gb", "3g.40gb"]),
        cut("a", 1, product, "whole"),
        cut("a", 2, product, "whole"),
    ]
    async with Cluster(tmp_path, gpus=gpus) as cluster:
        node = node_object(
            "a", gpus, "NVIDIA-A100-80GB", plain={"cpu": "8", "memory": "64Gi"}, labels={}
        )
        await cluster.post("/api/v1/nodes", node)
        for name, resource, count in (
            ("s1", SLICE, 1),
            ("s2", SLICE, 1),
            ("w", "nvidia.com/gpu", 2),
        ):
            await placed(cluster, gpu_pod(name, resource, count))
        kubelets: Kubelets = cluster.kubelets
        assert {spot: key[1] for spot, key in kubelets.held.items()} == {
            Spot("a", 0, 0): "s1",
            Spot("a", 0, 1): "s2",
            Spot("a", 1, 0): "w",
            Spot("a", 2, 0): "w",
        }
        done = cluster.store.get(PODS, ("default", "w"))
        cluster.store.replace(PODS, key_of(done), {**done, "status": {"phase": "Succeeded"}})
        cluster.store.delete(PODS, ("default", "s1"))
        assert list(kubelets.held) == [Spot("a", 0, 1)]
        await placed(cluster, gpu_pod("s3", SLICE))
        assert kubelets.held[Spot("a", 0, 0)] == ("default", "s3")
