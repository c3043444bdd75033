"""The objects of one kind that are there now, as a watch tells of them."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Held(Generic[T]):
    """A `Sink` for a watch that knows which objects are there, and tells of each change.

    Args:
        put: called with every object that is new or changed.
        drop: called with the key of every object that is gone.
        key: what tells two objects of the kind apart.
    """

    def __init__(
        self, put: Callable[[T], None], drop: Callable[[str], None], key: Callable[[T], str]
    ) -> None:
        self._put, self._drop, self._key = put, drop, key
        self._keys: set[str] = set()
        self._unseen: set[str] = set()
        self.synced = False
        """A full list has arrived at least once."""
        self.heard_at_s: float | None = None

    def listing(self) -> None:
        """A full list begins; a list that broke off half-way is forgotten."""
        self._unseen = set(self._keys)

    def upsert(self, item: T) -> None:
        """An object is there, in this version."""
        key = self._key(item)
        self._keys.add(key)
        self._unseen.discard(key)
        self._put(item)

    def remove(self, item: T) -> None:
        """An object is gone."""
        self._forget(self._key(item))

    def _forget(self, key: str) -> None:
        if key in self._keys:
            self._keys.remove(key)
            self._drop(key)

    def listed(self) -> None:
        """The list is complete: what it did not name is gone."""
        for key in self._unseen:
            self._forget(key)
        self._unseen = set()
        self.synced = True

    def heard(self, now_s: float) -> None:
        """An event or a bookmark arrived."""
        self.heard_at_s = now_s

    def fill(self, items: Iterable[T], now_s: float) -> None:
        """Take a complete list, as from a file."""
        self.listing()
        for item in items:
            self.upsert(item)
        self.listed()
        self.heard(now_s)
