import asyncio
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import aiohttp
import orjson
import pytest

from extender.demo.apiserver import merged, place
from extender.demo.cluster import Cluster
from extender.demo.pods import identified
from extender.demo.refusal import Refused
from extender.demo.store import NODES, PODS, Listener, Resource

PODS_PATH = "/api/v1/namespaces/default/pods"
GpuPod = Callable[..., dict[str, Any]]


async def call(
    cluster: Cluster, method: str, path: str, body: object = None, content_type: str = ""
) -> tuple[int, Any]:
    async with cluster.session.request(
        method,
        cluster.api.url + path,
        data=None if body is None else orjson.dumps(body),
        headers={"Content-Type": content_type or "application/json"},
        ssl=cluster.tls,
    ) as response:
        return response.status, orjson.loads(await response.read())


class Watching:
    """A watch over the wire, line by line."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self._response.content.readline(), 10)
        event: dict[str, Any] = orjson.loads(line)
        return event


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/nodes", (Resource("v1", "nodes"), "", "", "")),
        ("/api/v1/nodes/a/status", (Resource("v1", "nodes"), "", "a", "status")),
        ("/api/v1/namespaces", (Resource("v1", "namespaces"), "", "", "")),
        ("/api/v1/namespaces/x", (Resource("v1", "namespaces"), "", "x", "")),
        ("/api/v1/namespaces/x/status", (Resource("v1", "namespaces"), "", "x", "status")),
        ("/api/v1/namespaces/x/pods", (Resource("v1", "pods"), "x", "", "")),
        ("/api/v1/namespaces/x/pods/p", (Resource("v1", "pods"), "x", "p", "")),
        ("/apis/apps/v1/deployments", (Resource("apps/v1", "deployments"), "", "", "")),
    ],
)
def test_paths_are_read_as_the_api_server_reads_them(path: str, expected: tuple[Any, ...]) -> None:
    assert tuple(place(path)) == expected


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v2/pods", "/api/v1", "/api/v1/a/b/c/d", "/apis/x"]
)
def test_a_path_of_no_api_is_a_404(path: str) -> None:
    with pytest.raises(Refused) as refused:
        place(path)
    assert refused.value.code == 404


def test_a_merge_patch_follows_rfc_7386() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None, "e": 3}, "d": [2]}) == {
        "a": {"c": 2, "e": 3},
        "d": [2],
    }


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/resourcequotas",
        "/apis/apps/v1/deployments",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        "/apis/batch/v1/namespaces/default/jobs",
    ],
)
async def test_what_nobody_created_is_an_empty_list(cluster: Cluster, path: str) -> None:
    status, body = await call(cluster, "GET", path)
    assert status == 200
    assert body["kind"].endswith("List")
    assert (body["items"], int(body["metadata"]["resourceVersion"]) > 0) == ([], True)


async def test_a_list_in_pages_is_the_list_at_one_version(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    for number in range(7):
        await cluster.post(PODS_PATH, gpu_pod(f"p{number}"))
    _, page = await call(cluster, "GET", f"{PODS_PATH}?limit=3")
    version, names = page["metadata"]["resourceVersion"], []
    await cluster.post(PODS_PATH, gpu_pod("p9"))
    while True:
        names += [item["metadata"]["name"] for item in page["items"]]
        assert len(page["items"]) <= 3
        assert page["metadata"]["resourceVersion"] == version
        if not (token := page["metadata"].get("continue")):
            break
        _, page = await call(cluster, "GET", f"{PODS_PATH}?limit=3&continue={token}")
    assert names == [f"p{number}" for number in range(7)]


async def test_a_continue_token_that_is_not_known_is_a_410(cluster: Cluster) -> None:
    status, body = await call(cluster, "GET", "/api/v1/pods?continue=nonsense")
    assert (status, body["reason"]) == (410, "Expired")


async def test_a_watch_gets_every_change_and_a_bookmark_when_idle(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    _, listed = await call(cluster, "GET", "/api/v1/pods")
    since = listed["metadata"]["resourceVersion"]
    await cluster.post(PODS_PATH, gpu_pod("a"))
    url = f"{cluster.api.url}/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion={since}"
    async with cluster.session.get(url, ssl=cluster.tls) as response:
        watching = Watching(response)
        added = await watching.next()
        assert (added["type"], added["object"]["kind"]) == ("ADDED", "Pod")
        while (event := await watching.next())["type"] != "BOOKMARK":
            assert event["type"] == "MODIFIED"  # the scheduler says it found no node
        assert event["object"]["kind"] == "Pod"
        assert int(event["object"]["metadata"]["resourceVersion"]) == cluster.store.version
        await call(cluster, "DELETE", f"{PODS_PATH}/a")
        while (event := await watching.next())["type"] == "BOOKMARK":
            pass
        assert event["type"] == "DELETED"


async def test_a_watch_ends_when_its_time_is_over(cluster: Cluster) -> None:
    url = f"{cluster.api.url}/api/v1/nodes?watch=1&timeoutSeconds=1&resourceVersion=1"
    async with cluster.session.get(url, ssl=cluster.tls) as response:
        assert await asyncio.wait_for(response.read(), 10) == b""


async def test_a_watch_from_a_version_that_is_gone_says_410_in_the_stream(cluster: Cluster) -> None:
    cluster.store.compact()
    url = f"{cluster.api.url}/api/v1/pods?watch=1&resourceVersion=1"
    async with cluster.session.get(url, ssl=cluster.tls) as response:
        assert response.status == 200
        error = await Watching(response).next()
    assert (error["type"], error["object"]["code"]) == ("ERROR", 410)


async def test_a_client_that_leaves_ends_its_watch(
    cluster: Cluster, gpu_pod: GpuPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, unsubscribe = asyncio.Event(), cluster.store.unsubscribe

    def noted(listener: Listener) -> None:
        unsubscribe(listener)
        ended.set()

    monkeypatch.setattr(cluster.store, "unsubscribe", noted)
    await cluster.post(PODS_PATH, gpu_pod("a"))
    url = f"{cluster.api.url}/api/v1/pods?watch=1"
    async with cluster.session.get(url, ssl=cluster.tls) as response:
        assert (await Watching(response).next())["type"] == "ADDED"
        assert not ended.is_set()
        response.close()
    await asyncio.wait_for(ended.wait(), 10)


async def test_limits_become_requests_and_counts_become_text(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    status, body, _ = await cluster.post(PODS_PATH, gpu_pod("a"))
    assert status == 201
    assert body["spec"]["schedulerName"] == "default-scheduler"
    assert body["spec"]["containers"][0]["resources"] == {
        "limits": {"nvidia.com/gpu": "1"},
        "requests": {"nvidia.com/gpu": "1"},
    }
    assert body["metadata"]["uid"]
    assert body["status"]["phase"] == "Pending"


async def test_a_generated_name_is_made_of_its_prefix(cluster: Cluster, gpu_pod: GpuPod) -> None:
    pod = gpu_pod("")
    pod["metadata"] = {"generateName": "asr-"}
    names = {(await cluster.post(PODS_PATH, pod))[1]["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("asr-") and len(name) == 9 for name in names)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"requests": {"nvidia.com/gpu": 1}}, "Limit must be set"),
        ({"limits": {"nvidia.com/gpu": 2}, "requests": {"nvidia.com/gpu": 1}}, "must be equal to"),
        ({"limits": {"nvidia.com/gpu": "0.5"}}, "must be an integer"),
    ],
)
async def test_gpu_resources_that_kubernetes_refuses_are_a_422(
    cluster: Cluster, gpu_pod: GpuPod, resources: dict[str, Any], message: str
) -> None:
    pod = gpu_pod("a")
    pod["spec"]["containers"][0]["resources"] = resources
    status, body, _ = await cluster.post(PODS_PATH, pod)
    assert (status, message in body["message"]) == (422, True)


async def test_dry_run_answers_the_same_and_stores_nothing(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    status, body, _ = await cluster.post(f"{PODS_PATH}?dryRun=All", gpu_pod("a"))
    assert (status, body["metadata"]["name"]) == (201, "a")
    assert cluster.store.objects(PODS) == []


async def test_names_are_taken_once_and_namespaces_must_exist(
    cluster: Cluster, gpu_pod: GpuPod
) -> None:
    await cluster.post(PODS_PATH, gpu_pod("a"))
    assert (await cluster.post(PODS_PATH, gpu_pod("a")))[0] == 409
    status, body, _ = await cluster.post("/api/v1/namespaces/no/pods", gpu_pod("a"))
    assert (status, body["message"]) == (404, 'namespaces "no" not found')


async def test_a_merge_patch_changes_a_node_and_its_status(cluster: Cluster) -> None:
    node = {
        "metadata": {"name": "n", "labels": {"a": "1"}},
        "status": {"allocatable": {"cpu": "1"}},
    }
    await cluster.post("/api/v1/nodes", node)
    merge = "application/merge-patch+json"
    await call(
        cluster, "PATCH", "/api/v1/nodes/n", {"metadata": {"labels": {"a": None, "b": "2"}}}, merge
    )
    await call(
        cluster,
        "PATCH",
        "/api/v1/nodes/n/status",
        {"status": {"allocatable": {"cpu": "2"}}, "metadata": {"labels": {"c": "3"}}},
        merge,
    )
    stored = cluster.store.get(NODES, ("", "n"))
    assert stored["metadata"]["labels"] == {"b": "2"}
    assert stored["status"] == {"allocatable": {"cpu": "2"}}


async def test_a_patch_of_another_kind_is_a_415(cluster: Cluster) -> None:
    cluster.store.create(NODES, identified({"metadata": {"name": "n"}}, ""))
    status, _ = await call(cluster, "PATCH", "/api/v1/nodes/n", [], "application/json-patch+json")
    assert status == 415


async def test_a_deletion_keeps_its_preconditions(cluster: Cluster, gpu_pod: GpuPod) -> None:
    await cluster.post(PODS_PATH, gpu_pod("a"))
    wrong = {"preconditions": {"uid": "other"}}
    assert (await call(cluster, "DELETE", f"{PODS_PATH}/a", wrong))[0] == 409
    assert (await call(cluster, "DELETE", f"{PODS_PATH}/a"))[0] == 200
    assert (await call(cluster, "GET", f"{PODS_PATH}/a"))[0] == 404


async def test_a_binding_puts_the_pod_on_its_node_once(cluster: Cluster, gpu_pod: GpuPod) -> None:
    await cluster.post(PODS_PATH, gpu_pod("a"))
    target = {"target": {"name": "n"}}
    assert (await call(cluster, "POST", f"{PODS_PATH}/a/binding", target))[0] == 201
    assert (await call(cluster, "POST", f"{PODS_PATH}/a/binding", target))[0] == 409
    assert (await call(cluster, "GET", f"{PODS_PATH}/a"))[1]["spec"]["nodeName"] == "n"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", PODS_PATH, b"{", 400),
        ("POST", PODS_PATH, b"[]", 400),
        ("POST", PODS_PATH, b"{}", 400),
        ("POST", "/api/v1/pods", b'{"metadata":{"name":"a"}}', 400),
        ("POST", PODS_PATH, b" " * (4 << 20), 413),
        ("PUT", PODS_PATH, b"{}", 405),
        ("GET", "/api/v1/pods?limit=x", b"", 400),
        ("GET", "/api/v1/pods?watch=1&fieldSelector=x", b"", 400),
        ("GET", "/nonsense", b"", 404),
    ],
)
async def test_bad_requests_get_a_status_and_the_server_lives(
    cluster: Cluster, method: str, path: str, body: bytes, status: int
) -> None:
    async with cluster.session.request(
        method, cluster.api.url + path, data=BytesIO(body), ssl=cluster.tls
    ) as response:
        answer = json.loads(await response.read())
    assert (response.status, answer["kind"], answer["code"]) == (status, "Status", status)
    assert (await call(cluster, "GET", "/version"))[0] == 200


async def test_a_client_that_does_not_know_the_authority_is_not_served(cluster: Cluster) -> None:
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await cluster.session.get(f"{cluster.api.url}/healthz")
