"""Requests that arrive whole on an idle connection are answered at once, without aiohttp's machinery.

Of each request aiohttp makes a task, a request and a response, which for a small JSON answer costs
several times its parsing. It still reads every byte: this stands between its parser and the rest, and
whatever is not the plainest of requests, or has no plain answer, goes on to the app unchanged.
"""

from collections.abc import Callable, Sequence
from http import HTTPMethod
from typing import Any, NamedTuple

from aiohttp import HttpVersion11, StreamReader
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_parser import RawRequestMessage

from extender.core.decision import Decision

AtOnce = Callable[[str, bytes], bytes | None]
"""Path and body of a POST -> the JSON of a 200, or None: the app shall answer. Raises nothing."""


class Answered(NamedTuple):
    """The body of a 200, and what it is about."""

    body: bytes
    dry_run: bool = False
    decision: Decision | None = None
    """Of a review."""


Message = tuple[RawRequestMessage, StreamReader]
"""The head of a request, and its body as it comes."""

_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nDate: {}\r\n\r\n"
)


class Ahead:
    """aiohttp's parser, but the only message in a piece of data is shown to somebody else first.

    Args:
        parser: what reads the bytes.
        first: gives the message back, or None when it is answered.
    """

    __slots__ = ("_first", "_parser")

    def __init__(self, parser: Any, first: Callable[[Message], Message | None]) -> None:
        self._parser = parser
        self._first = first

    def feed_data(self, data: bytes) -> tuple[Sequence[Message], bool, bytes]:
        """Messages for the app, whether the connection is upgraded, what follows an upgrade."""
        messages, upgraded, tail = self._parser.feed_data(data)
        if len(messages) == 1:
            left = self._first(messages[0])
            if left is None:
                self._parser.message_consumed()
                return (), upgraded, tail
            return (left,), upgraded, tail
        return messages, upgraded, tail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


def is_plain(message: Message) -> bool:
    """Whether a request is a POST that is here with its whole body and leaves the connection open."""
    head, body = message
    return (
        head.method == HTTPMethod.POST
        and head.version == HttpVersion11
        and not head.should_close
        and not head.upgrade
        and body.is_eof()
    )


def with_head(body: bytes) -> bytes:
    """The whole answer."""
    return _HEAD.format(len(body), rfc822_formatted_time()).encode() + body
