"""Traces by OpenTelemetry, for who wants them: a span for each review and each call of a scheduler.

A span is made after the answer, by a thread of its own: no pod waits for it. Unless the environment
names a collector nothing of it is imported, and the handlers are those that they would be without.
"""

import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import NamedTuple, TypeVar

import structlog

from extender.core.render import metric_labels
from extender.server.at_once import Answered

A = TypeVar("A", bound=Answered | None)

log = structlog.get_logger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Variable with the URL of a collector; OpenTelemetry's own, as all others that count then."""
QUEUE_SPANS = 2048
"""That may wait for the thread; more are given up, as by OpenTelemetry's queue behind it."""
LONGEST_ID = 64
"""Characters. The API server's are 36; somebody else may send any."""


class Spent(NamedTuple):
    """What a span is made of. Times in nanoseconds since the epoch."""

    verb: str
    begun_ns: int
    ended_ns: int
    attributes: Mapping[str, str | bool]


class Traces:
    """Takes what was answered, and makes spans of it when it can.

    Args:
        make: a span, which must not wait for anybody either.
        shut_down: send what has been made, when the process goes.
        most: that may wait.
    """

    def __init__(
        self,
        make: Callable[[Spent], None],
        shut_down: Callable[[], None],
        most: int = QUEUE_SPANS,
    ) -> None:
        self._make, self._shut_down, self._most = make, shut_down, most
        self._queue: queue.SimpleQueue[Spent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def of(self, verb: str, handler: Callable[[bytes], A]) -> Callable[[bytes], A]:
        """The handler, with a span of the verb for each answer that it gives."""

        def traced(body: bytes) -> A:
            begun_ns = time.time_ns()
            answered = handler(body)
            if answered is not None:
                self._answered(verb, begun_ns, answered)
            return answered

        return traced

    def awaited(
        self, verb: str, handler: Callable[[bytes], Awaitable[Answered]]
    ) -> Callable[[bytes], Awaitable[Answered]]:
        """The same of one that may wait."""

        async def traced(body: bytes) -> Answered:
            begun_ns = time.time_ns()
            answered = await handler(body)
            self._answered(verb, begun_ns, answered)
            return answered

        return traced

    def _answered(self, verb: str, begun_ns: int, answered: Answered) -> None:
        if self._queue.qsize() < self._most:
            self._queue.put(Spent(verb, begun_ns, time.time_ns(), _attributes(verb, answered)))

    def _run(self) -> None:
        while (spent := self._queue.get()) is not None:
            try:
                self._make(spent)
            except Exception:  # the thread must live
                log.exception("span could not be made")
        self._shut_down()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits, but not for longer than the time-out: the collector may be gone."""
        self._queue.put(None)
        self._thread.join(timeout_s)


def _attributes(verb: str, answered: Answered) -> Mapping[str, str | bool]:
    """Short ones only: of what a tenant writes there is at most an id."""
    told: dict[str, str | bool] = {"migfit.verb": verb}
    if (decision := answered.decision) is not None:
        told |= {f"migfit.{key}": value for key, value in metric_labels(decision).items()}
        told |= {"migfit.id": decision.id[:LONGEST_ID], "migfit.dry_run": answered.dry_run}
    return told


def traces(environ: Mapping[str, str] = os.environ) -> Traces | None:
    """What sends spans to the collector that the environment names.

    None if it names none, or if it cannot be done: that is no reason not to serve, and logged.
    """
    if not environ.get(ENDPOINT):
        return None
    try:
        return _by_opentelemetry(environ)
    except ImportError as error:
        log.warning(
            "no traces: OpenTelemetry is not installed; install migfit[otel], or unset the variable",
            variable=ENDPOINT,
            missing=error.name,
        )
    except Exception as error:  # noqa: BLE001  a variable of OpenTelemetry's that makes no sense
        log.warning("no traces: OpenTelemetry refuses its variables", error=str(error))
    return None


def _by_opentelemetry(environ: Mapping[str, str]) -> Traces:
    from opentelemetry.context import Context  # noqa: PLC0415  an extra, and heavy
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    ours = {"service.version": version("migfit")} | ({} if named else {"service.name": "migfit"})
    provider = TracerProvider(resource=Resource.create(ours), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("migfit", version("migfit"))

    def make(spent: Spent) -> None:
        tracer.start_span(
            f"POST {spent.verb}",
            context=Context(),
            kind=SpanKind.SERVER,
            attributes=spent.attributes,
            start_time=spent.begun_ns,
        ).end(spent.ended_ns)

    return Traces(make, provider.shutdown)
