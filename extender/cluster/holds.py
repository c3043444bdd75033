"""Workloads that are held back: a ConfigMap that one replica writes and all read.

An entry is one key of its data, `NAMESPACE.KIND.NAME`, so an admin lifts a hold by removing a key.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, Unreadable
from extender.cluster.objects import ConfigMapObject
from extender.cluster.watch import Resource
from extender.core.finding import Cause

log = structlog.get_logger(__name__)

CONFIG_MAP = "migfit-holds"
MOST = 1000
MOST_BYTES = 900 * 1024
"""The API server takes a ConfigMap of 1 MiB."""
LONGEST_WHY = 300
LONGEST_NAME = 253
"""Of a kind or a name: no object that the API server has made has a longer one. Of those in an
ownerReference it asks only that they are not empty."""
_LONGEST_KEY = 253
_NOT_IN_A_KEY = re.compile(r"[^-._a-zA-Z0-9]")
_ENDLESS_S = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

Key = tuple[str, str]
"""Namespace and `Kind/name`."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One workload held back. Times are seconds since the epoch."""

    namespace: str
    kind: str
    name: str
    cause: Cause
    why: str
    since_s: float
    until_s: float
    deleted_s: float | None = None
    """When a pod of it was last deleted."""

    @property
    def key(self) -> Key:
        """As in `Snapshot.held`."""
        return self.namespace, f"{self.kind}/{self.name}"

    @property
    def entry(self) -> str:
        """Its key in the ConfigMap, of what a key may have; a namespace cannot have a dot in it."""
        whole = f"{self.namespace}.{self.kind}.{self.name}"
        kind = self.kind.replace(".", "_")
        plain = _NOT_IN_A_KEY.sub("_", f"{self.namespace}.{kind}.{self.name}")
        if plain == whole and len(whole) <= _LONGEST_KEY:
            return whole
        told_apart = json.dumps([self.namespace, self.kind, self.name])
        return f"{plain[: _LONGEST_KEY - 9]}-{hashlib.sha256(told_apart.encode()).hexdigest()[:8]}"

    def written(self) -> str:
        """The value there."""
        fields = {
            "namespace": self.namespace,
            "kind": self.kind,
            "name": self.name,
            "cause": str(self.cause),
            "why": self.why[:LONGEST_WHY],
            "since": rfc3339(self.since_s),
            "until": rfc3339(self.until_s),
        }
        if self.deleted_s is not None:
            fields["deleted"] = rfc3339(self.deleted_s)
        return json.dumps(fields)


class _Written(msgspec.Struct):
    namespace: str
    kind: str
    name: str
    until: datetime
    cause: Cause = Cause.FAILS
    why: str = ""
    since: datetime | None = None
    deleted: datetime | None = None


_decoder = msgspec.json.Decoder(_Written)


def read_hold(value: str) -> Hold:
    """An entry, ours or written by hand; at least namespace, kind, name and until.

    Raises:
        ValueError: it is none.
    """
    try:
        found = _decoder.decode(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if found.until.tzinfo is None:
        raise ValueError("`until` has no time zone")
    until_s = min(found.until.timestamp(), _ENDLESS_S)
    return Hold(
        found.namespace,
        found.kind,
        found.name,
        found.cause,
        found.why,
        until_s if found.since is None else found.since.timestamp(),
        until_s,
        None if found.deleted is None else found.deleted.timestamp(),
    )


def rfc3339(time_s: float) -> str:
    """A time as Kubernetes writes it, to the second."""
    return datetime.fromtimestamp(min(time_s, _ENDLESS_S), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Holds(Mapping[Key, float]):
    """The holds in force: workload -> seconds left; and a `Sink` for the watch of the ConfigMap.

    Args:
        wall: seconds since the epoch.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._clock = wall, clock
        self._holds: dict[Key, Hold] = {}
        self._known_at_s: dict[Key, float] = {}
        self._bad: frozenset[str] = frozenset()
        self._listed_one = False
        self.entries: Mapping[str, str] = {}
        """The ConfigMap's data, as last seen."""
        self.version: str | None = None
        """Its resourceVersion; None while there is none."""
        self.synced = False
        """It was read at least once, or is known not to be there."""
        self.heard_at_s: float | None = clock()
        """When the watch was last heard of, by the clock; before that, since when it is waited for."""

    def __getitem__(self, key: Key) -> float:
        hold = self._holds.get(key)
        if hold is None or (left_s := hold.until_s - self._wall()) <= 0:
            raise KeyError(key)
        return left_s

    def __iter__(self) -> Iterator[Key]:
        now_s = self._wall()
        return iter([key for key, hold in self._holds.items() if hold.until_s > now_s])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def get_hold(self, key: Key) -> Hold | None:
        """The hold on a workload, if it is in force."""
        return self._holds[key] if key in self else None

    def ended(self, key: Key) -> Hold | None:
        """A hold that was on the workload before, while it is still there to be read."""
        return None if key in self else self._holds.get(key)

    def known_s(self, key: Key) -> float:
        """For how long this process has known of a hold, by its own clock; 0 if it does not."""
        known_at_s = self._known_at_s.get(key)
        return 0.0 if known_at_s is None else self._clock() - known_at_s

    # --- what the watch tells --------------------------------------------------------------------

    def listing(self) -> None:
        """See `Sink`."""
        self._listed_one = False

    def upsert(self, item: ConfigMapObject) -> None:
        """See `Sink`."""
        self._listed_one = True
        self.version = item.metadata.resource_version
        self._take(item.data or {})
        self.synced = True

    def remove(self, item: ConfigMapObject) -> None:  # noqa: ARG002  there is only one
        """See `Sink`. Deleting the whole ConfigMap lifts every hold."""
        self.version = None
        self._take({})

    def listed(self) -> None:
        """See `Sink`."""
        if not self._listed_one:
            self.version = None
            self._take({})
        self.synced = True

    def heard(self, now_s: float) -> None:
        """See `Sink`."""
        self.heard_at_s = now_s

    def _take(self, entries: Mapping[str, str]) -> None:
        holds: dict[Key, Hold] = {}
        bad = {}
        for entry, value in entries.items():
            try:
                hold = read_hold(value)
            except ValueError as error:
                bad[entry] = str(error)
                continue
            known = holds.get(hold.key)
            holds[hold.key] = hold if known is None else _both(known, hold)
        if new := bad.keys() - self._bad:
            first = min(new)
            log.warning(
                "entries that are no holds; they are passed over",
                configmap=CONFIG_MAP,
                entries=len(bad),
                first=first[:_LONGEST_KEY],
                error=bad[first],
            )
        self._bad = frozenset(bad)
        self._known_at_s = {key: self._known_at_s.get(key, self._clock()) for key in holds}
        self._holds, self.entries = holds, entries

    # --- what is to be written -------------------------------------------------------------------

    def change(self, holds: Iterable[Hold]) -> dict[str, str | None]:
        """What to change in the data, so that these are in it, and what has ended is not.

        Of more than `MOST` entries, or `MOST_BYTES`, those go first that are no holds, then those of
        bare pods, each of which has one of its own; then the oldest of the namespace that has most.
        """
        new = {hold.entry: hold.written() for hold in holds}
        now_s = self._wall()
        every = {**self.entries, **new}
        read: dict[str, Hold] = {}
        gone = set()
        for entry, value in every.items():
            try:
                hold = read_hold(value)
            except ValueError:
                continue
            if hold.until_s <= now_s:
                gone.add(entry)
            else:
                read[entry] = hold
        stay = [*_dearest_first(read, new), *(every.keys() - read.keys() - gone)]
        count, size = 0, 0
        for entry in stay:
            takes = len(f"{entry}{every[entry]}".encode())
            if count < MOST and size + takes <= MOST_BYTES:
                count, size = count + 1, size + takes
            else:
                gone.add(entry)
        changed: dict[str, str | None] = {entry: None for entry in gone if entry in self.entries}
        return changed | {entry: value for entry, value in new.items() if entry not in gone}


def _both(one: Hold, other: Hold) -> Hold:
    """What two entries say of one workload: a person may write one beside ours."""
    longer = max(one, other, key=lambda hold: hold.until_s)
    deleted_s = [each.deleted_s for each in (one, other) if each.deleted_s is not None]
    return replace(longer, deleted_s=max(deleted_s, default=None))


def _dearest_first(holds: Mapping[str, Hold], new: Container[str]) -> list[str]:
    """Entries in the order in which they stay, where not all can: to each namespace one in turn."""
    before: Counter[tuple[bool, str]] = Counter()
    turns = {}
    for entry in sorted(holds, key=lambda e: (e in new, holds[e].since_s), reverse=True):
        group = holds[entry].kind == "Pod", holds[entry].namespace
        turns[entry] = group[0], before[group]
        before[group] += 1
    return sorted(turns, key=turns.__getitem__)


class HoldStore:
    """Writes the ConfigMap; needs get, list, watch, create and patch on that one name."""

    def __init__(self, client: ApiClient, namespace: str, holds: Holds) -> None:
        self._client, self._holds = client, holds
        self._collection = f"/api/v1/namespaces/{namespace}/configmaps"

    @property
    def resource(self) -> Resource[ConfigMapObject]:
        """What to follow."""
        only = {"fieldSelector": f"metadata.name={CONFIG_MAP}"}
        return Resource("holds", self._collection, ConfigMapObject, only)

    async def write(self, holds: Iterable[Hold], manager: str) -> bool:
        """Put these holds there; False if it was changed meanwhile: look again.

        Args:
            holds: new ones, and such as are changed.
            manager: field manager to create it as; another in every process. Of two that create it at
                once, as one that has just lost its Lease may, the holds of both are kept; only where
                both name one workload the later is refused.

        Raises:
            ClusterError: it cannot be written.
        """
        change = self._holds.change(holds)
        if not change:
            return True
        version = self._holds.version
        body: dict[str, object]
        if version is None:
            data = {entry: value for entry, value in change.items() if value is not None}
            body = {"apiVersion": "v1", "kind": "ConfigMap"}
            body |= {"metadata": {"name": CONFIG_MAP}, "data": data}
            content_type = "application/apply-patch+yaml"
        else:
            body = {"metadata": {"resourceVersion": version}, "data": change}
            content_type, manager = "application/merge-patch+json", "migfit"
        path = f"{self._collection}/{CONFIG_MAP}"
        try:
            answer = await self._client.request(
                "PATCH", path, json.dumps(body).encode(), content_type, {"fieldManager": manager}
            )
        except ApiError as error:
            if error.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                return False
            raise
        try:
            written = msgspec.json.decode(answer, type=ConfigMapObject)
        except (msgspec.MsgspecError, RecursionError):
            raise Unreadable(f"PATCH {path}: the answer is no ConfigMap") from None
        if self._holds.version == version:  # else the watch was faster: what it told may be newer
            self._holds.upsert(written)
        return True


def marked_deleted(hold: Hold, now_s: float) -> Hold:
    """The hold, with a pod deleted now."""
    return replace(hold, deleted_s=now_s)
