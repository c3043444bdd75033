"""An API server for named objects that several clients write: versions, conflicts, nothing else."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from extender.cluster.errors import ApiError, Unreachable

if TYPE_CHECKING:
    from extender.cluster.client import ApiClient

JSON = dict[str, Any]
Hook = Callable[[str, str, bytes], None]
"""Gets method, path and body of a request."""

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def _nothing(_method: str, _path: str, _body: bytes) -> None:
    """What hooks do if nothing is said."""


class Shelf:
    """Objects by path. As the real one does, it knows merge patches, and apply of several managers.

    What they apply is merged; only where two give one field different values the later is refused.
    """

    def __init__(self) -> None:
        self.objects: dict[str, JSON] = {}
        self.away = False
        self.events: list[JSON] = []
        self.deletions: list[tuple[str, JSON]] = []
        """Path of what was to be deleted, and the preconditions."""
        self.refuse_deletions = 0
        """How many of the next ones are answered by 409."""
        self.requests: list[str] = []
        self.before: Hook = _nothing
        """Called before a change is made; it may raise."""
        self.after: Hook = _nothing
        """Called when it is made, and the answer is on its way."""
        self._version = 0

    @property
    def client(self) -> ApiClient:
        """To be handed to what is under test."""
        return cast("ApiClient", self)

    async def get(self, path: str) -> bytes:
        """An object."""
        self._met("GET", path)
        if path not in self.objects:
            raise ApiError(404, "NotFound")
        return json.dumps(self.objects[path]).encode()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes,
        content_type: str = "application/json",
        _params: object = None,
    ) -> bytes:
        """A patch of one of the objects, an Event, or the deletion of a pod."""
        self._met(method, path)
        self.before(method, path, body)
        answer = self._changed(method, path, json.loads(body), content_type)
        self.after(method, path, body)
        return answer

    def _changed(self, method: str, path: str, change: JSON, content_type: str) -> bytes:
        if method == "POST":
            self.events.append(change)
            return b"{}"
        if method == "DELETE":
            if self.refuse_deletions:
                self.refuse_deletions -= 1
                raise ApiError(409, "Conflict")
            self.deletions.append((path, change["preconditions"]))
            return b"{}"
        known = self.objects.get(path)
        if content_type == "application/apply-patch+yaml":
            if known is not None and _differs(known, change):
                raise ApiError(409, "Conflict")
            known = known or {"metadata": {"creationTimestamp": "2027-01-15T08:00:00Z"}}
        elif known is None:
            raise ApiError(404, "NotFound")
        elif change["metadata"].pop("resourceVersion") != known["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict")
        return json.dumps(self.change(path, change, known)).encode()

    def change(self, path: str, change: JSON, known: JSON | None = None) -> JSON:
        """Merge this into an object, whoever does it."""
        made = _merged(copy.deepcopy(known or self.objects[path]), change)
        if bad := [key for key in made.get("data", {}) if not _KEY.fullmatch(key)]:
            raise ApiError(422, "Invalid", f"data[{bad[0]}]")
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)
        self.objects[path] = made
        return made

    def _met(self, method: str, path: str) -> None:
        if self.away:
            raise Unreachable("nobody there")
        self.requests.append(f"{method} {path}")


def _differs(known: JSON, change: JSON) -> bool:
    """Whether a field that both have has another value."""
    return any(
        _differs(known[key], value) if isinstance(value, dict) else known[key] != value
        for key, value in change.items()
        if key in known
    )


def _merged(tree: JSON, change: JSON) -> JSON:
    """RFC 7386."""
    for key, value in change.items():
        if value is None:
            tree.pop(key, None)
        elif isinstance(value, dict):
            tree[key] = _merged(tree.get(key, {}), value)
        else:
            tree[key] = value
    return tree
