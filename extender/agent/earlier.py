"""What the run before this one told, read back out of the object. Total over any JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from extender.agent.devices import Key
from extender.agent.faults import Fault
from extender.agent.peaks import Observed
from extender.agent.status import Json


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a restarted agent takes over."""

    heartbeat_s: float | None
    """Unix time at which it was written; None: it does not say."""
    peaks: Mapping[Key, Observed]
    faults: tuple[Fault, ...]


def earlier(status: Json) -> Earlier:
    """Out of the status of a `GpuNode`."""
    devices = list(_devices(status))
    return Earlier(
        heartbeat_s=_unix(status.get("heartbeatTime")),
        peaks=dict(peak for _, device in devices for peak in _peaks(device)),
        faults=tuple(fault for card, device in devices for fault in _faults(card, device)),
    )


def _devices(status: Json) -> Iterator[tuple[str, Json]]:
    """(uuid of the card, the card or a slice of it)."""
    for gpu in _objects(status.get("gpus")):
        for device in (gpu, *_objects(gpu.get("slices"))):
            yield str(gpu.get("uuid")), device


def _peaks(device: Json) -> Iterator[tuple[Key, Observed]]:
    for each in _objects(device.get("holders")):
        peak_mib, since_s = each.get("peakMiB"), _unix(each.get("since"))
        if isinstance(peak_mib, int) and since_s is not None:
            key = (str(device.get("uuid")), str(each.get("namespace")), str(each.get("pod")))
            yield key, Observed(peak_mib, since_s, bool(each.get("preallocates")))


def _faults(card: str, device: Json) -> Iterator[Fault]:
    for each in _objects(device.get("xids")):
        code, since_s = each.get("code"), _unix(each.get("time"))
        if isinstance(code, int) and since_s is not None:
            yield Fault(code, card, str(device.get("uuid")), since_s)


def _objects(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _unix(value: object) -> float | None:
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (OverflowError, ValueError):
        return None
