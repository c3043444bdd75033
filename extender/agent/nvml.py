"""NVML through nvidia-ml-py (module `pynvml`). It changes no setting.

Handles are asked for anew on each reading, because those of MIG devices go stale when a GPU is
partitioned anew. A slice's memory is read between two readings of its uuid and dropped if they
differ, so what one slice uses is never taken for what another does.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from extender.agent.hardware import Gpu, Hardware, Health, Slice
from extender.agent.nvml_events import Events
from extender.core.catalogue import product_of
from extender.core.quantity import MIB

T = TypeVar("T")

_MIG_NAME = re.compile(r"\bMIG ((?:[0-9]+c\.)?[0-9]+g\.[0-9]+gb\S*)$")
_GONE = frozenset({pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
"""The driver was unloaded or reset under us: begin again."""
_HEALTH = {
    pynvml.NVML_ERROR_GPU_IS_LOST: Health.LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED: Health.RESET_REQUIRED,
}


class Nvml:
    """The GPUs of this node, by `libnvidia-ml.so.1`."""

    def __init__(self) -> None:
        self._begun = self._away = False
        self._events = Events()
        self._known: dict[str, Slice] = {}
        """By uuid, what does not change of a slice as long as it has that."""
        self._identity: dict[int, Gpu] = {}
        """Who sat at each index while the driver runs: a lost card no longer says."""

    def read(self) -> Hardware:
        """Everything, now; if the driver is gone, what is wrong with it."""
        try:
            return self._read()
        except pynvml.NVMLError as error:
            if error.value not in _GONE:
                return Hardware(problem=f"NVML: {error}")
            self._lose()
        try:
            return self._read()  # a driver that was only restarted answers at once
        except pynvml.NVMLError as error:
            self._lose()
            return Hardware(problem=f"NVML: {error}")

    def close(self) -> None:
        """Let the driver go, so that it can be unloaded."""
        self._events.close()
        if self._begun:
            self._begun = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._known.clear()
        self._identity.clear()

    def _lose(self) -> None:
        self.close()
        self._away = True

    def _read(self) -> Hardware:
        if not self._begun:
            pynvml.nvmlInit()
            self._begun = True
        driver = _ask(pynvml.nvmlSystemGetDriverVersion)
        count = pynvml.nvmlDeviceGetCount()
        # Once nothing but the loss of the driver can spoil the reading, and before slices are read.
        xids = tuple(self._events.take())
        gpus = tuple(self._gpu(index) for index in range(count))
        present = {each.uuid for gpu in gpus for each in gpu.slices or ()}
        self._known = {uuid: known for uuid, known in self._known.items() if uuid in present}
        reloaded, self._away = self._away, False
        return Hardware(gpus=gpus, driver=driver, xids=xids, reloaded=reloaded)

    def _gpu(self, index: int) -> Gpu:
        """One card. What is wrong with it does not keep the others from being read."""
        gpu = self._identity.get(index, Gpu(index=index, slices=None))
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            gpu = replace(gpu, uuid=uuid)
            minor = _ask(pynvml.nvmlDeviceGetMinorNumber, handle)
            gpu = replace(gpu, minor=minor, product=_ask(pynvml.nvmlDeviceGetName, handle))
            memory = _memory(handle)
            gpu = replace(gpu, memory_mib=memory.total // MIB if memory is not None else None)
            self._identity[index] = gpu
            gpu = replace(gpu, watched=self._events.watch(handle, uuid))
            if not _is_mig(handle):
                used_mib = memory.used // MIB if memory is not None else None
                return replace(gpu, mig=False, used_mib=used_mib, slices=())
            return replace(gpu, mig=True, slices=self._slices(handle, gpu))
        except pynvml.NVMLError as error:
            if error.value in _GONE:
                raise
            return replace(gpu, health=_HEALTH.get(error.value, Health.UNREADABLE))

    def _slices(self, parent: Any, gpu: Gpu) -> tuple[Slice, ...] | None:
        """All MIG devices; None if they changed while we looked, or one could not be read."""
        found: list[Slice] = []
        for slot in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(parent)):
            try:
                handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, slot)
            except pynvml.NVMLError_NotFound:
                continue  # there are holes
            except pynvml.NVMLError_InvalidArgument:
                return None  # MIG mode went off meanwhile
            try:
                uuid = pynvml.nvmlDeviceGetUUID(handle)
                fixed = self._fixed(parent, handle, uuid, gpu)
                memory = _memory(handle)
                if pynvml.nvmlDeviceGetUUID(handle) != uuid:
                    return None
            except (pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_NotFound):
                return None  # the handle went stale
            self._known[uuid] = fixed
            found.append(replace(fixed, used_mib=memory.used // MIB if memory else None))
        if len({each.uuid for each in found}) < len(found):
            return None  # one moved to a slot we came to later
        return tuple(sorted(found, key=lambda s: (-1 if s.start is None else s.start, s.uuid)))

    def _fixed(self, parent: Any, handle: Any, uuid: str, gpu: Gpu) -> Slice:
        if uuid in self._known:
            return self._known[uuid]
        attributes = _ask(pynvml.nvmlDeviceGetAttributes, handle)
        instance = _ask(pynvml.nvmlDeviceGetGpuInstanceId, handle)
        info = None
        if instance is not None:
            of_gpu = _ask(pynvml.nvmlDeviceGetGpuInstanceById, parent, instance)
            info = _ask(pynvml.nvmlGpuInstanceGetInfo, of_gpu) if of_gpu is not None else None
        return Slice(
            uuid=uuid,
            gpu_instance=instance,
            compute_instance=_ask(pynvml.nvmlDeviceGetComputeInstanceId, handle),
            profile=_profile(_ask(pynvml.nvmlDeviceGetName, handle), gpu, info),
            start=info.placement.start if info is not None else None,
            size=info.placement.size if info is not None else None,
            memory_mib=attributes.memorySizeMB if attributes is not None else None,
        )


def _profile(name: str | None, gpu: Gpu, info: Any) -> str | None:
    """The profile out of the MIG device's own name, else by the id of its GPU instance's profile."""
    match = _MIG_NAME.search(name or "")
    if match is not None:
        return match[1]
    product = product_of(gpu.product or "", gpu.memory_mib)
    if product is None or info is None:
        return None
    return next((p.name for p in product.profiles if p.gi_profile_id == info.profileId), None)


def _is_mig(handle: Any) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _memory(handle: Any) -> Any:
    """Version 2 does not count what the driver reserves as used; drivers before 510 have only 1."""
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    return memory if memory is not None else _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)


def _ask(call: Callable[..., T], *args: Any) -> T | None:
    """What a call returns; None where this driver, card or container does not tell."""
    try:
        return call(*args)
    except (
        pynvml.NVMLError_NotSupported,
        pynvml.NVMLError_FunctionNotFound,
        pynvml.NVMLError_NoPermission,
        pynvml.NVMLError_ArgumentVersionMismatch,
    ):
        return None
