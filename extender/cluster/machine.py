"""List, watch, relist as a state machine: answers and failures in, the next request out. No I/O.

The rules are those of Kubernetes' "Efficient detection of changes" (API concepts), with the traps
that its page does not dwell on: a server that hangs up at once, expiry in the middle of a list,
lines that do not decode.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog

from extender.cluster import wire
from extender.cluster.backoff import Backoff
from extender.cluster.errors import ApiError, ClusterError, Silent, Unreachable, Unreadable, cut

log = structlog.get_logger(__name__)

_LONGEST_RETRY_AFTER_S = 300.0
_SERVER_ERRORS_UNTIL_RELIST = 3
_MOST_UNREADABLE = 1000


class Metadata(Protocol):
    """What the machine reads of an object. Empty strings where the server says nothing."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def namespace(self) -> str: ...  # noqa: D102
    @property
    def resource_version(self) -> str: ...  # noqa: D102


class Object(Protocol):
    """A Kubernetes object: a msgspec Struct with the fields its reader wants, and this one."""

    @property
    def metadata(self) -> Metadata: ...  # noqa: D102


T = TypeVar("T", bound=Object)
T_contra = TypeVar("T_contra", contravariant=True)


class Sink(Protocol[T_contra]):
    """Where objects go. Called from one task, never from two at once."""

    def listing(self) -> None:
        """A full list begins. May come again before `listed`: the list had to start anew."""

    def upsert(self, item: T_contra) -> None:
        """This is how the object is now. The same state may come twice."""

    def remove(self, item: T_contra) -> None:
        """The object is gone, or no longer selected. It may be one never seen."""

    def listed(self) -> None:
        """The list is complete: what was not upserted since the last `listing` is gone."""

    def heard(self, now_s: float) -> None:
        """The server was heard (page, event or bookmark) at that time of the injected clock."""


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """What to follow.

    Attributes:
        name: for logs and metrics: `pods`.
        path: of the collection: `/api/v1/pods`, `/api/v1/namespaces/x/configmaps`.
        item: msgspec Struct to decode into, with `metadata` as in `Object`.
        params: selectors, sent with list and watch alike: `{"fieldSelector": "metadata.name=x"}`.
        optional: a kind that the cluster may not have (404): then there are none, and that is no
            trouble. It is looked for again now and then.
    """

    name: str
    path: str
    item: type[T]
    params: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how much; the defaults are for real clusters.

    Attributes:
        page_items: `limit` of a list request.
        watch_s: least and most `timeoutSeconds` of a watch; jittered so that not all end at once.
        grace_s: silence after `timeoutSeconds` until a watch counts as hung.
        bookmark_silence_s: the same once the server is known to send bookmarks, one a minute: a hung
            watch is then found before the state is stale.
        healthy_s: a watch that has lived so long ends a run of failures.
        brief_s: one that has lived so long was told all that had happened before it began, and its
            end in good order is no failure.
        backoff_s: ceiling of the first wait.
        backoff_cap_s: ceiling of every wait.
        slice_s: at most so long without letting other tasks run.
        absent_s: from one look for a kind that is not there to the next.
    """

    page_items: int = 500
    watch_s: tuple[int, int] = (300, 600)
    grace_s: float = 30.0
    bookmark_silence_s: float = 100.0
    healthy_s: float = 10.0
    brief_s: float = 0.5
    backoff_s: float = 0.5
    backoff_cap_s: float = 10.0
    slice_s: float = 0.005
    absent_s: float = 60.0


@dataclass(frozen=True, slots=True)
class List:
    """Ask for a page: the first, or the one after that token."""

    continue_token: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask for what happened after that version."""

    resource_version: str
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask for nothing for so long, then go on."""

    seconds: float
    then: List | Watch


Action = List | Watch | Wait


class Machine(Generic[T]):
    """What to ask next, so that the sink ends up holding what the server holds.

    A watch starts only at a version that a complete list, an event or a bookmark has given; that
    version moves on only once the sink has what came with it. Whatever may have lost an event ends
    in a list. After a failure there is always a wait, except after the first expiry (410) in a
    healthy run.
    """

    def __init__(
        self,
        resource: Resource[T],
        sink: Sink[T],
        *,
        clock: Callable[[], float],
        rng: Random,
        pace: Pace,
    ) -> None:
        self._name = resource.name
        self._optional = resource.optional
        self._sink = sink
        self._clock = clock
        self._rng = rng
        self._pace = pace
        self._backoff = Backoff(rng, first_s=pace.backoff_s, cap_s=pace.backoff_cap_s)
        self._items = msgspec.json.Decoder(resource.item)
        self._pages = wire.page_decoder(resource.item)
        self._events = wire.event_decoder(resource.item)
        self._doing: List | Watch = List()
        self._version = ""  # seen by the sink; where the next watch starts
        self._list_version = ""  # of the list in progress
        self._opened_at: float | None = None
        self._heard_at: float | None = None
        self._healthy = False
        self._bookmarked = False
        self._expired = False  # once already in this run of failures
        self._server_errors = 0
        self._unreadable: set[tuple[str, str]] = set()

    @property
    def healthy(self) -> bool:
        """Whether nothing has failed since a watch lived for `healthy_s`."""
        return self._healthy

    @property
    def silence_s(self) -> float:
        """How long the watch may say nothing before it counts as hung."""
        if self._bookmarked or isinstance(self._doing, List):
            return self._pace.bookmark_silence_s
        return self._doing.timeout_s + self._pace.grace_s

    def begin(self) -> Action:
        """The first thing to do."""
        return self._list()

    def open_page(self, body: bytes) -> wire.Page[T]:
        """Decode the answer to `List`; give its items to `take`, then call `close_page`.

        An object that does not decode is left out and logged once: one odd object must not hide
        all others.

        Raises:
            Unreadable: this is no list, or one that cannot be continued or watched.
        """
        try:
            page = self._pages.decode(body)
        except wire.UNDECODABLE:
            page = self._page_by_item(body)
        asked = self._doing.continue_token if isinstance(self._doing, List) else ""
        if not page.metadata.resource_version:
            raise Unreadable(f"{self._name}: a list without resourceVersion")
        if asked and page.metadata.continue_token == asked:
            raise Unreadable(f"{self._name}: a list that goes on with the same page")
        if not asked:
            self._sink.listing()
            # All pages are of one version; should a server differ, the oldest loses nothing.
            self._list_version = page.metadata.resource_version
        return page

    def take(self, item: T) -> None:
        """Hand one item of a page to the sink."""
        self._give(self._sink.upsert, item)

    def close_page(self, page: wire.Page[T]) -> Action:
        """All items of the page are taken: on to the next page, or to the watch."""
        self._heard(self._clock())
        if page.metadata.continue_token:
            return self._list(page.metadata.continue_token)
        self._sink.listed()
        self._version = self._list_version
        self._server_errors = 0
        return self._watch()

    def opened(self) -> None:
        """The server has accepted the watch."""
        self._opened_at = self._clock()

    def line(self, line: bytes) -> None:
        """Take in one line of the watch.

        Raises:
            ApiError: it was an ERROR event.
            Unreadable: it was no event, or about an object that we cannot read and had not met
                yet. What the sink must forget, only a list can tell.
        """
        try:
            event = self._events.decode(line)
        except wire.UNDECODABLE as error:
            if line.strip():
                self._odd_line(line, error)
            return
        if isinstance(event, wire.Failure):
            raise event.object.error(HTTPStatus.INTERNAL_SERVER_ERROR)
        if isinstance(event, wire.Bookmark):
            self._bookmarked = True
        else:
            self._hand_over(event)
        self._seen(event.object.metadata)

    def closed(self) -> Action:
        """The server has ended the watch in good order."""
        brief = not self._lived(self._clock(), self._pace.brief_s)
        if self._end(told=True):
            return self._watch()
        if not brief:
            return Wait(self._backoff.first_s(), self._watch())
        # Even if events came: one event and a hang-up, over and over, is a hot loop too.
        return Wait(self._backoff.next_s(), self._watch())

    def absent(self, error: ClusterError) -> bool:
        """Whether a failure only says that the cluster does not have this kind, and need not."""
        return (
            self._optional and isinstance(error, ApiError) and error.status == HTTPStatus.NOT_FOUND
        )

    def failed(self, error: ClusterError) -> Action:
        """The list or the watch came to nothing, or broke off."""
        self._end(told=isinstance(error, Unreachable) and not isinstance(error, Silent))
        self._healthy = False
        if self.absent(error):
            self._sink.listing()
            self._sink.listed()
            return Wait(self._pace.absent_s * (1 + self._rng.random() / 2), self._list())
        status = error.status if isinstance(error, ApiError) else None
        if status == HTTPStatus.GONE and not self._expired:
            self._expired = True
            return self._list()
        delay_s = self._delay_s(error)
        if isinstance(error, Unreadable) or status in {HTTPStatus.GONE, HTTPStatus.BAD_REQUEST}:
            return Wait(delay_s, self._list())
        if isinstance(self._doing, List):
            return Wait(delay_s, self._doing)
        # "Too large resource version", say, after a backup was restored: only a list mends that.
        self._server_errors += status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if self._server_errors >= _SERVER_ERRORS_UNTIL_RELIST:
            return Wait(delay_s, self._list())
        return Wait(delay_s, self._watch())

    def _list(self, continue_token: str = "") -> List:
        self._doing = List(continue_token)
        return self._doing

    def _watch(self) -> Watch:
        least, most = self._pace.watch_s
        timeout_s = least + int(self._rng.random() * (most - least))
        self._doing = Watch(self._version, timeout_s)
        return self._doing

    def _delay_s(self, error: ClusterError) -> float:
        own_s = self._backoff.next_s()
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        if asked_s is None or asked_s <= 0:
            return own_s
        return min(asked_s, _LONGEST_RETRY_AFTER_S) + min(own_s, 1.0)

    def _seen(self, metadata: Metadata) -> None:
        if metadata.resource_version:
            self._version = metadata.resource_version
        now_s = self._clock()
        self._heard(now_s)
        if not self._healthy and self._lived(now_s, self._pace.healthy_s):
            self._forgive()

    def _heard(self, at_s: float) -> None:
        if self._heard_at is None or at_s >= self._heard_at:
            self._heard_at = at_s
            self._sink.heard(at_s)

    def _end(self, *, told: bool) -> bool:
        """Whether the watch has lived long.

        Args:
            told: it brought what the server had to tell until it was cut.
        """
        now_s = self._clock()
        lived = self._lived(now_s, self._pace.healthy_s)
        if told and self._opened_at is not None and self._lived(now_s, self._pace.brief_s):
            # Without a word, perhaps: where nothing happens there is only a bookmark a minute, and
            # load balancers hang up sooner.
            self._heard(self._opened_at)
        self._opened_at = None
        if lived:
            self._forgive()
        else:
            self._healthy = False
        return lived

    def _lived(self, now_s: float, least_s: float) -> bool:
        return self._opened_at is not None and now_s - self._opened_at >= least_s

    def _forgive(self) -> None:
        self._healthy = True
        self._expired = False
        self._server_errors = 0
        self._backoff.reset()

    def _hand_over(self, event: wire.Added[T] | wire.Modified[T] | wire.Deleted[T]) -> None:
        remove = isinstance(event, wire.Deleted)
        if not self._give(self._sink.remove if remove else self._sink.upsert, event.object):
            raise Unreadable(f"{self._name}: an object that cannot be taken in")

    def _give(self, give: Callable[[T], None], item: T) -> bool:
        """Whether the sink is right about the item, or was told to forget it by an earlier list."""
        metadata = item.metadata
        try:
            give(item)
        except Exception as error:  # noqa: BLE001  one odd object must not stop the others
            return not self._stumble(metadata, error)
        if self._unreadable:
            self._unreadable.discard((metadata.namespace, metadata.name))
        return True

    def _odd_line(self, line: bytes, why: Exception) -> None:
        try:
            metadata = wire.ANY_EVENT.decode(line).object.metadata
        except wire.UNDECODABLE as error:
            raise Unreadable(f"{self._name}: no watch event: {cut(str(error))}") from why
        if not metadata.name or self._stumble(metadata, why):
            raise Unreadable(f"{self._name}: an event that does not decode") from why
        self._seen(metadata)

    def _page_by_item(self, body: bytes) -> wire.Page[T]:
        try:
            raw = wire.RAW_PAGE.decode(body)
            items = [item for each in raw.items or () if (item := self._read(each)) is not None]
        except wire.UNDECODABLE as error:
            raise Unreadable(f"{self._name}: no list: {cut(str(error))}") from error
        return wire.Page(metadata=raw.metadata, items=items)

    def _read(self, raw: msgspec.Raw) -> T | None:
        try:
            return self._items.decode(raw)
        except wire.UNDECODABLE as error:
            self._stumble(wire.ANY_OBJECT.decode(raw).metadata, error)
            return None

    def _stumble(self, metadata: Metadata, why: Exception) -> bool:
        """Remember an object that we cannot take in; log it, and say True, the first time."""
        key = (metadata.namespace, metadata.name)
        if key in self._unreadable:
            return False
        if len(self._unreadable) >= _MOST_UNREADABLE:
            self._unreadable.clear()
        self._unreadable.add(key)
        decoding = isinstance(why, wire.UNDECODABLE)
        log.warning(
            "object-left-out",
            resource=self._name,
            namespace=metadata.namespace,
            name=metadata.name,
            error=f"{type(why).__name__}: {cut(str(why))}",
            exc_info=None if decoding else why,
        )
        return True
