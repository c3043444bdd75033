"""The status of a `GpuNode`: what the agent tells of its node. Pure: values in, JSON out.

A field that is absent is not known. A list that is there and empty says that there are none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from extender.agent.assignments import Holder, Unknown
from extender.agent.devices import Held
from extender.agent.faults import Fault, Faults
from extender.agent.hardware import Gpu, Hardware, Health, Slice
from extender.agent.peaks import Observed, Peaks
from extender.core.catalogue import product_of
from extender.core.observed import Peak
from extender.core.quantity import MIB

Json = dict[str, Any]

MOST_GONE = 64
"""Ids listed of devices that are no more."""
MOST_HOLDERS, MOST_CONTAINERS = 256, 64
"""Of one device, in the order of their names: as many as the kind GpuNode holds."""
MATTERS_MIB = 256
"""A smaller change of memory in use is not worth a write by itself; see `differs`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything the agent knows at one moment."""

    hardware: Hardware
    held: Held | None
    """None: the kubelet does not tell."""
    silence: Unknown | None
    """Why it does not."""
    peaks: Peaks
    faults: Faults


def status(seen: Seen, now_s: float, version: str, conditions: Iterable[Json] = ()) -> Json:
    """The whole status.

    Args:
        seen: what is known.
        now_s: Unix time, the heartbeat.
        version: of migfit.
        conditions: of the object as it was: a condition keeps its time until it changes.
    """
    gpus = [_gpu(gpu, seen) for gpu in seen.hardware.gpus or ()]
    found: Json = {
        "heartbeatTime": rfc3339(now_s),
        "agentVersion": version,
        "driverVersion": seen.hardware.driver,
        "summary": _summary(seen.hardware, gpus),
        "gpus": gpus if seen.hardware.gpus is not None else None,
        "unplacedDevices": seen.held.unplaced if seen.held is not None else None,
        "goneDevices": sorted(seen.held.gone)[:MOST_GONE] if seen.held is not None else None,
        "conditions": _conditions(seen, gpus, now_s, conditions),
    }
    return _known(found)


def rfc3339(time_s: float) -> str:
    """Unix time as Kubernetes writes it, in whole seconds."""
    return datetime.fromtimestamp(int(time_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _gpu(gpu: Gpu, seen: Seen) -> Json:
    slices = gpu.slices
    held = _holders(gpu.uuid, gpu.memory_mib, seen)
    faults = seen.faults.of(gpu.uuid)
    ill = faults and gpu.health is Health.HEALTHY
    return _known(
        {
            "index": gpu.index,
            "uuid": gpu.uuid,
            "product": gpu.product,
            "memoryMiB": gpu.memory_mib,
            "mig": gpu.mig,
            "health": str(Health.XID_ERROR if ill else gpu.health),
            "xids": _xids(faults) if faults or gpu.watched else None,
            "usedMiB": gpu.used_mib,
            "holders": held if held or gpu.mig is False else None,
            "slices": None if slices is None else [_slice(each, seen) for each in slices],
        }
    )


def _slice(each: Slice, seen: Seen) -> Json:
    known = None if seen.held is None else seen.held.allocatable
    return _known(
        {
            "uuid": each.uuid,
            "profile": each.profile,
            "start": each.start,
            "size": each.size,
            "memoryMiB": each.memory_mib,
            "usedMiB": each.used_mib,
            "xids": _xids(seen.faults.of(each.uuid)) or None,
            "allocatable": None if known is None else each.uuid in known,
            "holders": _holders(each.uuid, each.memory_mib, seen),
        }
    )


def _xids(faults: Iterable[Fault]) -> list[Json]:
    return [{"code": fault.code, "time": rfc3339(fault.since_s)} for fault in faults]


def _holders(uuid: str | None, memory_mib: int | None, seen: Seen) -> list[Json] | None:
    """Pods on a device; None where there may be some that nobody can place."""
    if seen.held is None or uuid is None:
        return None
    containers: dict[tuple[str, str], list[str]] = {}
    for each in sorted(seen.held.by_device.get(uuid, frozenset[Holder]())):
        containers.setdefault((each.namespace, each.pod), []).append(each.container)
    if not containers and seen.held.unplaced:
        return None
    return [
        _known(
            {
                "namespace": pod[0],
                "pod": pod[1],
                "containers": names[:MOST_CONTAINERS],
                **_peak(seen.peaks.of(uuid, pod, memory_mib)),
            }
        )
        for pod, names in islice(containers.items(), MOST_HOLDERS)
    ]


def _peak(observed: Observed | None) -> Json:
    if observed is None:
        return {}
    return {
        "peakMiB": observed.peak_mib,
        "since": rfc3339(observed.since_s),
        "preallocates": observed.preallocates or None,
    }


def _summary(hardware: Hardware, gpus: list[Json]) -> Json:
    """What `kubectl get gpunodes` prints."""
    if hardware.gpus is None:
        return {"slices": "?"}
    slices = [each for gpu in gpus for each in gpu.get("slices") or ()]
    complete = all("slices" in gpu for gpu in gpus)
    known = complete and all("holders" in each for each in slices)
    used = sum(bool(each.get("holders")) for each in slices)
    told = all("holders" in gpu for gpu in gpus if gpu.get("mig") is not True)
    return _known(
        {
            "gpus": len(gpus),
            "mig": sum(gpu["mig"] for gpu in gpus) if all("mig" in gpu for gpu in gpus) else None,
            "slicesUsed": used if known else None,
            "slicesTotal": len(slices) if complete else None,
            "slices": f"{used if known else '?'}/{len(slices) if complete else '?'}",
            "hollow": sum(map(hollow, gpus)) if told else None,
        }
    )


def health(device: Json) -> str:
    """How a card is, in words: `XidError (XID 48, 94)`; of a slice only the latter."""
    codes = ", ".join(str(each["code"]) for each in device.get("xids", ()))
    told = f"XID {codes}" if codes else ""
    if "health" not in device:
        return told
    return f"{device['health']} ({told})" if told else str(device["health"])


def hollow(gpu: Json) -> bool:
    """Whether a whole GPU is held by one pod whose observed peak, with a margin, fits a slice."""
    holders = gpu.get("holders") or []
    product = product_of(gpu.get("product", ""), gpu.get("memoryMiB"))
    if len(holders) != 1 or product is None or "peakMiB" not in holders[0]:
        return False
    [holder] = holders
    seen = Peak(holder["peakMiB"], pods=1, preallocates=holder.get("preallocates", False))
    footprint_bytes = seen.footprint_bytes()
    if footprint_bytes is None:
        return False
    sizes = (p.fallback_mib for p in product.profiles if p.memory_slices < product.memory_slices)
    return any(mib is not None and mib * MIB >= footprint_bytes for mib in sizes)


def _conditions(
    seen: Seen, gpus: Iterable[Json], now_s: float, earlier: Iterable[Json]
) -> list[Json]:
    ill = [gpu for gpu in gpus if gpu["health"] != Health.HEALTHY]
    if seen.hardware.gpus is None:
        hardware = ("Unknown", "NvmlUnavailable", seen.hardware.problem)
    elif ill:
        told = ", ".join(f"GPU {gpu['index']} is {health(gpu)}" for gpu in ill)
        hardware = ("False", ill[0]["health"], told)
    else:
        hardware = ("True", "Read", "every GPU answers")
    if seen.silence is not None:
        holders = ("Unknown", str(seen.silence.reason), seen.silence.message)
    elif seen.held is not None and seen.held.unplaced:
        told = f"{seen.held.unplaced} devices are held that cannot be told from others"
        holders = ("False", "Unplaced", told)
    else:
        holders = ("True", "Read", "the kubelet tells who holds what")
    was = {each.get("type"): each for each in earlier}
    return [
        _condition(was.get(kind, {}), kind, *told, now_s)
        for kind, told in (("Hardware", hardware), ("Holders", holders))
    ]


def _condition(was: Json, kind: str, value: str, reason: str, message: str, now_s: float) -> Json:
    same = was.get("status") == value
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastTransitionTime": was["lastTransitionTime"] if same else rfc3339(now_s),
    }


def _known(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def differs(old: Json, new: Json) -> bool:
    """Whether a status tells enough that is new to be written before the next heartbeat.

    Memory in use changes all the time: it counts once it is off by `MATTERS_MIB` and a twentieth.
    """
    return _differs({**old, "heartbeatTime": ""}, {**new, "heartbeatTime": ""})


def _differs(old: Any, new: Any, name: str = "") -> bool:
    if name in {"usedMiB", "peakMiB"} and isinstance(old, int) and isinstance(new, int):
        return abs(new - old) >= max(MATTERS_MIB, old // 20)
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() - {"usedMiB"} != new.keys() - {"usedMiB"}:
            return True
        return any(_differs(old[key], new[key], key) for key in old.keys() & new.keys())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) != len(new) or any(map(_differs, old, new))
    return bool(old != new)
