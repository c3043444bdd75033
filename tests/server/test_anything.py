"""Whatever comes to a port: 5,000 examples over all three, by the handlers and by the sockets."""

import asyncio
import copy
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extender.admission.envelope import BadReview
from extender.admission.review import Reviewed, Reviewer
from extender.cluster.state import State
from extender.core.reason import Reason
from extender.scheduling.verbs import BadArgs, Scheduling
from extender.server.audit import LONGEST_LINE_BYTES, Audit, _encoded
from extender.server.listen import listening
from extender.server.metrics import Metrics
from extender.server.operations import operations_app
from extender.server.routes import extender_port, webhook_port
from tests.build import GPU, bound, mig, node, request, state
from tests.draw import Dice, grown, members, some_pod
from tests.server.serving import HOST, PATIENCE_S, Wire

thorough = settings(max_examples=1000, deadline=None)
SLICE = mig("2g.20gb")
JUNK: list[Any] = [
    *(
        None,
        True,
        -1,
        1e300,
        2**63,
        "",
        "1",
        "nvidia.com/gpu",
        "\\u2028\\n\\x00\\x9b",
        "x" * 70_000,
    ),
    *([], {}, [None], {"a": None}, [[[]]], {"": {"": ""}}, "9" * 400, "1e999", "-0", "🙂" * 300),
]
MEANT_ELSEWHERE: list[Any] = [
    *("true", "2g.20gb", "9.6G", "Always", SLICE, "UPDATE", "migfit.io/rewritten", "asr", "c0"),
    *({SLICE: "1"}, {"name": "c0"}, ["gpu-a"], {"limits": {}}, {GPU: "1", SLICE: "1"}),
]


def mangle(dice: Dice, tree: Any) -> Any:
    """The object with something else in place of up to three of its members."""
    for _ in range(dice.randint(0, 3)):
        every = members(tree)
        if not every:
            break
        path = dice.choice(every)
        at = tree
        for member in path[:-1]:
            at = at[member]
        at[path[-1]] = copy.deepcopy(dice.choice(JUNK if dice.rarely(2) else MEANT_ELSEWHERE))
    return tree


def torn(dice: Dice, body: bytes) -> bytes:
    """The bytes, now and then cut, doubled, or with one of them another."""
    if not body or not dice.rarely(4):
        return body
    at = dice.randrange(len(body))
    return dice.choice(
        [body[:at], body[at:], body + body, body[:at] + dice.randbytes(1) + body[at + 1 :]]
    )


def some_json(dice: Dice) -> Any:
    """No request of anybody's."""
    return mangle(dice, copy.deepcopy(dice.choice([*JUNK, {"kind": "Pod", "a": [1, {"b": {}}]}])))


def some_review(dice: Dice) -> bytes:
    fields: dict[str, Any] = {}
    if dice.rarely(2):
        old = some_pod(dice)
        old["metadata"]["labels"]["migfit.io/rewritten"] = "true"
        fields = {"operation": "UPDATE", "oldObject": old}
    return torn(dice, orjson.dumps(mangle(dice, request(some_pod(dice), **fields))))


def some_args(dice: Dice) -> bytes:
    tree = some_pod(dice)
    tree["metadata"]["labels"]["migfit.io/rewritten"] = "true"
    args = {"Pod": tree, "NodeNames": ["gpu-a", "gpu-b", "unknown"], "Nodes": None}
    if dice.rarely(3):
        args |= {"NodeNames": None, "Nodes": {"items": [{"metadata": {"name": "gpu-a"}}]}}
    return torn(dice, orjson.dumps(mangle(dice, args)))


@dataclass(frozen=True, slots=True)
class Handlers:
    """Both handlers on one cluster."""

    state: State
    reviewer: Reviewer
    scheduling: Scheduling


@pytest.fixture(scope="module")
def handlers() -> Handlers:
    held = [bound("held", "gpu-b", {SLICE: 1})]
    cluster = state(node(), node("gpu-b", labels={f"{SLICE}.memory": "17000"}), pods=held)
    return Handlers(
        cluster,
        Reviewer(
            snapshot=cluster.snapshot,
            policy=lambda: cluster.policy,
            reserve=cluster.reserve,
            clock=lambda: 0.0,
        ),
        Scheduling(
            capacity=lambda: cluster.capacity,
            ranking=lambda: cluster.ranking,
            policy=lambda: cluster.policy,
        ),
    )


# --- the handlers --------------------------------------------------------------------------------


@thorough
@given(body=grown(some_review))
def test_any_review_is_answered_or_refused_in_one_line(handlers: Handlers, body: bytes) -> None:
    try:
        reviewed = handlers.reviewer.review(body)
    except BadReview as refused:
        said = str(refused)
    else:
        said = _told(reviewed, body)
    assert len(said.splitlines()) == 1


def _told(reviewed: Reviewed, body: bytes) -> str:
    """The audit line of an answer that is all right."""
    answer = orjson.loads(reviewed.answer)["response"]
    assert reviewed.decision.reason is not Reason.INTERNAL_ERROR
    told = body.decode(errors="replace")  # what nobody looks at may be no text at all
    assert answer["uid"] == json.loads(told)["request"]["uid"]
    assert all(len(line) <= 120 and line.isprintable() for line in answer.get("warnings", ()))
    line = _encoded({"time": "", **reviewed.audit()})
    assert len(line) <= LONGEST_LINE_BYTES
    return line.decode()


@thorough
@given(body=grown(some_args), verb=st.sampled_from(["filter", "prioritize"]))
def test_any_question_of_a_scheduler_is_answered_or_refused_in_one_line(
    handlers: Handlers, body: bytes, verb: str
) -> None:
    try:
        answer = orjson.loads(getattr(handlers.scheduling, verb)(body))
    except BadArgs as refused:
        answer = str(refused)
    if isinstance(answer, str):
        assert len(answer.splitlines()) == 1
    elif verb == "filter":
        assert isinstance(answer["NodeNames"], list)
    else:
        assert all(isinstance(each["Score"], int) for each in answer)


# --- the sockets ---------------------------------------------------------------------------------


class Ports:
    """The three production apps on real sockets, on a thread of their own."""

    def __init__(self, handlers: Handlers, audit_fd: int) -> None:
        self._handlers = handlers
        self._audit_fd = audit_fd
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self.by_name: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        self._beside = {name: Wire(port) for name, port in self.by_name.items()}

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        metrics = Metrics()
        audit = Audit(self._audit_fd, metrics.audit_dropped.inc)
        webhook = webhook_port(self._handlers.reviewer, audit, metrics, lambda: False)
        extender = extender_port(self._handlers.scheduling, metrics, lambda: False)
        served = {
            "webhook": listening(webhook.app, HOST, 0, at_once=webhook.at_once, drain_s=0.1),
            "extender": listening(extender.app, HOST, 0, at_once=extender.at_once, drain_s=0.1),
            "ops": listening(operations_app(metrics, lambda: None), HOST, 0, drain_s=0.1),
        }
        async with AsyncExitStack() as stack:
            for name, port in served.items():
                self.by_name[name] = await stack.enter_async_context(port)
            self._started.set()
            await self._stop.wait()
        audit.close()

    def stop(self) -> None:
        for wire in self._beside.values():
            wire.socket.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)

    def answers(self, name: str, data: bytes) -> bytes:
        """All that comes back for these bytes, and a good request beside them is answered."""
        pieces = []
        raw = socket.create_connection((HOST, self.by_name[name]), timeout=PATIENCE_S)
        with raw, suppress(ConnectionError):
            raw.sendall(data)
            # By when this one has its answer, those bytes have been looked at too.
            assert self._beside[name].ask("GET", "/nowhere").status == 404
            raw.shutdown(socket.SHUT_WR)
            while piece := raw.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces)


@pytest.fixture(scope="module")
def ports(handlers: Handlers) -> Iterator[Ports]:
    with open("/dev/null", "wb") as nowhere:  # noqa: PTH123  a descriptor is wanted
        serving = Ports(handlers, nowhere.fileno())
        yield serving
        serving.stop()


PATHS = {
    "webhook": ["/mutate"],
    "extender": ["/scheduler/filter", "/scheduler/prioritize"],
    "ops": ["/healthz", "/readyz", "/metrics"],
}
HEADERS = [
    *(
        "Host: a",
        "Expect: 100-continue",
        "Connection: close",
        "Connection: Upgrade",
        "Upgrade: h2c",
    ),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Content-Length: 3", "X: y", ": y"),
    *("Content-Type: application/json", "Content-Encoding: gzip", "Content-Length: -1", "X", " x"),
]
BODIES = {
    "webhook": [b"", b"{}", orjson.dumps(request(some_pod(Dice(1))))],
    "extender": [b"", b"{}", some_args(Dice(1)), b'{"Pod":{},"NodeNames":["gpu-a"]}'],
    "ops": [b"", b"", b"", b"{}"],
}


def some_http(dice: Dice, name: str) -> bytes:
    """One to three requests, each more or less of one."""
    found = b""
    for _ in range(dice.randint(1, 3)):
        usual = "GET" if name == "ops" else "POST"
        method = dice.choice([usual] * 20 + ["GET", "HEAD", "OPTIONS", "BREW", "get", ""])
        path = dice.choice([*PATHS[name] * 12, "/", "*", "//", "/%", "http://a/b", "/mutate?a=b#c"])
        body = dice.choice(BODIES[name])
        lines = [f"{method} {path} {dice.choice(['HTTP/1.1'] * 20 + ['HTTP/1.0', 'HTTP/2', ''])}"]
        lines += ["Host: a", f"Content-Length: {len(body)}"] if not dice.rarely() else []
        lines += dice.some(HEADERS, 0, 2) if dice.rarely(5) else []
        found += "\r\n".join([*lines, "", ""]).encode() + body
    return torn(dice, found)


def read(answers: bytes, data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer; an assertion fails if they are anything else."""
    found = []
    while answers:
        head, ended, answers = answers.partition(b"\r\n\r\n")
        assert ended, (answers, data)
        first, *lines = head.decode().split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version in {"HTTP/1.1", "HTTP/1.0", "HTTP/0.9"}  # as it was asked
        if status == "100":
            continue
        fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", 0))
        if answers.startswith(b"HTTP/1.") or not answers:  # an answer to HEAD has no body
            length = 0
        found.append((int(status), answers[:length]))
        answers = answers[length:]
    return found


@thorough
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(PATHS)))
def test_any_requests_get_answers_and_the_next_client_is_served(
    ports: Ports, seed: int, name: str
) -> None:
    data = some_http(Dice(seed), name)

    with capture_logs() as logs:
        answers = read(ports.answers(name, data), data)

    assert logs == []
    assert all(100 < status < 500 for status, _ in answers)
    for status, body in answers:
        if status >= 400 and body:
            assert len(body.decode().splitlines()) == 1


@thorough
@given(data=st.binary(max_size=200), name=st.sampled_from(sorted(PATHS)))
def test_any_bytes_get_one_refusal_or_a_closed_connection(
    ports: Ports, data: bytes, name: str
) -> None:
    answers = read(ports.answers(name, data), data)

    assert all(400 <= status < 500 for status, _ in answers)
    assert len(answers) <= 1


@thorough
@given(tree=grown(some_json), name=st.sampled_from(["webhook", "extender"]))
def test_any_json_is_refused_in_one_line_and_the_connection_stays(
    ports: Ports, tree: Any, name: str
) -> None:
    body = json.dumps(tree).encode()
    path = PATHS[name][0]

    with Wire(ports.by_name[name]) as wire:
        answers = [wire.ask("POST", path, body) for _ in range(2)]

    assert [answer.status for answer in answers] == [400, 400]
    assert all(answer.line for answer in answers)
