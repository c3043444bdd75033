"""Ids of device plugins, and the GPUs and slices they stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from extender.agent.assignments import Assigned, Assignments, Holder
from extender.agent.devices import Devices, held
from extender.agent.hardware import Gpu, Hardware, Slice

HARDWARE = Hardware(
    gpus=(
        Gpu(index=0, uuid="GPU-a", memory_mib=81920, used_mib=900, mig=False),
        Gpu(
            index=1,
            uuid="GPU-b",
            mig=True,
            slices=(Slice(uuid="MIG-1", gpu_instance=2), Slice(uuid="MIG-2", gpu_instance=1)),
        ),
    )
)


def assigned(pod: str, device: str, container: str = "main") -> Assigned:
    return Assigned(Holder("ml", pod, container), device)


@pytest.mark.parametrize(
    ("id_", "uuid"),
    [
        ("GPU-a", "GPU-a"),
        ("GPU-a::0", "GPU-a"),
        ("MIG-2", "MIG-2"),
        ("MIG-2::3", "MIG-2"),
        ("nvidia0", "GPU-a"),
        ("nvidia0/vgpu1", "GPU-a"),
        ("nvidia1/gi1", "MIG-2"),
        ("nvidia1/gi2/vgpu0", "MIG-1"),
        ("MIG-GPU-b/2/0", "MIG-1"),
        ("nvidia7", None),
        ("nvidia0/gi1", None),
        ("nvidia1/gi9", None),
        ("MIG-GPU-b/7/0", None),
        ("MIG-3", None),
        ("", None),
        ("0", None),
    ],
)
def test_every_form_of_an_id_leads_to_the_device(id_: str, uuid: str | None) -> None:
    assert Devices(HARDWARE).uuid_of(id_) == uuid


def test_several_containers_and_pods_on_one_slice_are_all_its_holders() -> None:
    told = (assigned("a", "MIG-1::0"), assigned("a", "MIG-1::1", "side"), assigned("b", "MIG-1::2"))

    found = held(Assignments(told), Devices(HARDWARE))

    assert found.by_device == {
        "MIG-1": {Holder("ml", "a", "main"), Holder("ml", "a", "side"), Holder("ml", "b", "main")}
    }
    assert found.pods("MIG-1") == {("ml", "a"), ("ml", "b")}
    assert found.pods("MIG-2") == set()


def test_devices_that_nobody_can_place_are_counted_and_not_guessed() -> None:
    told = Assignments((assigned("a", "card-of-some-other-plugin"),), claims=2)

    found = held(told, Devices(HARDWARE))

    assert (found.by_device, found.unplaced) == ({}, 3)


def test_slices_that_the_kubelet_counts_with_and_nvml_does_not_know_are_gone() -> None:
    told = Assignments(
        (assigned("a", "MIG-old"),), allocatable=frozenset({"MIG-1", "MIG-older", "GPU-a"})
    )

    found = held(told, Devices(HARDWARE))

    assert found.gone == {"MIG-old", "MIG-older"}
    assert found.allocatable == frozenset({"MIG-1", "GPU-a"})
    assert (found.unplaced, found.unread) == (0, frozenset())


def test_nothing_is_gone_while_some_gpu_could_not_be_read() -> None:
    assert HARDWARE.gpus is not None
    unread = replace(HARDWARE.gpus[1], slices=None)
    devices = Devices(Hardware(gpus=(HARDWARE.gpus[0], unread)))

    found = held(Assignments((assigned("a", "MIG-1::0"), assigned("b", "GPU-a"))), devices)

    assert found.gone == frozenset()
    assert found.unread == {("MIG-1", "ml", "a")}


def test_a_kubelet_that_does_not_say_what_is_allocatable_has_said_nothing() -> None:
    assert held(Assignments(), Devices(HARDWARE)).allocatable is None
