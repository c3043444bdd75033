from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from extender.demo import admission
from extender.demo.cluster import Cluster
from extender.demo.process import free_ports
from extender.demo.store import PODS

PODS_PATH = "/api/v1/namespaces/default/pods"
GpuPod = Callable[..., dict[str, Any]]
Answer = Callable[[dict[str, Any]], Any]
Listen = Callable[[dict[str, Answer]], Awaitable[str]]
Allowing = Callable[..., Answer]

SWAP = [
    {"op": "remove", "path": f"/spec/containers/0/resources/{part}/nvidia.com~1gpu"}
    for part in ("limits", "requests")
] + [
    {
        "op": "add",
        "path": "/spec/containers/0/resources/limits/nvidia.com~1mig-2g.20gb",
        "value": "1",
    }
]


async def registered(cluster: Cluster, listen: Listen, answer: Answer) -> None:
    cluster.register(f"{await listen({'/mutate': answer})}/mutate")


async def test_the_patch_is_applied_and_defaults_are_filled_in_again(
    cluster: Cluster, listen: Listen, allowing: Allowing, gpu_pod: GpuPod
) -> None:
    await registered(cluster, listen, allowing(SWAP))
    status, body, _ = await cluster.post(PODS_PATH, gpu_pod("a"))
    assert status == 201
    assert body["spec"]["containers"][0]["resources"] == {
        "limits": {"nvidia.com/mig-2g.20gb": "1"},
        "requests": {"nvidia.com/mig-2g.20gb": "1"},
    }


async def test_the_webhook_sees_the_pod_with_defaults_and_without_identity(
    cluster: Cluster, listen: Listen, allowing: Allowing, gpu_pod: GpuPod
) -> None:
    seen: list[dict[str, Any]] = []

    def answer(review: dict[str, Any]) -> Any:
        seen.append(review)
        return allowing()(review)

    await registered(cluster, listen, answer)
    await cluster.post(f"{PODS_PATH}?dryRun=All", gpu_pod("a"))
    (review,) = seen
    request = review["request"]
    assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert (request["operation"], request["name"], request["namespace"]) == (
        "CREATE",
        "a",
        "default",
    )
    assert (request["dryRun"], request["oldObject"]) == (True, None)
    assert request["object"]["spec"]["containers"][0]["resources"]["requests"]
    assert "uid" not in request["object"]["metadata"]


async def test_warnings_reach_the_client_in_headers(
    cluster: Cluster, listen: Listen, allowing: Allowing, gpu_pod: GpuPod
) -> None:
    said = ['takes "2g.20gb"', "forged\r\nX-Header: 1"]
    await registered(cluster, listen, allowing(warnings=said))
    _, _, warnings = await cluster.post(PODS_PATH, gpu_pod("a"))
    assert warnings == ['299 - "takes \\"2g.20gb\\""']


async def test_audit_annotations_are_kept_by_pod(
    cluster: Cluster, listen: Listen, allowing: Allowing, gpu_pod: GpuPod
) -> None:
    await registered(cluster, listen, allowing(auditAnnotations={"decision": "x"}))
    await cluster.post(PODS_PATH, gpu_pod("a"))
    assert cluster.api.admitted["default", "a"].audit == {"decision": "x"}


def broken(_: dict[str, Any]) -> web.Response:
    return web.Response(status=500)


def another_uid(_: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "other", "allowed": True},
    }


def no_review(_: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Status"}


def half_a_patch(review: dict[str, Any]) -> dict[str, Any]:
    response = {"uid": review["request"]["uid"], "allowed": True, "patch": "W10="}
    return {**another_uid({}), "response": response}


@pytest.mark.parametrize("answer", [broken, another_uid, no_review, half_a_patch])
async def test_an_answer_that_is_none_leaves_the_pod_as_it_is(
    cluster: Cluster, listen: Listen, gpu_pod: GpuPod, answer: Answer
) -> None:
    await registered(cluster, listen, answer)
    status, body, _ = await cluster.post(PODS_PATH, gpu_pod("a"))
    assert status == 201
    assert "nvidia.com/gpu" in body["spec"]["containers"][0]["resources"]["limits"]
    assert cluster.api.admitted["default", "a"].failed_open


async def test_a_webhook_that_is_down_leaves_the_pod_as_it_is(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    (port,) = free_ports(1)
    cluster.register(f"https://127.0.0.1:{port}/mutate")
    assert (await cluster.post(PODS_PATH, gpu_pod("a")))[0] == 201
    assert cluster.api.admitted["default", "a"].failed_open


async def test_a_webhook_of_another_authority_is_not_trusted(
    cluster: Cluster, listen: Listen, allowing: Allowing, gpu_pod: GpuPod, tmp_path: Any
) -> None:
    base = await listen({"/mutate": allowing(SWAP)})
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    async with Cluster(other_folder) as other:
        other.register(f"{base}/mutate")
        _, body, _ = await other.post(PODS_PATH, gpu_pod("a"))
    assert "nvidia.com/gpu" in body["spec"]["containers"][0]["resources"]["limits"]
    assert "CERTIFICATE_VERIFY_FAILED" in other.api.admitted["default", "a"].failed_open


async def test_a_webhook_that_takes_too_long_leaves_the_pod_as_it_is(
    cluster: Cluster,
    listen: Listen,
    allowing: Allowing,
    gpu_pod: GpuPod,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "TIMEOUT_S", 0)
    await registered(cluster, listen, allowing(SWAP))
    await cluster.post(PODS_PATH, gpu_pod("a"))
    assert cluster.api.admitted["default", "a"].failed_open == "TimeoutError"


async def test_a_denial_is_a_403_and_no_pod(
    cluster: Cluster, listen: Listen, gpu_pod: GpuPod
) -> None:
    def deny(review: dict[str, Any]) -> dict[str, Any]:
        status = {"code": 403, "message": "exceeded quota"}
        response = {"uid": review["request"]["uid"], "allowed": False, "status": status}
        return {**another_uid({}), "response": response}

    await registered(cluster, listen, deny)
    status, body, _ = await cluster.post(PODS_PATH, gpu_pod("a"))
    assert (status, "exceeded quota" in body["message"]) == (403, True)
    assert cluster.store.objects(PODS) == []


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "remove", "path": "/spec/nothing"}],
        [{"op": "replace", "path": "/spec/containers", "value": []}],
    ],
)
async def test_a_patch_that_does_not_apply_is_a_500_as_in_the_real_one(
    cluster: Cluster,
    listen: Listen,
    allowing: Allowing,
    gpu_pod: GpuPod,
    patch: list[dict[str, Any]],
) -> None:
    await registered(cluster, listen, allowing(patch))
    status, body, _ = await cluster.post(PODS_PATH, gpu_pod("a"))
    assert (status, body["reason"]) == (500, "InternalError")
    assert cluster.store.objects(PODS) == []


async def test_a_patch_that_makes_an_invalid_pod_is_a_422(
    cluster: Cluster, listen: Listen, allowing: Allowing, gpu_pod: GpuPod
) -> None:
    half = [SWAP[0]]  # the old request stays without its limit
    await registered(cluster, listen, allowing(half))
    assert (await cluster.post(PODS_PATH, gpu_pod("a")))[0] == 422
