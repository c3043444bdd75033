"""The list-watch-relist machine against a server made of lists, whatever fails on the way."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extender.cluster.errors import ApiError, ClusterError, Unreachable, Unreadable
from extender.cluster.machine import Action, List, Wait, Watch
from tests.cluster.watching import (
    PACE,
    Bench,
    bookmark,
    error,
    event,
    page,
    thing,
)


@dataclass
class Server:
    """Things with versions, a history that can be compacted, and lists that can expire."""

    version: int = 1
    things: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, bytes]] = field(default_factory=list)
    compacted: int = 0
    rests: dict[str, tuple[int, list[dict[str, Any]]]] = field(default_factory=dict)

    def change(self, name: str, odd: bool) -> None:
        self.version += 1
        item = thing(name, self.version, **({"size": "odd"} if odd else {}))
        kind = "MODIFIED" if name in self.things else "ADDED"
        self.things[name] = item
        self.history.append((self.version, event(kind, item)))

    def delete(self, name: str) -> None:
        if gone := self.things.pop(name, None):
            self.version += 1
            gone["metadata"] = {**gone["metadata"], "resourceVersion": str(self.version)}
            self.history.append((self.version, event("DELETED", gone)))

    def compact(self) -> None:
        self.compacted = self.version
        self.rests.clear()

    def list_page(self, token: str) -> bytes:
        if token and token not in self.rests:
            raise ApiError(410, "Expired")
        version, items = self.rests.pop(token) if token else (self.version, [*self.things.values()])
        if len(items) <= 2:
            return page(version, items)
        token = f"{version}-{len(items)}"
        self.rests[token] = (version, items[2:])
        return page(version, items[:2], token)

    def since(self, version: str) -> list[tuple[int, bytes]]:
        if int(version) < self.compacted:
            raise ApiError(410, "Expired")
        return [each for each in self.history if each[0] > int(version)]

    def readable(self) -> dict[str, str]:
        return {
            name: item["metadata"]["resourceVersion"]
            for name, item in self.things.items()
            if "size" not in item
        }


@dataclass(frozen=True)
class Turn:
    """What happens to the server before a request, and how the request goes."""

    changes: list[tuple[str, str]]
    refusal: ClusterError | None
    events: int
    end: bytes | ClusterError | None
    lasts_s: float


NAMES = st.sampled_from("abcdefg")
REFUSALS = st.sampled_from(
    [ApiError(code) for code in (400, 401, 403, 404, 410, 429, 500, 504)]
    + [ApiError(503, retry_after_s=2), Unreachable("cut"), Unreadable("noise")]
)
TURNS = st.builds(
    Turn,
    changes=st.lists(
        st.tuples(st.sampled_from(["change", "odd", "delete", "compact"]), NAMES), max_size=4
    ),
    refusal=st.none() | REFUSALS,
    events=st.integers(0, 5),
    end=st.none()
    | st.sampled_from([error(410), error(500), b"{", b"{}", bookmark(0)[:9]])
    | REFUSALS,
    lasts_s=st.sampled_from([0.0, 5.0, 9.9, 10.1, 400.0]),
)


class Play:
    """Plays turns against the machine, checking after each what must always hold."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.server = Server()
        self.delivered = ""  # the last version that the sink has everything of
        self.listing = ""
        self.expired = False
        self.lived = False

    def play(self, action: List | Watch, turn: Turn) -> List | Watch:
        for what, name in turn.changes:
            match what:
                case "delete":
                    self.server.delete(name)
                case "compact":
                    self.server.compact()
                case _:
                    self.server.change(name, odd=what == "odd")
        self.lived = False
        try:
            if turn.refusal:
                raise turn.refusal
            after = self.list(action) if isinstance(action, List) else self.watch(action, turn)
        except ClusterError as caught:
            after = self.bench.machine.failed(caught)
            if self.lived:
                self.expired = False
            gone = isinstance(caught, ApiError) and caught.status == 410
            if not (gone and not self.expired):
                assert isinstance(after, Wait), "a failure without a wait"
            self.expired |= gone
        if isinstance(after, Wait):
            assert 0.05 <= after.seconds <= 31
            self.bench.later(after.seconds)
            after = after.then
        if isinstance(after, Watch):
            assert after.resource_version == self.delivered != ""
        return after

    def list(self, action: List) -> Action:
        body = self.server.list_page(action.continue_token)
        metadata = json.loads(body)["metadata"]
        if not action.continue_token:
            self.listing = metadata["resourceVersion"]
        after = self.bench.page(body)
        if "continue" not in metadata:
            self.delivered = self.listing
        return after

    def watch(self, action: Watch, turn: Turn) -> Action:
        news = self.server.since(action.resource_version)[: turn.events]
        machine = self.bench.machine
        machine.opened()
        self.bench.later(turn.lasts_s)
        self.lived = turn.lasts_s >= PACE.healthy_s
        for version, line in news:
            machine.line(line)
            self.delivered = str(version)
        if not turn.end and len(news) < turn.events:
            machine.line(bookmark(self.server.version))
            self.delivered = str(self.server.version)
        if isinstance(turn.end, bytes):
            machine.line(turn.end)
            pytest.fail("an end that does not end")
        if turn.end:
            raise turn.end
        after = machine.closed()
        if self.lived:
            self.expired = False
        assert isinstance(after, Watch) == self.lived, "ended at once, and no wait; or the reverse"
        return after


@settings(max_examples=300, deadline=None)
@given(st.lists(TURNS, max_size=30))
def test_whatever_fails_the_sink_ends_up_with_what_the_server_holds(turns: list[Turn]) -> None:
    play = Play()
    action: List | Watch = List()
    peace = Turn([], None, 1000, None, 400.0)
    with capture_logs():
        for turn in turns:
            action = play.play(action, turn)
        for _ in range(20):
            action = play.play(action, peace)

    assert isinstance(action, Watch)
    assert play.bench.mirror.held == play.server.readable()
    assert action.resource_version == str(play.server.version)
