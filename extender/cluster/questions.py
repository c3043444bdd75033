"""Questions to an API server, where "you may not know" is an answer too."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from extender.cluster.client import ApiClient, Params
from extender.cluster.errors import ApiError, ClusterError, Unreadable
from extender.cluster.inventory import pages
from extender.cluster.wire import UNDECODABLE
from extender.core.doctor.evidence import JSON

T = TypeVar("T")


def _all(_item: JSON) -> bool:
    return True


def _whole(item: JSON) -> JSON:
    return item


class Questions:
    """Asks, and remembers what could not be read.

    Args:
        client: an entered one.
        namespace: where objects are that are asked for without one.

    Attributes:
        unread: what could not be read -> why, in one line.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.client = client
        self.unread: dict[str, str] = {}
        self._namespace = namespace

    async def attempt(self, what: str, answer: Awaitable[T], otherwise: T) -> T:
        """The answer; if there is none, that is written down."""
        try:
            return await answer
        except ClusterError as error:
            self.unread[what] = str(error)
            return otherwise

    async def get(self, path: str) -> JSON | None:
        """An object; None if there is none.

        Raises:
            ClusterError: the API server says no, or nothing, or nonsense.
        """
        try:
            body = await self.client.get(path)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except UNDECODABLE as error:
            raise Unreadable(f"GET {path}: this is not what the API server sends") from error

    async def every(
        self,
        path: str,
        wanted: Callable[[JSON], bool] = _all,
        params: Params | None = None,
        lean: Callable[[JSON], JSON] = _whole,
    ) -> tuple[JSON, ...]:
        """The objects of a collection that are wanted, and of them what `lean` keeps.

        Raises:
            ClusterError: as above.
        """
        listed = pages(self.client, path, params)
        return tuple([lean(item) async for page in listed for item in page if wanted(item)])

    def path(self, plural: str, name: str, namespace: str = "", group: str = "api/v1") -> str:
        """Of an object, or of a collection if the name is empty."""
        where = namespace or self._namespace
        return f"/{group}/namespaces/{where}/{plural}/{name}".rstrip("/")
