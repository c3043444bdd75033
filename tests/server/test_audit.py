"""The audit: one line per review whatever a name contains, and no pod that waits for a reader."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from extender.admission.review import Reviewer
from extender.cluster.state import State
from extender.core.policy import Policy
from extender.server.audit import LONGEST_LINE_BYTES, QUEUE_BYTES, Audit, _encoded
from extender.server.listen import listening
from extender.server.metrics import Metrics
from extender.server.routes import webhook_port
from tests.server.conftest import Start
from tests.server.serving import (
    HOST,
    SLICE,
    Serving,
    Wire,
    gpu_pod,
    request,
    review_of,
    wait_until,
)

FORGED = 'a"}\n{"event":"admission","id":"forged"}\r\n\u2028{"id":"forged"}\u0085\x1b[31m\x9b'
DROPPED = "migfit_audit_dropped_total"


class Pipe:
    """Our stdout, and who reads it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.dropped = 0
        self._audits: list[Audit] = []
        self._open = {self.reading, self.writing}

    def audit(self, dropped: Callable[[], None] | None = None, **limits: int) -> Audit:
        audit = Audit(self.writing, dropped or self._drop, **limits)
        self._audits.append(audit)
        return audit

    def _drop(self) -> None:
        self.dropped += 1

    def fill(self) -> int:
        """Write until nothing more goes in; the bytes it took."""
        os.set_blocking(self.writing, False)
        taken = 0
        with suppress(BlockingIOError):
            while True:
                taken += os.write(self.writing, b"\n" * 4096)
        os.set_blocking(self.writing, True)
        return taken

    def close(self, number: int) -> None:
        if number in self._open:
            self._open.remove(number)
            os.close(number)

    def read_to_the_end(self) -> list[dict[str, Any]]:
        """All lines, read while the audit writes the rest and closes."""
        with ThreadPoolExecutor(1) as pool:
            pieces = pool.submit(lambda: list(iter(lambda: os.read(self.reading, 1 << 16), b"")))
            for audit in self._audits:
                audit.close(timeout_s=20)
            self.close(self.writing)
            lines = b"".join(pieces.result(20)).decode().splitlines()
        return [json.loads(line) for line in lines]

    def clean_up(self) -> None:
        """Let the threads go before their descriptor may become another's."""
        self.close(self.reading)
        for audit in self._audits:
            audit.close(timeout_s=20)
        self.close(self.writing)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.clean_up()


# --- lines ---------------------------------------------------------------------------------------

anything = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(st.just("pod") | anything, anything | st.lists(anything), max_size=3))
def test_what_is_encoded_is_one_line_by_anybodys_notion_of_a_line(fields: dict[str, Any]) -> None:
    line = _encoded(fields).decode()

    assert line.isascii()
    assert line.splitlines(keepends=True) == [line]
    assert line.endswith("\n")
    assert json.loads(line) == fields


def test_lines_come_in_order_and_none_is_lost_when_it_closes(pipe: Pipe) -> None:
    audit = pipe.audit()
    for i in range(3000):
        audit.line({"id": str(i)})

    lines = pipe.read_to_the_end()

    assert [line["id"] for line in lines] == [str(i) for i in range(3000)]
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert pipe.dropped == 0


def test_a_line_that_cannot_be_made_is_counted_and_the_next_one_is_written(pipe: Pipe) -> None:
    audit = pipe.audit()
    audit.line(lambda: {"id": 1 // 0})
    audit.line({"id": object()})
    audit.line(lambda: {"id": "next"})

    assert [line["id"] for line in pipe.read_to_the_end()] == ["next"]
    assert pipe.dropped == 2


def test_a_line_has_the_time_when_it_was_told_not_when_it_was_made(pipe: Pipe) -> None:
    audit = pipe.audit()
    before = datetime.now(UTC)
    audit.line({"id": "told"})
    after = datetime.now(UTC)

    (line,) = pipe.read_to_the_end()

    told = datetime.fromisoformat(line["time"])
    assert before - timedelta(milliseconds=1) <= told <= after


def test_a_line_too_long_for_a_container_runtime_has_its_longest_values_cut() -> None:
    long = "x" * 3_000_000

    line = _encoded({"id": "1", "pod": long, "containers": [{"name": long}], "need": "1Mi"})

    told = json.loads(line)
    assert len(line) < LONGEST_LINE_BYTES
    assert told["pod"].startswith("xxx")
    assert told["pod"].endswith("…")
    assert (told["id"], told["need"]) == ("1", "1Mi")


@pytest.mark.parametrize("text", ["x" * 100_000, "\x00" * 20_000, "🙂" * 4_000, "é" * 3_000])
def test_no_line_is_longer_than_that_whatever_a_pod_is_called(text: str) -> None:
    containers = [{"name": f"{number}{text}", "to": None} for number in range(30)]
    candidates = [{"resource": text, "free": number} for number in range(500)]
    fields = {"id": "1", "pod": text, "user": text, "message": text, "need": "1Mi"}

    line = _encoded({**fields, "containers": containers, "candidates": candidates})

    told = json.loads(line)
    assert len(line) <= LONGEST_LINE_BYTES
    assert line.isascii()
    assert told.keys() == {*fields, "containers", "candidates"}
    assert told["containers"][0]["name"].startswith("0")


# --- readers who do not read ---------------------------------------------------------------------


def test_when_nobody_reads_lines_are_dropped_and_counted_and_nobody_waits(pipe: Pipe) -> None:
    pipe.fill()
    audit = pipe.audit(lines=10)
    audit.line({"id": "taken"})
    wait_until(audit._queue.empty, "the first line is with the thread")

    for i in range(25):
        audit.line({"id": str(i)})

    assert pipe.dropped == 15
    audit.close(timeout_s=0.01)  # comes back all the same


def test_what_waits_is_bounded_also_by_the_bodies_it_is_about(pipe: Pipe) -> None:
    filled = pipe.fill()
    audit = pipe.audit(most_bytes=50_000)
    for i in range(100):
        audit.line({"id": str(i)}, 9_900)
    assert pipe.dropped == 94, "of 10 KB each the sixth is the first that goes beyond 50 KB"

    while filled:
        filled -= len(os.read(pipe.reading, filled))
    wait_until(lambda: audit._come_bytes == audit._gone_bytes, "what had waited is written")
    audit.line({"id": "last"}, 9_900)

    assert pipe.dropped == 94
    assert [line["id"] for line in pipe.read_to_the_end()] == [*"012345", "last"]


def test_when_the_reader_reads_again_what_had_waited_is_written(pipe: Pipe) -> None:
    filled = pipe.fill()
    audit = pipe.audit(lines=100)
    for i in range(50):
        audit.line({"id": str(i)})

    while filled:
        filled -= len(os.read(pipe.reading, filled))

    assert [line["id"] for line in pipe.read_to_the_end()] == [str(i) for i in range(50)]
    assert pipe.dropped == 0


def test_a_reader_who_left_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    pipe.close(pipe.reading)
    audit = pipe.audit()

    for i in range(50):
        audit.line({"id": str(i)})
    audit.close()

    assert pipe.dropped == 50


def test_a_stdout_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    audit = pipe.audit()
    for i in range(2000):
        audit.line({"id": str(i), "pod": "x" * 100})

    assert [line["id"] for line in pipe.read_to_the_end()] == [str(i) for i in range(2000)]
    assert pipe.dropped == 0


async def test_reviews_go_on_while_stdout_is_blocked_and_the_lost_lines_are_counted(
    pipe: Pipe,
) -> None:
    pipe.fill()
    metrics = Metrics()
    audit = pipe.audit(metrics.audit_dropped.inc, lines=10)
    state = State(Policy(), lambda: 0.0)
    reviewer = Reviewer(
        snapshot=state.snapshot,
        policy=lambda: state.policy,
        reserve=state.reserve,
        clock=lambda: 0.0,
    )
    app = webhook_port(reviewer, audit, metrics, lambda: False).app

    def ask(port: int) -> None:
        with Wire(port) as wire:
            for i in range(200):
                assert wire.ask("POST", "/mutate", review_of(gpu_pod(f"p{i}"))).status == 200

    async with listening(app, HOST, 0, drain_s=0.1) as port:
        await asyncio.to_thread(ask, port)

    text = generate_latest(metrics.registry).decode()
    dropped = float(text.partition("\nmigfit_audit_dropped_total ")[2].split()[0])
    assert 200 - 10 - 100 <= dropped <= 200 - 10  # a batch of up to 100 is with the thread


# --- the process ---------------------------------------------------------------------------------


def test_every_review_has_exactly_one_line(serving: Serving) -> None:
    bodies = [review_of(gpu_pod(f"p{i}")) for i in range(30)]
    for body in bodies:
        serving.review(body)
    serving.ask("webhook", "POST", "/mutate", b"not json")
    last = review_of()
    serving.review(last)

    uids = [json.loads(body)["request"]["uid"] for body in (*bodies, last)]
    wait_until(lambda: serving.audit_of(uids[-1]), "the last audit line is there")
    for uid in uids:
        (line,) = serving.audit_of(uid)
        assert line["event"] == "admission"
    (line,) = serving.audit_of(uids[0])
    assert (line["action"], line["reason"], line["profile"]) == ("rewritten", "Fits", "2g.20gb")
    assert (line["namespace"], line["pod"], line["user"]) == ("default", "p0", "demo")
    assert line["containers"][0]["to"] == SLICE


def test_no_name_can_forge_a_line(serving: Serving) -> None:
    pod = gpu_pod(FORGED, generateName=FORGED, namespace=FORGED)
    pod["spec"]["containers"][0]["name"] = FORGED
    body = review_of(pod, namespace=FORGED, userInfo={"username": FORGED})

    serving.review(body)

    uid = json.loads(body)["request"]["uid"]
    (line,) = wait_until(lambda: serving.audit_of(uid), "its audit line is there")
    assert (line["pod"], line["user"], line["namespace"]) == (FORGED, FORGED, FORGED)
    assert serving.audit_of("forged") == []
    assert all(text.isascii() and text.startswith('{"time"') for text in serving.audit_texts())


def test_with_its_stdout_blocked_the_process_serves_counts_lost_lines_and_ends_well(
    start: Start,
) -> None:
    running = start(reading=False).wait_ready()

    with running.wire("webhook") as wire:  # some 200 KB of audit; a pipe takes 64
        for _ in range(4):
            bodies = [review_of(gpu_pod(f"p{i}")) for i in range(50)]
            wire.send(b"".join(request("POST", "/mutate", body) for body in bodies))
            for _ in bodies:
                answer = wire.answer()
                assert answer is not None
                assert answer.status == 200
        assert running.metrics()[DROPPED] == 0
        large = review_of(gpu_pod(annotations={"note": "x" * (QUEUE_BYTES // 64)}))
        for _ in range(80):  # the lines about 64 of them may wait
            assert wire.ask("POST", "/mutate", large).status == 200

    assert running.metrics()[DROPPED] >= 80 - 64
    assert running.ready()
    assert running.stop() == 0
