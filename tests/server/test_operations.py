"""The operations port: health, readiness, metrics, from a thread of its own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from extender.server.metrics import Metrics
from extender.server.operations import OperationsThread, operations_app
from tests.server import stuck
from tests.server.conftest import Start
from tests.server.serving import HOST, Answer, Wire, review_of, wait_until

Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start an operations port; the port it took."""
    with ExitStack() as stack:

        def begin(unready: Callable[[], str | None] = lambda: None, port: int = 0) -> int:
            thread = OperationsThread(operations_app(Metrics(), unready), HOST, port)
            taken = thread.start()
            stack.callback(thread.stop)
            return taken

        yield begin


def get(port: int, path: str, method: str = "GET") -> Answer:
    with Wire(port) as wire:
        return wire.ask(method, path)


def test_health_is_that_it_answers(serve: Serve) -> None:
    port = serve(lambda: "not ready at all")

    assert (get(port, "/healthz").status, get(port, "/healthz").line) == (200, "ok")


def test_readiness_says_why_not(serve: Serve) -> None:
    why: list[str | None] = ["waiting for the first lists"]
    port = serve(lambda: why[0])
    assert (get(port, "/readyz").status, get(port, "/readyz").line) == (503, why[0])

    why[0] = None

    assert (get(port, "/readyz").status, get(port, "/readyz").line) == (200, "ok")


def test_metrics_are_in_prometheus_text_format(serve: Serve) -> None:
    answer = get(serve(), "/metrics")

    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert b"# TYPE migfit_decisions_total counter" in answer.body


async def test_it_answers_while_the_loop_of_the_requests_is_busy(serve: Serve) -> None:
    port = serve()

    # This very coroutine blocks the loop it runs on until it has its answer.
    assert get(port, "/healthz").line == "ok"


def test_a_port_that_is_taken_is_an_error_and_leaves_no_thread_behind(serve: Serve) -> None:
    port = serve()
    second = OperationsThread(operations_app(Metrics(), lambda: None), HOST, port)

    with pytest.raises(OSError, match="in use"):
        second.start()

    second._thread.join(20)
    assert not second._thread.is_alive()
    assert get(port, "/healthz").status == 200


def test_when_stopped_it_serves_no_more() -> None:
    thread = OperationsThread(operations_app(Metrics(), lambda: None), HOST, 0)
    port = thread.start()

    thread.stop()

    assert not thread._thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        Wire(port)


# --- the process ---------------------------------------------------------------------------------


def test_while_a_review_keeps_the_process_from_all_else_it_says_how_it_is(
    start: Start, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    running = start(command=(stuck.__file__, str(held))).wait_ready()
    held.touch()
    with ThreadPoolExecutor(1) as asking:
        answer = asking.submit(running.ask, "webhook", "POST", "/mutate", review_of())
        try:
            wait_until(held.with_suffix(".begun").exists, "the review has begun")
            for path in ("/healthz", "/readyz", "/metrics") * 5:
                assert running.ask("ops", "GET", path).status == 200
            assert not answer.done()
        finally:
            held.unlink()

    assert answer.result().status == 200
