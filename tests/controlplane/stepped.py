"""`migfit serve` whose wall clock somebody steps: `stepped.py FILE FLAGS`.

FILE holds the seconds that the clock is ahead, as a double, and may be changed at any time. Only the
wall clock is stepped, as the kernel does it: the monotonic one goes on.
"""

import datetime as dt
import importlib
import mmap
import struct
import sys
import time
from pathlib import Path

_real = time.time


def stepping(file: Path) -> None:
    """Let everything imported from now on see the stepped clock."""
    with file.open("rb") as opened:
        ahead = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def stepped() -> float:
        return _real() + float(struct.unpack_from("d", ahead)[0])

    class Stepped(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Stepped":
            return cls.fromtimestamp(stepped(), tz)

    time.time = stepped
    time.time_ns = lambda: int(stepped() * 1e9)
    # Only there: times that others write are decoded into the class itself, and into no other.
    importlib.import_module("extender.server.events").datetime = Stepped  # type: ignore[attr-defined]


def step(file: Path, ahead_s: float) -> None:
    """Set the clock of whoever reads that file."""
    file.touch()
    with file.open("r+b") as opened:
        opened.write(struct.pack("d", ahead_s))


if __name__ == "__main__":
    clock, *flags = sys.argv[1:]
    stepping(Path(clock))
    importlib.import_module("extender.cli.serve").serve(flags)
