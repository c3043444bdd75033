"""The audit: one JSON object a line on stdout, made and written by a thread: no pod waits for it."""

import json
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

log = structlog.get_logger(__name__)

Fields = Mapping[str, Any]
"""Of one line, without its time."""

QUEUE_LINES = 10_000
LONGEST_LINE_BYTES = 16 * 1024
"""Container runtimes tear longer lines (`MaxLogSize` of CRI); names come unchecked and may be longer."""
QUEUE_BYTES = 64 * 1024 * 1024
"""Of the bodies that lines are about. What waits for the thread is no line yet, and holds names out of
its body, of any length."""
_SHORTER = ((256, 64), (64, 16), (16, 4))
"""Characters of a text and items of a list that are kept of a line that is too long; the first that
makes it short enough, which the last one does whatever a pod calls itself."""
_BATCH_LINES = 1000
_GATHER_S = 0.01
"""How long lines wait for company. A thread that wakes for each takes the event loop's time away."""


class Audit:
    """Takes lines at once and writes them when it can; drops and counts when it cannot keep up.

    Args:
        fd: file descriptor that lines go to, past Python's own buffer: at exit that one would be
            flushed again, and wait for a reader who may never come.
        dropped: called once for every line given up.
        lines: how many may wait.
        most_bytes: how many bytes of bodies they may be about.
    """

    def __init__(
        self,
        fd: int,
        dropped: Callable[[], None],
        lines: int = QUEUE_LINES,
        most_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._fd = fd
        self._dropped = dropped
        self._lines, self._most_bytes = lines, most_bytes
        self._come_bytes = self._gone_bytes = 0  # each is counted by one of the two threads
        self._queue: queue.SimpleQueue[_Told | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def line(self, fields: Fields | Callable[[], Fields], body_bytes: int = 0) -> None:
        """Write a line, soon. Whatever a name may contain, it is one line, and of plain ASCII.

        Args:
            fields: what to write, or what makes it when the thread comes to it.
            body_bytes: of the request it is about.
        """
        waiting_bytes = self._come_bytes - self._gone_bytes
        if self._queue.qsize() >= self._lines or waiting_bytes >= self._most_bytes:
            self._dropped()
            return
        self._come_bytes += body_bytes
        self._queue.put((time.time(), fields, body_bytes))

    def _run(self) -> None:
        going = True
        while going:
            taken = [self._queue.get()]
            time.sleep(_GATHER_S)  # so that lines are written together
            with suppress(queue.Empty):
                while len(taken) < _BATCH_LINES:
                    taken.append(self._queue.get_nowait())
            told = [each for each in taken if each is not None]
            going = len(told) == len(taken)
            lines = [
                line for at_s, each, _ in told if (line := self._rendered(at_s, each)) is not None
            ]
            try:
                _write(self._fd, b"".join(lines))
            except OSError:
                for _ in lines:
                    self._dropped()
            self._gone_bytes += sum(body_bytes for _, _, body_bytes in told)

    def _rendered(self, at_s: float, fields: Fields | Callable[[], Fields]) -> bytes | None:
        stamp = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
        try:
            return _encoded({"time": stamp, **(fields() if callable(fields) else fields)})
        except Exception:  # the thread must live: without it no line would ever be written again
            log.exception("audit line could not be made")
            self._dropped()
            return None

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, but not for longer than the time-out: stdout may be blocked for good."""
        self._queue.put(None)
        self._thread.join(timeout_s)


_Told = tuple[float, Fields | Callable[[], Fields], int]
"""Wall-clock time, what to write, and the bytes it is about."""


def _encoded(fields: Fields) -> bytes:
    """One line, never a long one."""
    line = _line(fields)
    for characters, items in _SHORTER:
        if len(line) <= LONGEST_LINE_BYTES:
            break
        fields = _shortened(fields, characters, items)
        line = _line(fields)
    return line


def _line(fields: Fields) -> bytes:
    """JSON escapes newlines and C0 controls; ASCII leaves no other line break, and no C1 either."""
    line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    if not line.isascii():
        line = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    return line


def _shortened(value: Any, characters: int, items: int) -> Any:
    match value:
        case str():
            return value if len(value) <= characters else value[:characters] + "…"
        case list():
            return [_shortened(each, characters, items) for each in value[:items]]
        case dict():
            return {key: _shortened(each, characters, items) for key, each in value.items()}
        case _:
            return value


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody we share stdout with has made it so
            select.select((), (fd,), ())
