"""One run of a scenario: a cluster, with or without migfit beside it, and the pods created in it."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from extender.core.quantity import QuantityError, footprint_bytes
from extender.demo.cluster import Cluster
from extender.demo.hardware import GPU_RESOURCE, Gpu, cut, node_object, product_label, product_named
from extender.demo.loading import config_text
from extender.demo.outcome import PodOutcome, Run
from extender.demo.process import Server
from extender.demo.refusal import Refused
from extender.demo.scenario import Node, Pod, Scenario
from extender.demo.store import PODS, Key

FOOTPRINT_ANNOTATION = "migfit.io/gpu-memory"

_CREATED = 201


def gpus_of(node: Node) -> list[Gpu]:
    """The node's GPUs, cut as the scenario says."""
    product = product_named(node.product)
    if product is None:
        raise ValueError(f"{node.product} is no product we know")  # the loader has seen to it
    return [cut(node.name, index, product, layout) for index, layout in enumerate(node.gpus)]


def manifest(pod: Pod, name: str) -> dict[str, Any]:
    """What somebody would `kubectl create`: asks for whole GPUs, knows nothing of slices."""
    resources = {
        "requests": {"cpu": pod.cpu, "memory": pod.memory},
        "limits": {GPU_RESOURCE: str(pod.gpus)},
    }
    container = {"name": "main", "image": pod.image, "resources": resources}
    spec: dict[str, Any] = {"containers": [container]}
    if pod.node_selector:
        spec["nodeSelector"] = pod.node_selector
    if pod.tolerations:
        spec["tolerations"] = pod.tolerations
    meta = {"name": name, "annotations": pod.annotations, "labels": pod.labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def in_order(pods: Sequence[Pod]) -> Iterator[tuple[Pod, str, str]]:
    """Every single pod, first to last: the entry, its own name and title."""
    for pod in sorted(pods, key=lambda pod: pod.order):
        title = pod.title or pod.name
        if pod.count == 1:
            yield pod, pod.name, title
        for number in range(1, pod.count + 1) if pod.count > 1 else ():
            yield pod, f"{pod.name}-{number}", f"{title} {number}"


class Stage:
    """A cluster, and migfit where it is wanted. Leaves nothing behind.

    Args:
        scenario: the script.
        name: of the layout.
        nodes: the nodes, with the GPUs as this run has them.
        migfit: whether the production server is started and asked.
        command: what to start instead of `migfit serve`.
    """

    def __init__(
        self,
        scenario: Scenario,
        name: str,
        nodes: Sequence[Node],
        *,
        migfit: bool,
        command: tuple[str, ...] = (),
    ) -> None:
        self.scenario = scenario
        self.name = name
        self.nodes = nodes
        self.gpus = [gpu for node in nodes for gpu in gpus_of(node)]
        self.server: Server | None = None
        self.outcomes: list[PodOutcome] = []
        self._migfit = migfit
        self._command = command
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the cluster, then the server.

        Raises:
            ServerFailedError: the server did not start.
        """
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="migfit-demo-")))
            config = folder / "config.yaml"
            config.write_text(config_text(self.scenario), encoding="utf-8")
            nodes = [
                node_object(
                    node.name,
                    [gpu for gpu in self.gpus if gpu.node == node.name],
                    product_label(node.product),
                    plain={"cpu": node.cpu, "memory": node.memory},
                    labels=node.labels,
                    taints=node.taints,
                )
                for node in self.nodes
            ]
            self.cluster = Cluster(
                folder,
                nodes=nodes,
                gpus=self.gpus,
                namespaces=[pod.namespace for pod in self.scenario.pods],
            )
            await stack.enter_async_context(self.cluster)
            if self._migfit:
                server = Server(config, self.cluster.certificate, command=self._command)
                await server.start(self.cluster.kubeconfig)
                stack.push_async_callback(server.stop)
                self.cluster.register(server.webhook_url, server.extender_url)
                self.server = server
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the server, then the cluster; delete the files."""
        await self._stack.aclose()

    async def play(self) -> Run:
        """Create the pods of the scenario, one after the other.

        Raises:
            ServerFailedError: the server ended meanwhile.
        """
        for pod, name, title in in_order(self.scenario.pods):
            await self.create(pod, name, title)
        return self.run()

    async def create(self, pod: Pod, name: str, title: str) -> None:
        """Create one pod over HTTPS, wait until it is scheduled or cannot be, and note it."""
        path = f"/api/v1/namespaces/{pod.namespace}/pods"
        status, body, warnings = await self.cluster.post(path, manifest(pod, name))
        if status != _CREATED:
            refused = PodOutcome(
                name=name,
                title=title,
                namespace=pod.namespace,
                footprint_bytes=pod.footprint_bytes,
                problem=str(body.get("message", f"status {status}")),
            )
            self.outcomes.append(refused)
            return
        texts = tuple(warning.partition('"')[2].removesuffix('"') for warning in warnings)
        await self.note((pod.namespace, name), title, pod.footprint_bytes, texts)

    async def note(
        self,
        key: Key,
        title: str,
        footprint: int | None,
        warnings: tuple[str, ...] = (),
    ) -> PodOutcome:
        """Take down what became of a pod that was created, with the server's own word for it."""
        await self.cluster.scheduler.settled()
        decision: dict[str, Any] = {}
        problem = ""
        review = self.cluster.api.admitted.get(key)
        if review and review.failed_open:
            problem = f"the webhook did not answer ({review.failed_open}); created as it came"
        elif review and self.server:
            decision = await self.server.decision(review.uid)
        outcome = PodOutcome(
            name=key[1],
            title=title,
            namespace=key[0],
            footprint_bytes=footprint,
            decision=decision,
            problem=problem,
            warnings=warnings,
        )
        self.outcomes.append(outcome)
        return self._now(outcome)

    def run(self) -> Run:
        """What there is to see now."""
        held = {spot: key[1] for spot, key in self.cluster.kubelets.held.items()}
        extender = self.cluster.scheduler.extender
        errors = tuple(dict.fromkeys(extender.errors)) if extender else ()
        pods = tuple(map(self._now, self.outcomes))
        return Run(self.name, tuple(self.gpus), held, pods, errors)

    def _now(self, outcome: PodOutcome) -> PodOutcome:
        """The outcome with where the pod is by now, or why it is nowhere."""
        try:
            pod = self.cluster.store.get(PODS, (outcome.namespace, outcome.name))
        except Refused:
            return outcome  # it was never created, or is gone
        if node := pod["spec"].get("nodeName"):
            return replace(outcome, node=node)
        conditions = pod["status"].get("conditions", [])
        why = "pending: " + " ".join(c.get("message", "") for c in conditions)
        return replace(outcome, problem="; ".join(filter(None, [outcome.problem, why])))


def declared_footprint(pod: Mapping[str, Any]) -> int | None:
    """What a pod that somebody sent by hand says it uses; None if it does not."""
    said = (pod["metadata"].get("annotations") or {}).get(FOOTPRINT_ANNOTATION)
    with contextlib.suppress(QuantityError):
        return footprint_bytes(said) if said is not None else None
    return None
