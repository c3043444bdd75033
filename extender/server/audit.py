"""The audit: one JSON object a line on stdout, written by a thread so that no pod waits for it."""

import queue
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson

QUEUE_LINES = 10_000


class Audit:
    """Takes lines at once and writes them when it can; drops and counts when it cannot keep up.

    Args:
        stream: where lines go.
        dropped: called once for every line given up.
        lines: how many may wait.
    """

    def __init__(
        self, stream: BinaryIO, dropped: Callable[[], None], lines: int = QUEUE_LINES
    ) -> None:
        self._stream = stream
        self._dropped = dropped
        self._queue: queue.Queue[bytes | None] = queue.Queue(lines)
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def line(self, fields: Mapping[str, Any]) -> None:
        """Write a line, soon. JSON escapes whatever a name may contain, so no line can be forged."""
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        try:
            self._queue.put_nowait(orjson.dumps(stamped, option=orjson.OPT_APPEND_NEWLINE))
        except queue.Full:
            self._dropped()

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._stream.write(line)
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                self._dropped()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, but not for longer than the time-out: stdout may be blocked for good."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)
