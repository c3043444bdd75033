"""The process: everything put together, started in order, and taken down without losing a pod."""

import asyncio
import gc
import os
import signal
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import structlog

from extender.admission.review import Reviewer
from extender.cluster.client import ApiClient, connect
from extender.cluster.errors import ClusterError, KubeconfigError
from extender.cluster.lease import SchedulerLease
from extender.cluster.objects import (
    GpuNodeObject,
    LimitRangeObject,
    NamespaceObject,
    NodeObject,
    PodObject,
    ResourceQuotaObject,
)
from extender.cluster.state import State
from extender.cluster.watch import Resource, follow
from extender.core.policy import Policy
from extender.scheduling.verbs import Scheduling
from extender.server.audit import Audit
from extender.server.certificates import Schedule
from extender.server.configuration import ConfigMapSource, FileSource, Source
from extender.server.kept import kept
from extender.server.listen import LET_GO_S, LetGo, listening
from extender.server.memory import give_back
from extender.server.metrics import Metrics
from extender.server.mutual import mutual, wants_mutual
from extender.server.operations import OperationsThread, operations_app
from extender.server.reconciler import REWRITTEN, Reconciler
from extender.server.routes import Port, extender_port, webhook_port
from extender.server.self_managed import self_managed
from extender.server.settings import BAD_INPUT, UNREACHABLE, Settings, StartError
from extender.server.tls import Shown, certificate
from extender.server.traces import Traces, traces

log = structlog.get_logger(__name__)

NODES = Resource("nodes", "/api/v1/nodes", NodeObject)
PODS = Resource(
    "pods",
    "/api/v1/pods",
    PodObject,
    {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"},
)
NAMESPACES = Resource("namespaces", "/api/v1/namespaces", NamespaceObject)
QUOTAS = Resource("resourcequotas", "/api/v1/resourcequotas", ResourceQuotaObject)
LIMITS = Resource("limitranges", "/api/v1/limitranges", LimitRangeObject)
GPU_NODES = Resource("gpunodes", "/apis/migfit.io/v1alpha1/gpunodes", GpuNodeObject, optional=True)

STDOUT = 1
"""File descriptor of the audit."""
SYNC_POLL_S = 0.05
SYNC_PATIENCE_S = 60.0
"""A sync that takes longer may never end, as where a list is forbidden; and reviews come all the same."""
LET_GO_POLL_S = 0.1
SYNC_OBJECTS = 50_000
"""How many new objects the garbage collector waits for during the first lists; usually 700."""


async def serve(settings: Settings, certificates: Schedule | None = None) -> None:
    """Run until SIGTERM or SIGINT; a second one makes it hurry.

    Args:
        settings: the flags.
        certificates: how long those of our own making live.

    Raises:
        StartError: it could not be started.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def go() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, go)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connect(settings.kubeconfig))
        except ClusterError as error:
            code = BAD_INPUT if isinstance(error, KubeconfigError) else UNREACHABLE
            raise StartError(f"no way to the cluster: {error}", code) from None
        source = _source(settings, client, metrics)
        shows = bool(settings.webhook_port) or wants_mutual(settings)
        current = await source.first()
        server = Server(settings, metrics, current.policy)
        if shows and not (settings.tls_cert or settings.tls_key):
            make = self_managed if settings.webhook_port else kept
            made = make(settings, client, certificates or Schedule())
            await made.first()
            server.certificate = made
        metrics.observe(
            age_s=server.state.age_s,
            synced=lambda: server.state.synced,
            config_valid=lambda: current.valid,
            given_back_bytes=server.state.given_back_bytes,
        )
        server.also(source.follow(current, server.apply))
        lease = SchedulerLease(client, server.injected_scheduler, time.monotonic)
        server.state.scheduler_alive = lambda: lease.alive
        server.also(lease.follow())
        server.also(follow(client, NODES, server.state.nodes, meter=metrics))
        server.also(follow(client, PODS, server.state.pods, meter=metrics))
        tenants = server.state.tenants
        server.also(follow(client, NAMESPACES, tenants.namespaces, meter=metrics))
        server.also(follow(client, QUOTAS, tenants.quotas, meter=metrics))
        server.also(follow(client, LIMITS, tenants.limits, meter=metrics))
        own = client.namespace or (settings.configmap or ("", ""))[0]
        if own and settings.webhook_port:  # an extender by itself rewrites no pods to look after
            server.reconcile(client, own)
        elif not own:
            log.info("nothing is reconciled: no namespace of our own to keep a Lease in")
        gpu_nodes = server.state.gpu_nodes
        metrics.observe_agents(gpu_nodes.heard, gpu_nodes.silent)
        server.also(follow(client, GPU_NODES, gpu_nodes.held, meter=metrics))
        server.also(gpu_nodes.follow())
        await server.run(stop, hurry)


def _source(settings: Settings, client: ApiClient, metrics: Metrics) -> Source:
    own = client.namespace or ""
    if settings.config is not None and settings.configmap is not None:
        message = "--config and --configmap are both given; give the one that holds"
        raise StartError(message, BAD_INPUT)
    if settings.configmap is not None:
        namespace, name = settings.configmap
        return ConfigMapSource(client, namespace, name, own or namespace, metrics)
    if settings.config is None:
        message = "no configuration: give --config FILE or --configmap NAMESPACE/NAME"
        raise StartError(message, BAD_INPUT)
    return FileSource(settings.config, own)


class Server:
    """One process of migfit: its state, its ports, its tasks."""

    def __init__(self, settings: Settings, metrics: Metrics, policy: Policy) -> None:
        self._settings = settings
        self._metrics = metrics
        self._draining = False
        self._hurry = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self.certificate: Shown | None = None
        """What the webhook shows; the one from files unless set."""
        self._audit: Audit | None = None
        self._reconciler: Reconciler | None = None
        self.state = State(self._in_force(policy), time.monotonic)

    def _in_force(self, policy: Policy) -> Policy:
        """The policy, told whether our filter runs: without it the memory guard must do its work."""
        return policy if self._settings.extender_port else replace(policy, filter=False)

    def apply(self, policy: Policy) -> None:
        """Take a new configuration into force."""
        self.state.set_policy(self._in_force(policy))

    def injected_scheduler(self) -> str:
        """The scheduler that rewritten pods are handed to; empty for none."""
        return self.state.policy.inject.scheduler_name

    def also(self, job: Coroutine[Any, Any, Any]) -> None:
        """Run a job as long as the process; if it ends by itself, so does the process."""
        self._tasks.append(asyncio.create_task(job))

    def reconcile(self, client: ApiClient, namespace: str) -> None:
        """Look after pods beyond their creation, with Lease and holds in that namespace."""
        made = Reconciler(client, namespace, self.state, self._metrics, self._tell)
        self._reconciler = made
        self.also(follow(client, REWRITTEN, made.rewritten.pods, meter=self._metrics))
        self.also(follow(client, made.store.resource, made.holds, meter=self._metrics))
        self.also(made.leadership.follow())
        self.also(made.run())

    def _tell(self, fields: Mapping[str, Any]) -> None:
        if self._audit is not None:
            self._audit.line(fields)

    def unready(self) -> str | None:
        """Why no requests should come, in one line."""
        if self._draining:
            return "shutting down"
        if not self.state.synced:
            return "waiting for the first lists of the cluster"
        if self._reconciler is not None and not self._reconciler.knows:
            return "waiting for the list of workloads held back"
        return None if self.certificate is None else self.certificate.unready()

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event | None = None) -> None:
        """Serve until told to stop, then drain; also stop if one of the jobs fails.

        Args:
            stop: begin to go.
            hurry: wait for others to notice no longer.

        Raises:
            StartError: a port or the certificate cannot be had.
        """
        self._hurry = hurry or self._hurry
        async with AsyncExitStack() as stack:
            audit = self._audit = Audit(STDOUT, self._metrics.audit_dropped.inc)
            stack.callback(audit.close)
            spans = traces()
            if spans is not None:
                stack.callback(spans.close)
            stack.push_async_callback(self._cancel)
            ports = await self._open(stack, audit, spans)
            self.also(self._settle())
            log.info("serving", **ports)
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                await self._lame_duck()
                return
            stopped.cancel()
            for task in self._tasks:
                if task.done():
                    task.result()

    async def _open(
        self, stack: AsyncExitStack, audit: Audit, spans: Traces | None
    ) -> dict[str, int]:
        """Listen on every port asked for; the ports taken."""
        settings, ports = self._settings, {}
        if settings.ops_port:
            app = operations_app(self._metrics, self.unready)
            operations = OperationsThread(app, settings.bind, max(0, settings.ops_port))
            try:
                ports["ops_port"] = operations.start()
            except OSError as error:
                raise _cannot_listen(
                    "--ops-port", settings.bind, settings.ops_port, error
                ) from None
            stack.callback(operations.stop)
        asks = wants_mutual(settings)
        if settings.webhook_port or asks:
            if self.certificate is None:
                self.certificate = certificate(settings)
            self._metrics.observe_certificate(self.certificate.left_s)
            self.also(self.certificate.follow())
        if settings.webhook_port:
            assert self.certificate is not None  # noqa: S101  see above
            reviewer = Reviewer(
                snapshot=self.state.snapshot,
                policy=lambda: self.state.policy,
                reserve=self.state.reserve,
                clock=time.monotonic,
            )
            port = webhook_port(reviewer, audit, self._metrics, self._is_draining, spans)
            ports["webhook_port"] = await _listen(
                stack,
                port,
                settings.bind,
                settings.webhook_port,
                "--webhook-port",
                tls=self.certificate.context,
                let_go=self._let_go,
            )
        if settings.extender_port:
            scheduling = Scheduling(
                capacity=lambda: self.state.capacity,
                ranking=lambda: self.state.ranking,
                policy=lambda: self.state.policy,
            )
            tls = None
            if asks and self.certificate is not None:
                asking = mutual(settings, self.certificate)
                self.also(asking.follow())
                tls = asking.context
            port = extender_port(scheduling, self._metrics, self._is_draining, spans)
            ports["extender_port"] = await _listen(
                stack,
                port,
                settings.extender_bind,
                settings.extender_port,
                "--extender-port",
                tls=tls,
            )
        return ports

    def _is_draining(self) -> bool:
        return self._draining

    async def _settle(self) -> None:
        """Let the garbage collector look rarely until everything is listed, then at that no more.

        First lists make objects by the hundred thousand, all to stay: looking through them each time
        that some have come takes a fifth of the sync. So does clearing memory for one large page of a list
        after the other: none is given back until then, but soon in any case.
        """
        usual = gc.get_threshold()
        gc.set_threshold(SYNC_OBJECTS)
        soon = asyncio.get_running_loop().call_later(SYNC_PATIENCE_S, give_back)
        try:
            while not self.state.synced:  # noqa: ASYNC110  once in the life of a process
                await asyncio.sleep(SYNC_POLL_S)
        finally:
            soon.cancel()
            gc.set_threshold(*usual)
        gc.collect()
        gc.freeze()
        give_back()
        log.info("synced", nodes=len(self.state.capacity.index))
        await asyncio.Event().wait()

    async def _lame_duck(self) -> None:
        """Unready, but still answering: others need a moment to see that we are going."""
        self._draining = True
        log.info("shutting down", lame_duck_s=self._settings.lame_duck_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._settings.lame_duck_s)

    async def _let_go(self, connections: Callable[[], int]) -> None:
        """Go on answering on open connections until clients have closed them.

        A request that is on its way into a connection which we close is lost: the client cannot
        know whether it may send it again. So the client has to be the one who closes, and every
        answer asks it to.
        """
        if not self._draining or not self._settings.lame_duck_s:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LET_GO_S):
                while connections() and not self._hurry.is_set():  # noqa: ASYNC110  nobody tells us
                    await asyncio.sleep(LET_GO_POLL_S)

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _listen(
    stack: AsyncExitStack,
    serves: Port,
    bind: str,
    port: int,
    flag: str,
    *,
    tls: ssl.SSLContext | None = None,
    let_go: LetGo | None = None,
) -> int:
    at = max(0, port)
    listens = listening(serves.app, bind, at, tls=tls, at_once=serves.at_once, let_go=let_go)
    try:
        return await stack.enter_async_context(listens)
    except OSError as error:
        raise _cannot_listen(flag, bind, port, error) from None


def _cannot_listen(flag: str, bind: str, port: int, error: OSError) -> StartError:
    number = error.errno or 0  # negative for names that do not resolve
    why = os.strerror(number) if number > 0 else error.strerror or error
    message = f"{flag} {port}: cannot listen on {bind}: {why}; choose another port or address"
    return StartError(message, BAD_INPUT)
