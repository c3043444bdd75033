"""XIDs, as NVML's event sets tell of them. Beside `nvml.py` the only user of `pynvml`.

Each card has a set of its own: one that is lost spoils its own only, and whose event it is needs no
asking. https://docs.nvidia.com/deploy/nvml-api/group__nvmlEvents.html: with MIG, events of single
instances are told to the privileged only, those of the whole card to everybody.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pynvml

from extender.agent.hardware import Xid

WAIT_MS = 1
"""What is ready comes at once. Not 0, which some bindings of NVIDIA's take for a wait without end."""
MOST = 64
"""Events of one card that are taken at a time; more come the next time."""
_NO_INSTANCE = 0xFFFFFFFF


class Events:
    """The cards that are watched. What their driver cannot tell is not told; nothing raises."""

    def __init__(self) -> None:
        self._sets: dict[str, Any] = {}
        """uuid of the card -> event set."""

    def watch(self, handle: Any, uuid: str) -> bool:
        """Hear of a card from now on; whether that can be. Harmless if it is watched already."""
        if uuid in self._sets:
            return True
        try:
            made = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError:
            return False
        try:
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, made)
        except pynvml.NVMLError:
            _free(made)
            return False
        self._sets[uuid] = made
        return True

    def take(self) -> list[Xid]:
        """What has happened since the last call."""
        return [xid for uuid in list(self._sets) for xid in self._of(uuid)]

    def close(self) -> None:
        """Watch no more."""
        for made in self._sets.values():
            _free(made)
        self._sets.clear()

    def _of(self, uuid: str) -> Iterator[Xid]:
        for _ in range(MOST):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._sets[uuid], WAIT_MS)
            except pynvml.NVMLError_Timeout:
                return
            except pynvml.NVMLError:
                _free(self._sets.pop(uuid))  # made anew as soon as the card answers
                return
            yield Xid(
                code=event.eventData,
                gpu=uuid,
                gpu_instance=_instance(event.gpuInstanceId),
                compute_instance=_instance(event.computeInstanceId),
            )


def _instance(number: int) -> int | None:
    return None if number == _NO_INSTANCE else number


def _free(made: Any) -> None:
    with suppress(pynvml.NVMLError):
        pynvml.nvmlEventSetFree(made)
