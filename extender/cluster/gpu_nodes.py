"""What the agents tell of their nodes, as long as they are heard."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from extender.cluster.held import Held
from extender.cluster.objects import GpuNodeObject, GpuObject, HolderObject, SliceObject
from extender.cluster.seen_pods import PodPeak, SeenPods
from extender.core.catalogue import resource_name
from extender.core.occupancy import Counts, Occupancy, SeenGpu

STALE_S = 180.0
"""Three heartbeats: an agent that is silent for longer is gone, and what it told may be too."""


EXPIRE_S = 10.0


@dataclass(slots=True)
class _Told:
    heartbeat: str
    heard_at_s: float
    occupancy: Occupancy
    fresh: bool = True


class GpuNodes:
    """The agents' objects. Whether one is heard is when we saw its heartbeat change: clocks differ.

    Args:
        changed: called with the name of a node of which something else is known now.
        peaks: is told what pods were seen to use.
        clock: seconds, monotonic.
        wall: Unix time, for the age of a heartbeat that is seen for the first time.
    """

    def __init__(
        self,
        changed: Callable[[str], None],
        peaks: SeenPods,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._changed, self._peaks, self._clock, self._wall = changed, peaks, clock, wall
        self._told: dict[str, _Told] = {}
        self.held: Held[GpuNodeObject] = Held(self._put, self._drop, lambda i: i.metadata.name)

    def seen(self, node: str) -> Occupancy | None:
        """What an agent that is heard sees on its node."""
        told = self._told.get(node)
        return told.occupancy if told is not None and told.fresh else None

    def heard(self) -> int:
        """Agents that are heard; may be asked by another thread."""
        return sum(told.fresh for told in list(self._told.values()))

    def silent(self) -> int:
        """Agents whose object is there, and that are not; may be asked by another thread."""
        return sum(not told.fresh for told in list(self._told.values()))

    def expire(self) -> None:
        """Use no longer what agents told that have fallen silent."""
        now_s = self._clock()
        for name, told in self._told.items():
            if told.fresh and now_s - told.heard_at_s > STALE_S:
                self._silence(name, told)

    async def follow(self) -> NoReturn:
        """Let what is too old expire, now and then. Runs until cancelled."""
        while True:
            await asyncio.sleep(EXPIRE_S)
            self.expire()

    def _silence(self, name: str, told: _Told) -> None:
        told.fresh = False
        self._peaks.tell(name, ())
        self._changed(name)

    def _put(self, item: GpuNodeObject) -> None:
        name, beat = item.metadata.name, item.status.heartbeat_time
        before = self._told.get(name)
        now_s = self._clock()
        if before is None:
            heard_at_s = now_s - max(0.0, self._wall() - _unix(beat))
        else:
            heard_at_s = now_s if beat != before.heartbeat else before.heard_at_s
        fresh = now_s - heard_at_s <= STALE_S
        told = _Told(beat, heard_at_s, occupancy(item.status.gpus), fresh)
        self._told[name] = told
        self._peaks.tell(name, tuple(_peaks(item.status.gpus)) if fresh else ())
        was = before.occupancy if before is not None and before.fresh else None
        if was != self.seen(name):
            self._changed(name)

    def _drop(self, name: str) -> None:
        told = self._told.pop(name)
        if told.fresh:
            self._silence(name, told)


def _unix(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return -math.inf


def newest_heartbeat_s(items: Iterable[GpuNodeObject]) -> float:
    """Unix time of the newest heartbeat; 0 where there is none."""
    return max((0.0, *(_unix(item.status.heartbeat_time) for item in items)))


def occupancy(gpus: Iterable[GpuObject] | None) -> Occupancy:
    """What there is to count with in what an agent tells."""
    if gpus is None:
        return Occupancy()
    cards = list(gpus)
    every = [each for card in cards for each in card.slices or ()]
    complete = all(card.slices is not None for card in cards) and all(s.profile for s in every)
    sizes: dict[str, list[int | None]] = {}
    for each in every:
        if each.profile:
            sizes.setdefault(resource_name(each.profile), []).append(each.memory_mib)
    known = {name: [mib for mib in of_name if mib is not None] for name, of_name in sizes.items()}
    return Occupancy(
        gpus=tuple(map(_card, cards)) if complete and all(map(_placed, cards)) else None,
        held=_counts(each for each in every if each.holders),
        slices=_counts(each for each in every if each.allocatable is not False)
        if complete
        else None,
        usable_mib=tuple(
            sorted((name, min(mib)) for name, mib in known.items() if len(mib) == len(sizes[name]))
        ),
    )


def _placed(card: GpuObject) -> bool:
    """Whether it is known of all of the card who holds it."""
    if card.mig is None:
        return False
    return all(each.holders is not None for each in (card.slices or ()) if card.mig) and (
        card.mig or card.holders is not None
    )


def _card(card: GpuObject) -> SeenGpu:
    free = (s for s in card.slices or () if not s.holders and s.allocatable is not False)
    return SeenGpu(len({(h.namespace, h.pod) for _, h in _holders([card])}), _counts(free))


def _counts(slices: Iterable[SliceObject]) -> Counts:
    return tuple(sorted(Counter(resource_name(s.profile) for s in slices if s.profile).items()))


def _holders(cards: Iterable[GpuObject]) -> Iterator[tuple[GpuObject | SliceObject, HolderObject]]:
    for card in cards:
        for device in (card, *(card.slices or ())):
            for holder in device.holders or ():
                yield device, holder


def _peaks(cards: Iterable[GpuObject] | None) -> Iterator[PodPeak]:
    """Of pods that hold a device with one container: of several it is not known which uses how much."""
    for _, holder in _holders(cards or ()):
        names = holder.containers or []
        if holder.peak_mib is not None and len(names) == 1:
            pod = (holder.namespace, holder.pod, names[0])
            yield PodPeak(*pod, holder.peak_mib, holder.preallocates)
