"""What each pod uses at the most of each device it holds, from samples, in bounded memory.

NVML tells what is used of a device, not by whom. A sample therefore counts for a pod only if that pod
alone held the device both before and after it was taken: not while several pods share one, nor for a
device that changed hands meanwhile.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from extender.agent.devices import Devices, Held, Key

WINDOW = 12
"""Samples that must agree to make a plateau: a minute at one every 5 s."""
FLAT = 0.01
"""How far they may be apart, as a share of the device's memory."""
SHARES = ((0.73, 0.80), (0.84, 1.0))
"""Of a device's memory, what programs reserve at once whatever they need: JAX 0.75; vLLM, SGLang,
TensorRT-LLM and TensorFlow about 0.9 of what they find, or all of it; with what CUDA itself takes."""
SETTLE_S = 30.0
"""A kubelet that has just started tells of no pods for a while, though they run on."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of one pod on one device."""

    peak_mib: int
    since_s: float
    """Since when it has been watched, in seconds of Unix time."""
    preallocates: bool = False
    """It holds near a fixed share of the device: what it reserves, not what it needs."""


@dataclass(slots=True)
class _Track:
    since_s: float
    peak_mib: int = -1
    plateau_mib: int | None = None
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    risen_mib: int = -1
    """What the peak was when it last rose by more than is flat."""
    since_rise: int = 0
    """Samples since then, that one included."""

    def add(self, used_mib: int, memory_mib: int | None) -> None:
        self.peak_mib = max(self.peak_mib, used_mib)
        self.recent.append(used_mib)
        if not memory_mib:
            return
        if self.peak_mib - self.risen_mib > FLAT * memory_mib:
            self.risen_mib, self.since_rise = self.peak_mib, 0
        self.since_rise += 1
        highest = max(self.recent)
        flat = len(self.recent) == WINDOW and highest - min(self.recent) <= FLAT * memory_mib
        if flat and _near_a_share(highest, memory_mib):
            self.plateau_mib = highest

    def observed(self, memory_mib: int | None) -> Observed | None:
        if self.peak_mib < 0:
            return None
        # One that has grown beyond its plateau did not hold everything it would ever take.
        at_most = (self.plateau_mib or 0) + 2 * FLAT * (memory_mib or 0)
        preallocates = self.plateau_mib is not None and self.peak_mib <= at_most
        # Whether it stays there shows in a minute; until then it must not be taken for a need.
        undecided = self.since_rise < WINDOW and _near_a_share(self.peak_mib, memory_mib)
        return Observed(self.peak_mib, self.since_s, preallocates or undecided)


def _near_a_share(mib: int, memory_mib: int | None) -> bool:
    if not memory_mib:
        return False
    return any(least <= mib / memory_mib <= most for least, most in SHARES)


class Peaks:
    """Peaks of the pods that hold a device now, and of no others."""

    def __init__(self) -> None:
        self._tracks: dict[Key, _Track] = {}
        self._silent_at_s: float | None = None

    def __len__(self) -> int:
        return len(self._tracks)

    def restore(self, seen: Mapping[Key, Observed], now_s: float) -> None:
        """Take over what an earlier run saw, for pods that turn out to hold the device still."""
        self._silent_at_s = now_s
        for key, each in seen.items():
            track = self._tracks.setdefault(key, _Track(each.since_s))
            track.since_s = min(track.since_s, each.since_s)
            track.peak_mib = max(track.peak_mib, each.peak_mib)
            if each.preallocates:
                track.plateau_mib = max(track.plateau_mib or 0, each.peak_mib)

    def take(self, devices: Devices, before: Held | None, after: Held | None, now_s: float) -> None:
        """Count one sample.

        Args:
            devices: what was read, memory in use included.
            before: who held what before that; None: not known.
            after: the same after it.
            now_s: Unix time.
        """
        if after is None or (after.unplaced and not devices.complete):
            self._silent_at_s = now_s  # those that cannot be placed may be on what cannot be read
            return
        present = {(uuid, *pod) for uuid in after.by_device for pod in after.pods(uuid)}
        present |= after.unread
        if self._silent_at_s is None or now_s - self._silent_at_s > SETTLE_S:
            self._silent_at_s = None
            self._tracks = {k: track for k, track in self._tracks.items() if k in present}
        if before is None or after.unplaced or before.unplaced:
            return  # who is not told could be on any of them
        for uuid in after.by_device:
            device, pods = devices.by_uuid.get(uuid), after.pods(uuid)
            if device is None or device.used_mib is None:
                continue
            if len(pods) == 1 and before.pods(uuid) == pods:
                [pod] = pods
                track = self._tracks.setdefault((uuid, *pod), _Track(now_s))
                track.add(device.used_mib, device.memory_mib)

    def of(self, uuid: str, pod: tuple[str, str], memory_mib: int | None) -> Observed | None:
        """What was seen of a pod on a device; None if nothing could be."""
        track = self._tracks.get((uuid, *pod))
        return None if track is None else track.observed(memory_mib)
