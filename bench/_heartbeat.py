"""`migfit serve` with one task more: a heart that beats every millisecond and notes what kept it.

Looked at from outside, a stall of the event loop cannot be told from a machine that is busy with
something else. From inside it can: a beat that is late by less processor time than by the clock was
kept by others.
"""

import asyncio
import gc
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from extender.cli.serve import _event_loop
from extender.server.logs import configure
from extender.server.serve import serve
from extender.server.settings import Settings

BEAT_S = 0.001
_LOOK_BEATS = 50


@dataclass(slots=True)
class Beats:
    """What the heart noted between two questions."""

    late_s: list[float] = field(default_factory=list)
    """By the clock, of every beat."""
    busy_s: list[float] = field(default_factory=list)
    """Processor time of the process since the beat before: what of it was ours."""
    collections: list[tuple[int, float]] = field(default_factory=list)
    """Generation and duration in seconds of every garbage collection."""


def beating(port: int, settings: Settings, pipe: Connection) -> None:
    """Serve as `migfit serve` does; whatever comes on the pipe is answered with `Beats`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # audit lines are written, and read by nobody
    configure(level=logging.WARNING)
    with asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(_serve(replace(settings, extender_port=port), pipe))


async def _serve(settings: Settings, pipe: Connection) -> None:
    heart = asyncio.create_task(_beat(pipe))
    await serve(settings)
    heart.cancel()
    with suppress(asyncio.CancelledError):
        await heart


async def _beat(pipe: Connection) -> None:
    beats = Beats()
    begun_s = 0.0

    def collecting(phase: str, info: dict[str, Any]) -> None:
        nonlocal begun_s
        now_s = time.perf_counter()
        if phase == "start":
            begun_s = now_s
        else:
            beats.collections.append((info["generation"], now_s - begun_s))

    gc.callbacks.append(collecting)
    while True:
        for _ in range(_LOOK_BEATS):
            before_s, used_s = time.perf_counter(), time.process_time()
            await asyncio.sleep(BEAT_S)
            beats.busy_s.append(time.process_time() - used_s)
            beats.late_s.append(time.perf_counter() - before_s - BEAT_S)
        if pipe.poll():
            pipe.recv()
            pipe.send(beats)
            beats.late_s, beats.busy_s, beats.collections = [], [], []
