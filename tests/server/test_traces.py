"""Traces: spans of real requests at a real collector's port, and nothing at all without one."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from extender.core.decision import Decision
from extender.core.policy import Mode
from extender.core.reason import Action, Reason
from extender.server.at_once import Answered
from extender.server.routes import _traced
from extender.server.traces import ENDPOINT, LONGEST_ID, Spent, Traces, traces
from tests.server.serving import GPU, HOST, SLICE, Serving, gpu_pod, review_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server.conftest import Start
    from tests.server.serving import JSON

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
"""Milliseconds between two exports; 5 s by default."""


class Span(NamedTuple):
    """Of one that came: what a test looks at."""

    name: str
    service: str
    attributes: dict[str, str | bool]
    duration_ns: int


class _Taking(BaseHTTPRequestHandler):
    take: Callable[[ExportTraceServiceRequest], None]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        found = self.path == "/v1/traces"
        if found:
            self.take(ExportTraceServiceRequest.FromString(body))
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        handler = type("Taking", (_Taking,), {"take": staticmethod(self._take)})
        self._server = ThreadingHTTPServer((HOST, 0), handler)
        self.url = f"http://{HOST}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _take(self, sent: ExportTraceServiceRequest) -> None:
        for resource in sent.resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                told = {
                    each.key: getattr(each.value, str(each.value.WhichOneof("value")))
                    for each in span.attributes
                }
                lasted_ns = span.end_time_unix_nano - span.start_time_unix_nano
                self.spans.append(Span(span.name, about["service.name"], told, lasted_ns))

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.stop()


@pytest.fixture
def traced(start: Start, collector: Collector) -> Serving:
    """A server that sends spans to the collector."""
    return start(environ={ENDPOINT: collector.url, **SOON}).wait_ready()


def args(pod: JSON) -> bytes:
    return json.dumps({"Pod": pod, "Nodes": None, "NodeNames": ["gpu-1"]}).encode()


def too_large() -> JSON:
    """A rewritten pod that needs more than its slice has on the only node."""
    pod = gpu_pod(labels={"migfit.io/rewritten": "true"}, annotations={"migfit.io/need": "30Gi"})
    pod["spec"]["containers"][0]["resources"] = {"limits": {SLICE: "1"}}
    return pod


def both_ways(serving: Serving, port: str, path: str, body: bytes) -> None:
    """Ask ahead of the app, and then through it."""
    with serving.wire(port) as wire:
        # The first request of a connection may come before anybody waits for one.
        wire.ask("POST", path, b"nonsense")
        quick = wire.ask("POST", path, body)
        slow = wire.ask("POST", path, body, Connection="close")
    assert (quick.status, slow.status) == (200, 200)


def test_each_review_is_a_span_with_what_was_decided_whoever_answered_it(
    traced: Serving, collector: Collector
) -> None:
    both_ways(traced, "webhook", "/mutate", review_of(uid="a-review"))
    traced.review(review_of(gpu_pod("b"), uid="dry", dry_run=True))

    assert traced.stop() == 0  # what waits is sent first

    told = {"migfit.verb": "/mutate", "migfit.action": "rewritten", "migfit.reason": "Fits"}
    told |= {"migfit.profile": "2g.20gb"}
    assert [span.attributes for span in collector.spans] == [
        told | {"migfit.id": "a-review", "migfit.dry_run": False},
        told | {"migfit.id": "a-review", "migfit.dry_run": False},
        told | {"migfit.id": "dry", "migfit.dry_run": True},
    ]
    assert {(span.name, span.service) for span in collector.spans} == {("POST /mutate", "migfit")}
    assert all(span.duration_ns > 0 for span in collector.spans)


def test_each_call_of_a_scheduler_is_one_span_also_where_no_node_is_left(
    traced: Serving, collector: Collector
) -> None:
    for verb in ("filter", "prioritize"):
        both_ways(traced, "extender", f"/scheduler/{verb}", args(gpu_pod()))
    both_ways(traced, "extender", "/scheduler/filter", args(too_large()))
    none_left = traced.ask("extender", "POST", "/scheduler/filter", args(too_large()))
    assert none_left.json["NodeNames"] == []

    wait_until(lambda: len(collector.spans) >= 7, "spans come while it serves")
    traced.stop()

    filtered, ranked = "/scheduler/filter", "/scheduler/prioritize"
    named = sorted(span.name for span in collector.spans)
    assert named == [f"POST {verb}" for verb in (*[filtered] * 5, *[ranked] * 2)]
    for span in collector.spans:
        assert span.attributes == {"migfit.verb": span.name.removeprefix("POST ")}


def test_its_name_is_what_the_environment_says(start: Start, collector: Collector) -> None:
    serving = start(environ={ENDPOINT: collector.url, "OTEL_SERVICE_NAME": "slicer"}).wait_ready()
    serving.review(review_of())

    serving.stop()

    assert [span.service for span in collector.spans] == ["slicer"]


@pytest.mark.parametrize("answers", [True, False], ids=["hangs", "refuses"])
def test_a_collector_that_is_away_keeps_nobody_waiting(start: Start, *, answers: bool) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        if answers:
            taken.listen()  # connections are made, and nobody ever reads
        url = f"http://{HOST}:{taken.getsockname()[1]}"
        serving = start(environ={ENDPOINT: url, **SOON}).wait_ready()

        patched = [serving.review(review_of(gpu_pod(str(each)))) for each in range(20)]

        assert all("patch" in response for response in patched)
        assert serving.stop() == 0
        assert serving.tracebacks() == []


# --- nothing -------------------------------------------------------------------------------------


def test_without_the_variable_nothing_of_it_is_imported_and_handlers_are_as_they_were() -> None:
    program = (
        "import sys, extender.server.serve\n"
        "from extender.server.traces import traces\n"
        "assert traces({}) is None\n"
        "print(sorted(name for name in sys.modules if 'opentelemetry' in name))\n"
    )

    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
    assert _traced(None, "/mutate", len) is len  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("absent", "variables", "told"),
    [
        (True, {}, "OpenTelemetry is not installed; install migfit[otel]"),
        (False, {"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OpenTelemetry refuses its variables"),
    ],
)
def test_what_is_in_the_way_of_traces_is_logged_and_is_in_the_way_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str, *, absent: bool
) -> None:
    if absent:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with structlog.testing.capture_logs() as logged:
        assert traces({ENDPOINT: "http://127.0.0.1:1"}) is None

    (line,) = logged
    assert told in line["event"]


# --- bounds --------------------------------------------------------------------------------------


def answered(_body: bytes) -> Answered:
    return Answered(b"{}")


def test_no_more_spans_wait_than_they_may_and_answers_are_given_all_the_same() -> None:
    begun, go_on, made = threading.Event(), threading.Event(), list[Spent]()

    def make(spent: Spent) -> None:
        begun.set()
        go_on.wait(30)
        made.append(spent)

    slow = Traces(make, lambda: None, most=3)
    handler = slow.of("/mutate", answered)
    handler(b"")
    assert begun.wait(30)  # the first is in the works, and none waits

    answers = [handler(b"") for _ in range(10)]

    go_on.set()
    slow.close(30)
    assert answers == [Answered(b"{}")] * 10
    assert len(made) == 4


def test_one_that_cannot_be_made_does_not_end_the_others() -> None:
    made: list[Spent] = []
    shut = threading.Event()

    def make(spent: Spent) -> None:
        if spent.verb == "bad":
            raise ValueError(spent.verb)
        made.append(spent)

    spans = Traces(make, shut.set)
    with structlog.testing.capture_logs() as logged:
        for verb in ("bad", "good"):
            spans.of(verb, answered)(b"")
        spans.close(30)

    assert [spent.verb for spent in made] == ["good"]
    assert shut.is_set()
    assert [line["event"] for line in logged] == ["span could not be made"]


def test_what_a_tenant_or_a_stranger_may_write_long_is_cut() -> None:
    made: list[Spent] = []
    long = "x" * 10_000
    decision = Decision(
        action=Action.LEFT,
        reason=Reason.NO_FOOTPRINT,
        message=long,
        id=long,
        namespace=long,
        pod=long,
        mode=Mode.ENFORCE,
        config_revision="",
    )

    spans = Traces(made.append, lambda: None)
    spans.of("/mutate", lambda _: Answered(b"{}", decision=decision))(b"")
    spans.close(30)

    (spent,) = made
    assert max(len(str(value)) for value in spent.attributes.values()) == LONGEST_ID
    assert GPU not in spent.attributes.values()
