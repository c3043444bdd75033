"""What is promised to pods on their way: from our answer until the pod shows up in the watch."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

import msgspec

from extender.cluster.objects import PodObject
from extender.core.decision import Promise
from extender.core.rewrite import DECISION_ANNOTATION

MOST = 10_000
"""More in flight than this, and the oldest promises are given up: a pod may then wait for a moment,
which is better than memory without bound."""


class _Mark(msgspec.Struct):
    """Of our annotation on a pod, what ends a promise."""

    id: str = ""


_marks = msgspec.json.Decoder(_Mark)


class InFlight:
    """Promises by id of their decision, each for a limited time.

    Args:
        ttl_s: how long a promise lasts if the pod never shows up, as when somebody refused it.
        clock: seconds, monotonic.
        ended: called with every promise that is in flight no longer.
    """

    def __init__(
        self,
        ttl_s: Callable[[], float],
        clock: Callable[[], float],
        ended: Callable[[Promise], None],
    ) -> None:
        self._ttl_s, self._clock, self._ended = ttl_s, clock, ended
        self._promises: dict[str, Promise] = {}
        self._until_s: OrderedDict[str, float] = OrderedDict()
        """Oldest first, which is the order in which they end: all last equally long."""

    def __len__(self) -> int:
        return len(self._promises)

    def __iter__(self) -> Iterator[Promise]:
        return iter(list(self._promises.values()))

    @property
    def by_id(self) -> Mapping[str, Promise]:
        """The promises in flight."""
        return self._promises

    def add(self, promise: Promise) -> None:
        """A decision was made that will be stored."""
        self.end(promise.id)
        if len(self._promises) >= MOST:
            self.end(next(iter(self._until_s)))
        self._promises[promise.id] = promise
        self._until_s[promise.id] = self._clock() + self._ttl_s()

    def expire(self) -> None:
        """End what has lasted long enough."""
        if not self._until_s:
            return
        now_s = self._clock()
        while self._until_s:
            oldest = next(iter(self._until_s))
            if self._until_s[oldest] > now_s:
                return
            self.end(oldest)

    def end(self, request_id: str) -> None:
        """The pod of that decision is there, or will never be."""
        promise = self._promises.pop(request_id, None)
        if promise is not None:
            del self._until_s[request_id]
            self._ended(promise)

    def arrived(self, item: PodObject) -> None:
        """A pod shows up in the watch."""
        mark = (item.metadata.annotations or {}).get(DECISION_ANNOTATION)
        if mark is not None:
            try:
                self.end(_marks.decode(mark).id)
            except (msgspec.MsgspecError, RecursionError):
                return  # somebody else's text; the promise ends by time
