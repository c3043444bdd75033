"""Parts that the demo's tests share: certificates, a cluster, a webhook and an extender to play with."""

import asyncio
import base64
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from extender.demo.cluster import Cluster

Answer = Callable[[dict[str, Any]], Any]
Listen = Callable[[dict[str, Answer]], Awaitable[str]]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, bookmark_s=0.05) as running:
        yield running


@pytest.fixture
async def listen(cluster: Cluster) -> AsyncIterator[Listen]:
    """Serve JSON answers by path, over TLS when the path is `/mutate`; returns the base URL.

    An answer that is a `web.Response` is sent as it is; one that raises is a 500.
    """
    async with AsyncExitStack() as stack:

        async def start(answers: dict[str, Answer]) -> str:
            async def answer(request: web.Request) -> web.Response:
                made = answers[request.path](await request.json())
                return made if isinstance(made, web.Response) else web.json_response(made)

            app = web.Application()
            for path in answers:
                app.router.add_post(path, answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            secure = "/mutate" in answers
            context = cluster.certificate.server_context() if secure else None
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            return f"http{'s' if secure else ''}://127.0.0.1:{runner.addresses[0][1]}"

        yield start


@pytest.fixture
def allowing() -> Callable[..., Answer]:
    """A webhook that allows, with a patch and more fields of the response."""

    def make(patch: list[dict[str, Any]] | None = None, **more: Any) -> Answer:
        def answer(review: dict[str, Any]) -> dict[str, Any]:
            response: dict[str, Any] = {"uid": review["request"]["uid"], "allowed": True, **more}
            if patch is not None:
                response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
                response["patchType"] = "JSONPatch"
            return {
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "response": response,
            }

        return answer

    return make


@pytest.fixture
def gpu_pod() -> Callable[..., dict[str, Any]]:
    """A pod that asks for GPUs, or for something else."""

    def make(name: str, resource: str = "nvidia.com/gpu", count: int = 1, **spec: Any) -> Any:
        container = {"name": "main", "image": "x", "resources": {"limits": {resource: count}}}
        return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}

    return make


@pytest.fixture
def curl() -> Callable[[list[str]], Awaitable[str]]:
    """What a curl command prints; where there is no curl, what the same request by us would."""

    async def run(words: list[str]) -> str:
        if shutil.which(words[0]):
            running = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
            out, _ = await running.communicate()
            assert running.returncode == 0
            return out.decode()
        given = dict(pairwise(words))
        body, tls = given.get("-d"), ssl.create_default_context(cafile=given["--cacert"])
        method = given.get("-X", "POST" if body else "GET")
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, words[-1], data=body, headers=headers, ssl=tls) as response,
        ):
            head = f"HTTP/1.1 {response.status} {response.reason}\r\n\r\n" if "-i" in words else ""
            return head + await response.text()

    return run
