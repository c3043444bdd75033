"""One look after the other at the hardware and at who holds it."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from extender.agent.assignments import Assignments, Unknown
from extender.agent.devices import Devices, Held, held
from extender.agent.earlier import Earlier
from extender.agent.faults import Faults
from extender.agent.hardware import Hardware, Reader
from extender.agent.metrics import AgentMetrics
from extender.agent.peaks import Peaks
from extender.agent.said import Said
from extender.agent.status import Json, Seen, status

NVML_S = 30.0
"""How long a reading may take until the driver counts as hung."""


class Asked(Protocol):
    """Who tells what pods hold: the kubelet."""

    async def ask(self) -> Assignments | Unknown:
        """Everything, now."""


class Sampler:
    """Knows one node's GPUs, and who holds them.

    Args:
        reader: of the hardware.
        kubelet: who holds what.
        version: of migfit.
        metrics: show each sample.
        clock: seconds, monotonic.
        wall: Unix time.
        booted_s: Unix time at which the node was started.
        nvml_s: how long a reading may take.
    """

    def __init__(
        self,
        reader: Reader,
        kubelet: Asked,
        *,
        version: str,
        metrics: AgentMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        booted_s: float = 0.0,
        nvml_s: float = NVML_S,
    ) -> None:
        self._reader, self._kubelet = reader, kubelet
        self._version = version
        self._metrics = metrics or AgentMetrics()
        self._clock, self._wall = clock, wall
        self._booted_s, self._nvml_s = booted_s, nvml_s
        self._before: Held | None = None
        self._reading: asyncio.Future[Hardware] | None = None
        self._said = Said()
        self._seen: Seen | None = None
        self.peaks, self._faults = Peaks(), Faults()
        self.latest: Json = {}
        """The status as of the last sample."""
        self.sampled_at_s = clock()

    async def sample(self) -> None:
        """Look once."""
        hardware = await self._hardware()
        answer = await self._kubelet.ask()
        devices = Devices(hardware)
        after = held(answer, devices) if isinstance(answer, Assignments) else None
        # Where the hardware is not known no device has holders either: so what a hung reading tells
        # at last, of a time when others may have held the device, is nobody's sample.
        self.peaks.take(devices, self._before, after, self._wall())
        self._faults.take(hardware, self._wall())
        self._before = after
        silence = answer if isinstance(answer, Unknown) else None
        self._seen = Seen(hardware, after, silence, self.peaks, self._faults)
        self._render()
        self.sampled_at_s = self._clock()
        self._metrics.sampled(self.latest)
        self._said.about("hardware", hardware.problem)
        self._said.about("kubelet", silence.message if silence is not None else "")

    def take_over(self, earlier: Earlier) -> None:
        """Go on with what an earlier run saw."""
        self.peaks.restore(earlier.peaks, self._wall())
        self._faults.restore(earlier.faults, self._booted_s)
        self._render()

    def _render(self) -> None:
        if self._seen is not None:
            conditions = self.latest.get("conditions", ())
            self.latest = status(self._seen, self._wall(), self._version, conditions)

    async def _hardware(self) -> Hardware:
        """What NVML says; a reading that takes too long goes on, and the next look asks for it again."""
        if self._reading is None:
            self._reading = _on_a_thread(self._reader.read)
        done, _ = await asyncio.wait({self._reading}, timeout=self._nvml_s)
        if not done:
            return Hardware(problem=f"NVML: no answer within {self._nvml_s:g} s")
        hardware = self._reading.result()
        self._reading = None
        return hardware

    def close(self) -> None:
        """Let the driver go. A reading that hangs is not waited for."""
        if self._reading is None:
            self._reader.close()


def _on_a_thread(read: Callable[[], Hardware]) -> asyncio.Future[Hardware]:
    """Not by an executor: Python waits for the threads of those when it ends, and a driver may hang."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Hardware] = loop.create_future()

    def run() -> None:
        try:
            settle = partial(done.set_result, read())
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            settle = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name="nvml", daemon=True).start()
    return done
