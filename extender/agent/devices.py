"""From the ids that device plugins make up to the GPUs and slices that NVML knows.

NVIDIA's plugin: `GPU-…` and `MIG-…`, shared ones with `::3` behind; before driver 470
`MIG-GPU-…/<GPU instance>/<compute instance>`. Google's: `nvidia0`, `nvidia0/gi1`, with `/vgpu2` behind
if shared. (`internal/rm` of k8s-device-plugin; the pattern in dcgm-exporter for Google's.)
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from extender.agent.assignments import Assignments, Holder
from extender.agent.hardware import Hardware

Key = tuple[str, str, str]
"""(uuid of the device, namespace, pod)."""

_GOOGLE = re.compile(r"nvidia([0-9]+)(?:/gi([0-9]+))?(?:/vgpu[0-9]+)?")
_NVIDIA = ("GPU-", "MIG-")
_OLD_MIG = re.compile(r"MIG-(GPU-[^/]+)/([0-9]+)/([0-9]+)")


@dataclass(frozen=True, slots=True)
class Device:
    """A whole GPU or a slice of one, by what NVML knows it by."""

    uuid: str
    gpu: str
    """uuid of the card; the same as `uuid` for a whole one."""
    memory_mib: int | None
    used_mib: int | None

    @property
    def whole(self) -> bool:
        """Whether it is a whole card."""
        return self.uuid == self.gpu


class Devices:
    """The devices of a node at one moment, by any name a plugin may give them."""

    def __init__(self, hardware: Hardware) -> None:
        self.by_uuid: dict[str, Device] = {}
        self._minor: dict[int, str] = {}
        self._slice: dict[tuple[str, int | None], str] = {}
        """(uuid of the card, GPU instance) -> uuid."""
        self.complete = hardware.gpus is not None and all(
            gpu.uuid is not None and gpu.slices is not None for gpu in hardware.gpus
        )
        """Whether a device that is not here is nowhere."""
        for gpu in hardware.gpus or ():
            if gpu.uuid is None:
                continue
            self._minor[gpu.index if gpu.minor is None else gpu.minor] = gpu.uuid
            self.by_uuid[gpu.uuid] = Device(gpu.uuid, gpu.uuid, gpu.memory_mib, gpu.used_mib)
            for each in gpu.slices or ():
                self._slice[gpu.uuid, each.gpu_instance] = each.uuid
                self.by_uuid[each.uuid] = Device(
                    each.uuid, gpu.uuid, each.memory_mib, each.used_mib
                )

    def uuid_of(self, id_: str) -> str | None:
        """The device that a plugin's id stands for; None: none that is there now."""
        plain = id_.partition("::")[0]
        if plain in self.by_uuid:
            return plain
        if match := _OLD_MIG.fullmatch(plain):
            return self._slice.get((match[1], int(match[2])))
        if match := _GOOGLE.fullmatch(plain):
            gpu = self._minor.get(int(match[1]))
            if gpu is None or match[2] is None:
                return gpu
            return self._slice.get((gpu, int(match[2])))
        return None


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds what, in NVML's names."""

    by_device: Mapping[str, frozenset[Holder]]
    """uuid -> containers that hold it; a device not in here is held by nobody."""
    unplaced: int = 0
    """Devices that are held, though nobody can say which they are: claims, ids of unknown form."""
    unread: frozenset[Key] = frozenset()
    """Devices that are held and could not be read just now."""
    gone: frozenset[str] = frozenset()
    """Ids that the kubelet still counts with, of GPUs and slices that are no more."""
    allocatable: frozenset[str] | None = None
    """uuids that the kubelet could give; None: it does not say."""

    def pods(self, uuid: str) -> set[tuple[str, str]]:
        """(namespace, name) of the pods that hold a device."""
        return {(each.namespace, each.pod) for each in self.by_device.get(uuid, ())}


def held(assignments: Assignments, devices: Devices) -> Held:
    """Bring together what the kubelet says and what NVML says."""
    found: dict[str, set[Holder]] = {}
    unknown: set[str] = set()
    unread: set[Key] = set()
    unplaced = assignments.claims
    for each in assignments.assigned:
        uuid = devices.uuid_of(each.device)
        if uuid is not None:
            found.setdefault(uuid, set()).add(each.holder)
        elif each.device.startswith(_NVIDIA):
            unknown.add(each.device)
            plain, holder = each.device.partition("::")[0], each.holder
            unread.add((plain, holder.namespace, holder.pod))
        else:
            unplaced += 1
    allocatable = assignments.allocatable
    named = {id_: devices.uuid_of(id_) for id_ in allocatable or ()}
    unknown |= {id_ for id_, uuid in named.items() if uuid is None and id_.startswith(_NVIDIA)}
    return Held(
        by_device={uuid: frozenset(holders) for uuid, holders in found.items()},
        unplaced=unplaced,
        unread=frozenset() if devices.complete else frozenset(unread),
        gone=frozenset(unknown) if devices.complete else frozenset(),
        allocatable=None if allocatable is None else frozenset(filter(None, named.values())),
    )
