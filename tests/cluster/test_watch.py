"""Following a real server over real sockets, which does all that servers do."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from extender.cluster.client import connect
from extender.cluster.watch import Pace, Resource, follow, rights
from tests.cluster.apiserver import kubeconfig, serving
from tests.cluster.watching import THINGS, Mirror, Thing, bookmark, error, event, page, thing

# Every watch counts as healthy, so that what is tested is not the waiting.
CALM = Pace(watch_s=(60, 60), healthy_s=0.0, backoff_s=0.02, backoff_cap_s=0.05)

Step = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Told:
    """A meter that writes down."""

    def __init__(self) -> None:
        self.lists: list[int] = []
        self.events = 0
        self.troubles: list[str] = []

    def listed(self, resource: str, items: int, duration_s: float) -> None:
        assert resource == "things"
        assert duration_s >= 0
        self.lists.append(items)

    def event(self, resource: str) -> None:
        self.events += 1

    def trouble(self, resource: str, cause: str) -> None:
        self.troubles.append(cause)


class Play:
    """Answers each request by the next step; the request after the last one ends the play.

    When that one arrives, the follower has dealt with all before it.
    """

    def __init__(self, *steps: Step, resource: Resource[Thing] = THINGS) -> None:
        self.resource = resource
        self.mirror = Mirror()
        self.told = Told()
        self.asked: list[dict[str, str]] = []
        self.asked_at_s: list[float] = []
        self.logs: list[MutableMapping[str, Any]] = []
        self._steps = list(steps)
        self._over = asyncio.Event()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.path == THINGS.path
        self.asked.append(dict(request.query))
        self.asked_at_s.append(asyncio.get_running_loop().time())
        if self._steps:
            return await self._steps.pop(0)(request)
        self._over.set()
        return await hang(request)

    async def run(self, folder: Path, pace: Pace = CALM) -> "Play":
        async with serving(self._answer) as url, connect(kubeconfig(folder, url)) as client:
            with capture_logs() as self.logs:
                following = asyncio.create_task(
                    follow(
                        client,
                        self.resource,
                        self.mirror,
                        rng=Random(1),
                        pace=pace,
                        meter=self.told,
                    )
                )
                over = asyncio.create_task(self._over.wait())
                await asyncio.wait({following, over}, return_when=asyncio.FIRST_COMPLETED)
                following.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await following
        return self

    def kinds(self) -> list[str]:
        """What was asked: list, list+token, watch@version."""
        return [
            f"watch@{query['resourceVersion']}"
            if "watch" in query
            else "+".join(filter(None, ("list", query.get("continue"))))
            for query in self.asked
        ]

    def warned(self) -> list[str]:
        return [entry["cause"] for entry in self.logs if entry["log_level"] == "warning"]


async def hang(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


def listing(version: int, *items: dict[str, Any], token: str = "") -> Step:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=page(version, list(items), token))

    return answer


def refusing(status: int, retry_after: str | None = None) -> Step:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        headers = {"Retry-After": retry_after} if retry_after else {}
        return web.json_response({"kind": "Status", "reason": "No"}, status=status, headers=headers)

    return answer


def watching(*lines: bytes, then: str = "close") -> Step:
    """A watch that sends those lines, then closes, hangs, is cut, or is cut inside a line."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if lines:
            await response.write(b"".join(line + b"\n" for line in lines))
        if then == "inside":
            await response.write(event("ADDED", thing("half", 99))[:40])
        if then in {"cut", "inside"}:
            assert request.transport is not None
            request.transport.close()
        if then == "hang":
            await asyncio.Event().wait()
        return response

    return answer


async def vanish(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


A, B = thing("a", 3), thing("b", 4)


async def test_it_lists_in_pages_then_watches_with_the_same_selector(tmp_path: Path) -> None:
    play = await Play(listing(5, A, token="t/1="), listing(5, B)).run(tmp_path)

    assert play.mirror.held == {"a": "3", "b": "4"}
    assert play.asked == [
        {"labelSelector": "a=b", "limit": "500"},
        {"labelSelector": "a=b", "limit": "500", "continue": "t/1="},
        {
            "labelSelector": "a=b",
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": "5",
            "timeoutSeconds": "60",
        },
    ]
    assert play.told.lists == [2]
    assert play.warned() == []


async def test_a_watch_that_ends_goes_on_from_the_last_event_or_bookmark(tmp_path: Path) -> None:
    changed = event("MODIFIED", thing("a", 6))
    gone = event("DELETED", thing("b", 7))
    play = await Play(listing(5, A, B), watching(changed, gone), watching(bookmark(9))).run(
        tmp_path
    )

    assert play.kinds() == ["list", "watch@5", "watch@7", "watch@9"]
    assert play.mirror.held == {"a": "6"}
    assert len(play.mirror.heard_at_s) == 4
    assert play.told.events == 3


@pytest.mark.parametrize("expired", [refusing(410), watching(error(410))])
async def test_an_expired_watch_lists_anew_and_says_so_calmly(
    tmp_path: Path, expired: Step
) -> None:
    play = await Play(listing(5, A, B), expired, listing(20, thing("b", 18))).run(tmp_path)

    assert play.kinds() == ["list", "watch@5", "list", "watch@20"]
    assert play.mirror.held == {"b": "18"}
    assert play.mirror.lists == 2
    assert play.told.troubles == ["410"]
    assert play.warned() == []


async def test_a_list_that_expires_between_pages_starts_anew(tmp_path: Path) -> None:
    play = await Play(listing(5, A, token="t"), refusing(410), listing(9, B)).run(tmp_path)

    assert play.kinds() == ["list", "list+t", "list", "watch@9"]
    assert play.mirror.held == {"b": "4"}


@pytest.mark.parametrize("then", ["cut", "inside"])
async def test_a_watch_cut_anywhere_goes_on_from_the_last_whole_event(
    tmp_path: Path, then: str
) -> None:
    play = await Play(listing(5), watching(event("ADDED", thing("a", 6)), then=then)).run(tmp_path)

    assert play.kinds() == ["list", "watch@5", "watch@6"]
    assert play.mirror.held == {"a": "6"}
    assert play.warned() == ["unreachable"]


async def test_lines_of_a_mebibyte_are_read(tmp_path: Path) -> None:
    large = thing("large", 6, noise="x" * 2**20)
    play = await Play(listing(5), watching(event("ADDED", large), bookmark(7))).run(tmp_path)

    assert play.kinds() == ["list", "watch@5", "watch@7"]
    assert play.mirror.held == {"large": "6"}


@pytest.mark.parametrize("noise", [b"{", b"\xff\xfe", b"[" * 20_000, b'{"type":"ADDED"}'])
async def test_noise_in_a_watch_lists_anew(tmp_path: Path, noise: bytes) -> None:
    play = await Play(listing(5, A), watching(noise), listing(8, B)).run(tmp_path)

    assert play.kinds() == ["list", "watch@5", "list", "watch@8"]
    assert play.mirror.held == {"b": "4"}
    assert play.warned() == ["unreadable"]


async def test_noise_instead_of_a_list_is_tried_again(tmp_path: Path) -> None:
    async def page_of_a_proxy(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<html>Please log in</html>", content_type="text/html")

    play = await Play(page_of_a_proxy, page_of_a_proxy, listing(5, A)).run(tmp_path)

    assert play.kinds() == ["list", "list", "list", "watch@5"]
    assert play.warned() == ["unreadable"]
    assert "html" not in str(play.logs)


async def test_a_watch_that_hangs_is_left_and_does_not_count_as_heard(tmp_path: Path) -> None:
    pace = Pace(watch_s=(0, 0), grace_s=0.1, healthy_s=0.0, brief_s=0.0, backoff_s=0.02)
    play = await Play(listing(5, A), watching(then="hang")).run(tmp_path, pace)

    assert play.kinds() == ["list", "watch@5", "watch@5"]
    assert "silent for 0.1 s" in play.logs[-1]["error"]
    assert len(play.mirror.heard_at_s) == 1  # the list


async def test_a_watch_that_hangs_after_a_bookmark_is_left_sooner(tmp_path: Path) -> None:
    pace = Pace(grace_s=3600, bookmark_silence_s=0.1, healthy_s=0.0, backoff_s=0.02)
    play = await Play(listing(5, A), watching(bookmark(6), then="hang")).run(tmp_path, pace)

    assert play.kinds() == ["list", "watch@5", "watch@6"]


@pytest.mark.parametrize("status", [429, 503])
async def test_the_time_the_server_asks_for_is_waited(tmp_path: Path, status: int) -> None:
    play = await Play(refusing(status, "1"), listing(5, A)).run(tmp_path)

    assert play.kinds() == ["list", "list", "watch@5"]
    assert play.asked_at_s[1] - play.asked_at_s[0] >= 1


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_hot_loop(
    tmp_path: Path,
) -> None:
    play = await Play(listing(5), *[watching()] * 5).run(tmp_path, Pace(backoff_s=0.1))

    assert play.kinds() == ["list"] + ["watch@5"] * 6
    pauses_s = [
        later - sooner
        for sooner, later in zip(play.asked_at_s[1:], play.asked_at_s[2:], strict=False)
    ]
    assert min(pauses_s) >= 0.05
    assert play.warned() == ["closed"]


async def test_a_missing_right_is_named_once_and_its_coming_noted(tmp_path: Path) -> None:
    lasting = watching(bookmark(6), then="hang")
    play = await Play(*[refusing(403)] * 3, listing(5, A), lasting, refusing(403)).run(
        tmp_path, Pace(bookmark_silence_s=0.1, healthy_s=0.0, backoff_s=0.02)
    )

    said = [(entry["log_level"], entry["event"]) for entry in play.logs]
    assert said == [
        ("warning", "list-failed"),
        ("debug", "list-failed"),
        ("debug", "list-failed"),
        ("info", "listed"),
        ("info", "watch-restored"),
        ("warning", "watch-failed"),  # the silence after the bookmark
        ("warning", "watch-failed"),  # 403 once more
    ]
    assert play.logs[0]["remedy"] == (
        "grant our account list and watch on things.example.io cluster-wide"
    )
    assert play.told.troubles == ["403", "403", "403", "unreachable", "403"]


async def test_a_kind_that_a_cluster_need_not_have_is_looked_for_now_and_then_without_a_word(
    tmp_path: Path,
) -> None:
    gone = watching(bookmark(6))
    play = Play(
        *(refusing(404), refusing(404), listing(5, A), gone, refusing(404)),
        resource=replace(THINGS, optional=True),
    )
    await play.run(tmp_path, replace(CALM, absent_s=0.01))

    assert play.kinds() == ["list", "list", "list", "watch@5", "watch@6", "list"]
    assert play.mirror.held == {}  # absent means: there are none
    assert play.mirror.lists == 4
    assert [each["event"] for each in play.logs if each["log_level"] != "debug"] == ["listed"]
    assert play.told.troubles == []


async def test_a_kind_that_must_be_there_is_missed_aloud(tmp_path: Path) -> None:
    play = await Play(refusing(404), listing(5, A)).run(tmp_path)

    assert play.warned() == ["404"]


async def test_a_server_that_vanishes_and_returns_is_found_again(tmp_path: Path) -> None:
    play = await Play(vanish, listing(5, A), vanish, vanish, watching(bookmark(8))).run(tmp_path)

    assert play.kinds()[-1] == "watch@8"
    assert play.mirror.held == {"a": "3"}


async def test_others_run_between_the_events_of_a_burst(tmp_path: Path) -> None:
    burst = [event("MODIFIED", thing("a", 10 + number)) for number in range(500)]
    turns: list[int] = []

    class Watched(Mirror):
        def heard(self, now_s: float) -> None:
            super().heard(now_s)
            asyncio.get_running_loop().call_soon(lambda: turns.append(len(self.heard_at_s)))

    play = Play(listing(5, A), watching(*burst))
    play.mirror = Watched()
    await play.run(tmp_path, Pace(slice_s=0.0, healthy_s=0.0))

    # Had the burst been taken in at one go, the loop would have turned only after all of it.
    assert turns == sorted(turns)
    assert set(range(2, 400)) <= set(turns)
    assert play.mirror.held == {"a": "509"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/pods", "list and watch on pods cluster-wide"),
        ("/api/v1/namespaces", "list and watch on namespaces cluster-wide"),
        ("/api/v1/namespaces/x/configmaps", "list and watch on configmaps in namespace x"),
        (
            "/apis/resource.k8s.io/v1/deviceclasses",
            "list and watch on deviceclasses.resource.k8s.io cluster-wide",
        ),
    ],
)
def test_the_rights_for_a_path_are_spelled_out(path: str, expected: str) -> None:
    assert rights(path) == expected
