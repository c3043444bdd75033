"""The benchmarks run and say what they measured; how fast it was is not asserted."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench import _figures, admission, prioritize
from bench._client import Connection, Round, one_by_one, paced, saturating
from bench._figures import PAGE, Effort, Figure, Measured, kept, markdown, median_ratio, p50_s
from bench._pages import fill_in
from bench._requests import POD_BYTES, gpu_pod, reviews_apart
from bench.prioritize import Case

TINY = Effort(alternations=1, round_s=0.01, paced_s=0.05)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Runs a benchmark for a moment; gives what it printed as JSON."""
    monkeypatch.setattr(_figures, "QUICK", TINY)
    monkeypatch.setattr(_figures, "WARM_UP_S", 0.01)

    def run(program: ModuleType, **instead: object) -> dict[str, Any]:
        for name, value in instead.items():
            monkeypatch.setattr(program, name, value)
        monkeypatch.setattr("sys.argv", [f"{program.__name__}.py", "--quick", "--json"])
        program.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


SMALL = (
    Case("prioritize", 20, 20, target=2.2),
    Case("filter", 20, 30, turned_down=2),
    Case("filter", 20, 20, events_per_s=100),
)


def test_prioritize_measures_both_servers_alone_and_under_events(
    run: Callable[..., dict[str, Any]],
) -> None:
    found = run(prioritize, CASES=SMALL)
    assert [
        (row["verb"], row["known"], row["events/s"], row["server"]) for row in found["rows"]
    ] == [
        ("prioritize", 20, 0, "migfit"),
        ("prioritize", 20, 0, "bare"),
        ("filter, a tenth turned down", 30, 0, "migfit"),
        ("filter, a tenth turned down", 30, 0, "bare"),
        ("filter", 20, 100, "migfit"),
        ("filter", 20, 100, "bare"),
    ]
    assert [figure["target"] for figure in found["figures"]] == [2.2]
    assert all(row["requests/s"] > 0 for row in found["rows"])


def test_growth_is_that_of_our_own_median_alone() -> None:
    sizes = {(100, 100): 0.1, (1000, 1000): 0.3, (5000, 5000): 1.1, (100, 5000): 0.12}
    rows = [
        {"verb": "filter", "names": names, "known": known, "events/s": events, "server": server}
        | {"p50 ms": ms if (server, events) == ("migfit", 0) else 99.0}
        for (names, known), ms in sizes.items()
        for server in ("migfit", "bare")
        for events in (0, 1000)
    ]
    assert prioritize.growth(rows) == [
        {
            "verb": "filter",
            "us per 1,000 names more": 200,
            "us for 100 names of 100": 100,
            "us for 100 names of 5,000": 120,
        }
    ]


def test_admission_measures_both_servers_under_both_loads(
    run: Callable[..., dict[str, Any]],
) -> None:
    found = run(admission, CASES=((40, "different", reviews_apart(40), 0.35),))
    assert [(row["load"], row["server"]) for row in found["rows"]] == [
        ("all it takes", "migfit"),
        ("all it takes", "bare"),
        ("200/s", "migfit"),
        ("200/s", "bare"),
    ]
    assert len(found["figures"]) == 2


def test_a_webhook_that_rewrites_nothing_is_not_measured() -> None:
    decision = json.dumps({"action": "left", "reason": "NoReachableMig"})
    response = {"allowed": True, "auditAnnotations": {"decision": decision}}
    with pytest.raises(SystemExit, match="NoReachableMig"):
        admission.check(json.dumps({"response": response}).encode())


def test_every_pod_apart_has_a_selector_of_its_own() -> None:
    reviews = reviews_apart(5000)
    seen = set()
    for _ in range(2000):
        spec = json.loads(next(reviews))["request"]["object"]["spec"]
        seen.add(json.dumps([spec.get("nodeSelector"), spec.get("affinity")]))
    assert len(seen) == 2000


def test_the_pod_has_the_size_it_should() -> None:
    assert POD_BYTES <= len(json.dumps(gpu_pod(), separators=(",", ":"))) < POD_BYTES + 64


@pytest.mark.parametrize(
    ("value", "at_least", "reached"),
    [(2.2, False, True), (2.3, False, False), (0.5, True, False), (2.2, True, True)],
)
def test_a_figure_is_reached_up_to_its_target(value: float, at_least: bool, reached: bool) -> None:
    figure = Figure("p50", value, 2.2, at_least=at_least)
    assert figure.as_json()["reached"] is reached
    assert (figure.as_row()[""] == "reached") is reached


def test_percentiles_are_over_all_rounds() -> None:
    rounds = [
        Round([n / 1000 for n in range(1, 51)], 1),
        Round([n / 1000 for n in range(51, 101)], 1),
    ]
    measured = Measured(rounds, 0.0)
    assert (measured.percentile_ms(50), measured.percentile_ms(99)) == (50, 99)


def test_the_ratio_is_the_median_over_neighbouring_rounds() -> None:
    ours = Measured([Round([2.0], 1), Round([30.0], 1), Round([9.0], 1)], 0)
    bare = Measured([Round([1.0], 1), Round([10.0], 1), Round([1.0], 1)], 0)
    assert median_ratio(ours, bare, p50_s) == 3


# --- the page ------------------------------------------------------------------------------------

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_what_was_measured_is_kept_and_put_into_its_place_on_the_page(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PAGE).write_text("before\n<!-- prioritize -->\n<!-- end -->\nafter\n")
    written = _figures.options
    monkeypatch.setattr(prioritize, "options", lambda text: replace(written(text), write=tmp_path))
    found = run(prioritize, CASES=SMALL[:1])
    page = (tmp_path / PAGE).read_text()
    assert json.loads((tmp_path / kept("prioritize")).read_text()) == found
    assert page.startswith("before\n<!-- prioritize -->\nMade by `python bench/")
    assert "| prioritize | 20 | 20 | 0 | migfit |" in page
    assert "prioritize, 20 node names" in page
    assert page.endswith("<!-- end -->\nafter\n")


def test_the_page_says_what_the_kept_results_say_or_that_there_are_none() -> None:
    page = (REFERENCE / PAGE).read_text("utf-8")
    for name in ("admission", "prioritize", "scheduler", "sync", "random_scheduling"):
        file = REFERENCE / kept(name)
        if file.exists():
            found = json.loads(file.read_text("utf-8"))
            assert found["benchmark"] == name
            assert "--quick" not in found["command"]
            told = markdown(found)
        else:
            told = f"Not measured in full yet: `bench/{name}.py --write docs/reference`.\n"
        assert fill_in(page, {name: told}) == page


# --- the client ----------------------------------------------------------------------------------


@contextmanager
def answering(status: str = "200 OK", delay_s: float = 0.0) -> Iterator[int]:
    """A server for one connection after the other, on a thread; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection:
                while connection.recv(65536):
                    time.sleep(delay_s)  # a server that is slow, by a known time
                    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode())

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_requests_one_by_one_and_many_at_once_are_all_answered() -> None:
    with answering() as port, closing(Connection(port)) as one, closing(Connection(port)) as other:
        assert one.ask("/", b"x") == b"ok"
        assert one_by_one(one, "/", repeat(b"x"), 0.02).per_s > 0
        assert saturating([one, other], "/", repeat(b"x"), 0.02).per_s > 0
        assert one.ask("/", b"x") == b"ok"


def test_an_answer_other_than_200_ends_the_measurement() -> None:
    with (
        answering("503 Service Unavailable") as port,
        closing(Connection(port)) as connection,
        pytest.raises(RuntimeError, match="503"),
    ):
        connection.ask("/", b"x")


def test_paced_requests_are_timed_from_when_they_were_due() -> None:
    with answering(delay_s=0.03) as port, closing(Connection(port)) as connection:
        found = paced([connection], "/", repeat(b"x"), per_s=50, for_s=0.1)
    # The connection takes 30 ms for each, one after the other; the fifth was due after 80 ms.
    assert len(found.latencies_s) == 5
    assert max(found.latencies_s) >= 5 * 0.03 - 0.08


def test_a_server_that_falls_behind_is_not_waited_for_without_end() -> None:
    with answering(delay_s=0.05) as port, closing(Connection(port)) as connection:
        found = paced([connection], "/", repeat(b"x"), per_s=1000, for_s=0.05)
    assert len(found.latencies_s) == 50
