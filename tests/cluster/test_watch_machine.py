"""The list-watch-relist machine, without a socket, case by case."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extender.cluster.errors import ApiError, ClusterError, Silent, Unreachable, Unreadable
from extender.cluster.machine import Action, List, Wait, Watch
from tests.cluster.watching import (
    Bench,
    bookmark,
    error,
    event,
    page,
    thing,
)


def versions(action: Action) -> str:
    """Where the next watch starts."""
    then = action.then if isinstance(action, Wait) else action
    assert isinstance(then, Watch)
    return then.resource_version


def test_it_lists_page_by_page_and_then_watches_from_the_list_version() -> None:
    bench = Bench()

    assert bench.page(page(5, [thing("a", 3)], token="t")) == List("t")
    assert bench.mirror.lists == 0
    after = bench.page(page(5, [thing("b", 4)]))

    assert versions(after) == "5"
    assert bench.mirror.held == {"a": "3", "b": "4"}
    assert bench.mirror.lists == 1


def test_timeouts_of_watches_differ_and_stay_in_their_range() -> None:
    drawn = set()
    for seed in range(20):
        after = Bench(seed).page(page(5, []))
        assert isinstance(after, Watch)
        drawn.add(after.timeout_s)

    assert all(300 <= timeout_s <= 600 for timeout_s in drawn)
    assert len(drawn) > 10


def test_a_list_whose_items_are_null_is_empty() -> None:
    bench = Bench()
    body = b'{"metadata":{"resourceVersion":"9"},"items":null}'

    assert versions(bench.page(body)) == "9"
    assert bench.mirror.held == {}


def test_events_and_bookmarks_move_the_version_and_count_as_heard() -> None:
    bench = Bench().watching().later(60)
    bench.machine.line(event("ADDED", thing("b", 6)))
    bench.machine.line(event("MODIFIED", thing("a", 7)))
    assert bench.mirror.held == {"a": "7", "b": "6"}
    bench.machine.line(event("DELETED", thing("b", 8)))
    bench.later(60).machine.line(bookmark(20))

    assert bench.mirror.held == {"a": "7"}
    assert bench.mirror.heard_at_s == [1000.0, 1060.0, 1060.0, 1060.0, 1120.0]
    assert versions(bench.machine.closed()) == "20"


def test_an_event_whose_type_comes_last_is_read_as_well() -> None:
    bench = Bench().watching()
    bench.machine.line(json.dumps({"object": thing("b", 6), "type": "ADDED"}).encode())

    assert bench.mirror.held == {"a": "3", "b": "6"}


def test_an_empty_line_means_nothing() -> None:
    bench = Bench().watching()
    bench.machine.line(b"")
    bench.machine.line(b"\r")

    assert versions(bench.machine.closed()) == "5"


def test_a_watch_that_ends_in_its_time_goes_on_at_once() -> None:
    after = Bench().watching().later(300).machine.closed()

    assert isinstance(after, Watch)
    assert after.resource_version == "5"


@pytest.mark.parametrize("how", ["in good order", "broken off"])
def test_a_watch_that_ends_without_a_word_shows_that_nothing_had_happened_when_it_began(
    how: str,
) -> None:
    bench = Bench().watching()
    bench.later(50)
    if how == "in good order":
        bench.machine.closed()
    else:
        bench.machine.failed(Unreachable("reset"))
    assert bench.mirror.heard_at_s == [1000.0, 1000.0]
    bench.later(1).machine.opened()
    bench.later(50).machine.closed()

    assert bench.mirror.heard_at_s == [1000.0, 1000.0, 1051.0]


def test_a_watch_that_ends_at_once_or_with_an_error_shows_nothing() -> None:
    bench = Bench().watching()
    bench.later(5).machine.opened()
    bench.later(0.1).machine.closed()
    bench.machine.opened()
    bench.later(5).machine.failed(ApiError(500, "InternalError", "storage is away"))

    assert bench.mirror.heard_at_s == [1000.0]


def test_watches_that_open_and_hang_show_nothing_however_many_they_are() -> None:
    bench = Bench().watching().later(60)
    bench.machine.line(bookmark(6))
    for _ in range(50):
        silence_s = bench.machine.silence_s
        after = bench.later(silence_s).machine.failed(Silent(f"silent for {silence_s:g} s"))
        assert versions(after) == "6"
        bench.machine.opened()

    assert bench.mirror.heard_at_s == [1000.0, 1060.0]
    bench.later(1).machine.line(bookmark(9))
    assert bench.mirror.heard_at_s[2:] == [bench.clock.now_s]


@pytest.mark.parametrize("events", [0, 1])
def test_a_watch_that_ends_at_once_waits_longer_each_time(events: int) -> None:
    bench = Bench().watching()
    waits = []
    for number in range(12):
        bench.machine.opened()
        for _ in range(events):
            bench.machine.line(event("MODIFIED", thing("a", 10 + number)))
        after = bench.machine.closed()
        assert isinstance(after, Wait)
        waits.append(after.seconds)

    assert all(0.05 <= wait <= 10 for wait in waits)
    assert max(waits[:3]) <= 2
    assert max(waits) > 5


def test_a_watch_that_ends_every_second_is_asked_for_again_within_half_a_second() -> None:
    bench = Bench().watching()
    waits = []
    for _ in range(12):
        bench.machine.opened()
        after = bench.later(1).machine.closed()
        assert isinstance(after, Wait)
        assert isinstance(after.then, Watch)
        waits.append(after.seconds)

    assert all(0.05 <= wait <= 0.5 for wait in waits)


@pytest.mark.parametrize(
    ("failure", "relists", "waits"),
    [
        (ApiError(410, "Expired"), True, False),
        (ApiError(400, "BadRequest"), True, True),
        (ApiError(401, "Unauthorized"), False, True),
        (ApiError(403, "Forbidden"), False, True),
        (ApiError(404, "NotFound"), False, True),
        (ApiError(429, "TooManyRequests"), False, True),
        (ApiError(500, "InternalError"), False, True),
        (ApiError(503, "ServiceUnavailable"), False, True),
        (Unreachable("cut"), False, True),
        (Silent("silent for 100 s"), False, True),
        (Unreadable("noise"), True, True),
    ],
)
@pytest.mark.parametrize("lived_s", [0.0, 400.0])
def test_what_follows_when_a_watch_fails(
    failure: ClusterError, relists: bool, waits: bool, lived_s: float
) -> None:
    after = Bench().watching().later(lived_s).machine.failed(failure)
    then = after.then if isinstance(after, Wait) else after

    assert isinstance(after, Wait) == waits
    assert then == List() if relists else versions(after) == "5"


def test_an_expired_watch_told_by_an_error_event_relists_and_forgets_what_is_gone() -> None:
    bench = Bench().watching().later(100)
    with pytest.raises(ApiError) as caught:
        bench.machine.line(error(410, reason="Expired"))

    assert bench.machine.failed(caught.value) == List()
    assert versions(bench.page(page(40, [thing("z", 39)]))) == "40"
    assert bench.mirror.held == {"z": "39"}


def test_a_second_expiry_before_any_healthy_watch_waits() -> None:
    bench = Bench().watching().later(100)
    assert bench.machine.failed(ApiError(410)) == List()
    bench.watching(6)

    after = bench.machine.failed(ApiError(410))

    assert isinstance(after, Wait)
    assert after.then == List()
    bench.watching(7).later(11).machine.line(bookmark(8))
    assert bench.machine.failed(ApiError(410)) == List()


def test_a_list_that_expires_between_pages_starts_anew() -> None:
    bench = Bench()
    bench.page(page(5, [thing("a", 3)], token="t"))

    assert bench.machine.failed(ApiError(410, "Expired")) == List()
    bench.page(page(9, [thing("b", 8)]))
    assert bench.mirror.held == {"b": "8"}


def test_a_list_that_breaks_between_pages_goes_on_where_it_was() -> None:
    bench = Bench()
    bench.page(page(5, [thing("a", 3)], token="t"))

    after = bench.machine.failed(Unreachable("cut"))
    assert isinstance(after, Wait)
    assert after.then == List("t")
    bench.page(page(5, [thing("b", 4)]))
    assert bench.mirror.held == {"a": "3", "b": "4"}


def test_pages_of_different_versions_are_watched_from_the_oldest() -> None:
    bench = Bench()
    bench.page(page(5, [thing("a", 3)], token="t"))

    assert versions(bench.page(page(9, []))) == "5"


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_from_header_and_event_alike(status: int) -> None:
    bench = Bench().watching()
    after = bench.machine.failed(ApiError(status, retry_after_s=17))
    assert isinstance(after, Wait)
    assert 17 < after.seconds <= 18

    with pytest.raises(ApiError) as caught:
        bench.machine.line(error(status, details={"retryAfterSeconds": 9}))
    after = bench.machine.failed(caught.value)
    assert isinstance(after, Wait)
    assert 9 < after.seconds <= 10


@pytest.mark.parametrize("asked_s", [0, -60])
def test_a_retry_after_of_nothing_is_no_leave_to_hurry(asked_s: int) -> None:
    bench = Bench().watching()
    with pytest.raises(ApiError) as caught:
        bench.machine.line(error(429, details={"retryAfterSeconds": asked_s}))
    after = bench.machine.failed(caught.value)

    assert isinstance(after, Wait)
    assert after.seconds >= 0.05


def test_a_retry_after_of_a_day_is_five_minutes() -> None:
    after = Bench().watching().machine.failed(ApiError(503, retry_after_s=86400))

    assert isinstance(after, Wait)
    assert after.seconds <= 301


def test_a_healthy_spell_makes_the_next_wait_short_again() -> None:
    bench = Bench().watching()
    for _ in range(10):
        bench.machine.failed(Unreachable("refused"))
    restored = [bench.machine.healthy]
    bench.machine.opened()
    bench.later(11).machine.line(bookmark(6))
    restored.append(bench.machine.healthy)

    assert restored == [False, True]
    after = bench.machine.failed(Unreachable("cut"))
    assert isinstance(after, Wait)
    assert after.seconds <= 0.5


def test_a_version_the_server_keeps_failing_on_is_given_up_for_a_list() -> None:
    bench = Bench().watching()
    after = [bench.machine.failed(ApiError(504, "Timeout")) for _ in range(3)]

    assert [isinstance(each, Wait) and each.then == List() for each in after] == [
        False,
        False,
        True,
    ]


def test_a_server_that_is_away_for_long_is_not_asked_for_a_list_when_it_returns() -> None:
    bench = Bench().watching()
    after = [bench.machine.failed(Unreachable("refused")) for _ in range(50)]

    assert {versions(each) for each in after} == {"5"}


def test_silence_is_shorter_once_the_server_sends_bookmarks() -> None:
    bench = Bench().watching()
    assert 330 <= bench.machine.silence_s <= 630
    bench.machine.line(bookmark(6))

    assert bench.machine.silence_s == 100


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"kind":"Status","metadata":{}}',
        b'{"metadata":{},"items":[]}',
        b'{"metadata":{"resourceVersion":"1"},"items":[' + b"[" * 100_000,
        page(1, [thing("a", 1)])[:-9],
    ],
)
def test_a_body_that_is_no_list_is_refused_before_the_sink_hears_of_it(body: bytes) -> None:
    bench = Bench().watching()

    with pytest.raises(Unreadable):
        bench.page(body)
    assert bench.mirror.held == {"a": "3"}
    assert bench.mirror.lists == 1


def test_a_list_that_goes_on_with_the_same_page_is_refused() -> None:
    bench = Bench()
    bench.page(page(5, [], token="t"))

    with pytest.raises(Unreadable, match="same page"):
        bench.page(page(5, [], token="t"))


@pytest.mark.parametrize("odd", [{"size": "large"}, {"size": 13}])
def test_an_odd_object_in_a_list_is_left_out_and_named_once(odd: dict[str, Any]) -> None:
    bench = Bench()
    body = page(5, [thing("a", 3), thing("bad", 4, **odd), thing("c", 5)])
    with capture_logs() as logs:
        bench.page(body)
        bench.page(body)

    assert bench.mirror.held == {"a": "3", "c": "5"}
    assert [(entry["event"], entry["name"]) for entry in logs] == [("object-left-out", "bad")]


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED"])
def test_an_event_about_an_odd_object_relists_the_first_time_and_is_passed_over_after(
    kind: str,
) -> None:
    bench = Bench().watching()
    with capture_logs(), pytest.raises(Unreadable):
        bench.machine.line(event(kind, thing("a", 6, size="large")))
    assert versions(bench.machine.failed(Unreachable("to see the version"))) == "5"
    with capture_logs() as logs:
        bench.page(page(7, [thing("a", 6, size="large")]))
        bench.machine.line(event(kind, thing("a", 8, size="larger")))

    assert logs == []
    assert bench.mirror.held == {}
    assert versions(bench.machine.failed(Unreachable("to see the version"))) == "8"


def test_an_error_event_that_does_not_decode_is_never_passed_over() -> None:
    bench = Bench().watching()

    for _ in range(2):
        with pytest.raises(Unreadable):
            bench.machine.line(event("ERROR", {"kind": "Status", "metadata": {}, "code": "x"}))


def test_an_odd_object_that_mends_is_taken_in_and_said_again_when_it_breaks() -> None:
    bench = Bench()
    bench.page(page(5, [thing("a", 5, size="large")]))
    bench.machine.line(event("MODIFIED", thing("a", 6)))
    assert bench.mirror.held == {"a": "6"}

    with capture_logs() as logs, pytest.raises(Unreadable):
        bench.machine.line(event("MODIFIED", thing("a", 7, size="large")))
    assert len(logs) == 1


def test_a_sink_that_fails_on_an_event_is_told_everything_again() -> None:
    bench = Bench().watching()

    with capture_logs() as logs, pytest.raises(Unreadable):
        bench.machine.line(event("MODIFIED", thing("a", 6, size=13)))
    assert "a poisonous thing" in logs[0]["error"]
    assert isinstance(logs[0]["exc_info"], LookupError)


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["type", "object", "metadata", "name", "code", "kind", "items"]),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_line_and_no_page_raises_anything_but_a_cluster_error(noise: bytes) -> None:
    bench = Bench().watching()
    with capture_logs():
        for take in (bench.machine.line, bench.page):
            try:
                take(noise)
            except ClusterError as caught:
                bench.machine.failed(caught)
