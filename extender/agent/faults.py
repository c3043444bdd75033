"""Which cards and slices are ill, by the XIDs that the driver told of them. In bounded memory.

An XID is told once, when it happens. What it says of a card holds until the driver is loaded anew or the
node starts anew; what it says of a slice, also no longer than the slice is there.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from extender.agent.hardware import Hardware, Slice, Xid

OF_PROGRAMS = frozenset({13, 31, 43, 45, 68, 109})
"""XIDs of a program that did wrong on a card that is well. NVIDIA's device plugin takes no device out of
service for these: `ignoredXids` in `internal/rm/health.go`, after https://docs.nvidia.com/deploy/xid-errors/."""
MOST_CODES = 8
"""Told of one device: the first, which are the nearest to the cause."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An XID that makes a device ill."""

    code: int
    card: str
    """uuid of the card."""
    device: str
    """uuid of the slice, or of the card."""
    since_s: float
    """When it was heard of first, in seconds of Unix time."""


class Faults:
    """What is wrong with the devices of a node."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], Fault] = {}
        self._slices: deque[frozenset[str]] = deque(maxlen=2)
        """uuids at the last two readings."""

    def of(self, uuid: str | None) -> list[Fault]:
        """Of one device, the earliest first. Of a card also those of its slices."""
        found = (fault for fault in self._kept.values() if fault.device == uuid)
        return sorted(found, key=lambda fault: fault.since_s)

    def restore(self, faults: Iterable[Fault], booted_s: float) -> None:
        """Take over what an earlier run heard of, unless the node was started anew since."""
        for fault in faults:
            if fault.since_s >= booted_s:
                self._add(fault)

    def take(self, hardware: Hardware, now_s: float) -> None:
        """Take in one reading, of this Unix time."""
        if hardware.reloaded:
            self._kept.clear()
        if hardware.gpus is None:
            self._slices.clear()
            return
        here = {gpu.uuid: gpu.slices for gpu in hardware.gpus}
        for xid in hardware.xids:
            if xid.code not in OF_PROGRAMS:
                for uuid in (xid.gpu, *self._named(xid, here.get(xid.gpu) or ())):
                    self._add(Fault(xid.code, xid.gpu, uuid, now_s))
        self._slices.append(frozenset(s.uuid for of_card in here.values() for s in of_card or ()))
        self._kept = {
            key: fault
            for key, fault in self._kept.items()
            if fault.card in here
            and (
                fault.device == fault.card
                or (of_card := here[fault.card]) is None
                or any(each.uuid == fault.device for each in of_card)
            )
        }

    def _named(self, xid: Xid, slices: Iterable[Slice]) -> list[str]:
        """Slices that an event is of: those with its ids that were there before it could happen.

        Ids are used again. A reading asks for events before it looks at the slices, so what it hears of
        happened after the slices were looked at for the last time but one.
        """
        if xid.gpu_instance is None or len(self._slices) < 2:  # noqa: PLR2004  as many as are kept
            return []
        return [
            each.uuid
            for each in slices
            if each.uuid in self._slices[0]
            and each.gpu_instance == xid.gpu_instance
            and xid.compute_instance in (None, each.compute_instance)
        ]

    def _add(self, fault: Fault) -> None:
        if sum(each.device == fault.device for each in self._kept.values()) < MOST_CODES:
            self._kept.setdefault((fault.device, fault.code), fault)
