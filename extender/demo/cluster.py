"""The embedded cluster: API server, scheduler and kubelets on one event loop, in memory."""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import yaml

from extender.demo.admission import Webhook
from extender.demo.apiserver import ApiServer
from extender.demo.certificate import make_certificate
from extender.demo.extender import Extender
from extender.demo.hardware import Gpu
from extender.demo.kubelet import Kubelets
from extender.demo.pods import identified
from extender.demo.scheduler import Scheduler
from extender.demo.store import NAMESPACES, NODES, Object, Store


class Cluster:
    """A cluster that lives as long as its `async with`.

    Args:
        folder: for certificates and kubeconfig; private to this cluster.
        nodes: Node objects to begin with.
        gpus: what their GPUs are cut into, for who wants to see who holds what.
        namespaces: besides `default` and `kube-system`.
        bookmark_s: how often an idle watch gets a bookmark.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: Iterable[Object] = (),
        gpus: Iterable[Gpu] = (),
        namespaces: Iterable[str] = (),
        bookmark_s: float = 10.0,
    ) -> None:
        self.folder = folder
        self.certificate = make_certificate(folder)
        self.tls = self.certificate.client_context()
        """Trusts what this cluster shows, and nothing else."""
        self.store = Store()
        self.kubelets = Kubelets(gpus)
        self.api = ApiServer(self.store, self.certificate, bookmark_s=bookmark_s)
        self._stack = contextlib.AsyncExitStack()
        self.store.subscribe(self.kubelets.take)
        for name in ("default", "kube-system", *namespaces):
            if ("", name) not in {
                ("", n["metadata"]["name"]) for n in self.store.objects(NAMESPACES)
            }:
                self.store.create(NAMESPACES, _namespace(name))
        for node in nodes:
            self.store.create(NODES, identified(node, ""))

    async def __aenter__(self) -> Self:
        """Listen, and begin to schedule."""
        async with contextlib.AsyncExitStack() as stack:
            self.session = await stack.enter_async_context(aiohttp.ClientSession())
            self.scheduler = Scheduler(self.store, self.api.bind)
            self.store.subscribe(self.scheduler.take)
            stack.push_async_callback(self.api.stop)
            await self.api.start()
            scheduling = asyncio.create_task(self.scheduler.run(), name="scheduler")
            stack.push_async_callback(_cancelled, scheduling)
            self.kubeconfig = self._write_kubeconfig()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all of it."""
        await self._stack.aclose()

    def register(self, webhook_url: str, extender_url: str = "") -> None:
        """Have every new pod reviewed, and every pod with a GPU scored.

        Args:
            webhook_url: `https://…/mutate`, where a leaf of this cluster's CA is shown.
            extender_url: `http://…/scheduler`; empty for none.
        """
        self.api.webhook = Webhook(self.session, webhook_url, self.tls)
        if extender_url:
            self.scheduler.extender = Extender(self.session, extender_url)

    async def post(self, path: str, item: Object) -> tuple[int, dict[str, Any], list[str]]:
        """Create an object over HTTPS: status, body, and the warnings that kubectl would print."""
        async with self.session.post(
            f"{self.api.url}{path}",
            data=orjson.dumps(item),
            headers={"Content-Type": "application/json"},
            ssl=self.tls,
        ) as response:
            body = orjson.loads(await response.read())
            return response.status, body, response.headers.getall("Warning", [])

    def _write_kubeconfig(self) -> Path:
        entry = {"server": self.api.url, "certificate-authority": str(self.certificate.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "demo", "cluster": entry}],
            "users": [{"name": "demo", "user": {}}],
            "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
            "current-context": "demo",
        }
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path


async def _cancelled(task: asyncio.Task[None]) -> None:
    """End a task; what it died of before, if anything, is raised here."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _namespace(name: str) -> Object:
    labels = {"kubernetes.io/metadata.name": name}
    meta = {"name": name, "labels": labels}
    return identified({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}, "")
