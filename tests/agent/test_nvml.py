"""The real `pynvml`, with its real structs, on hardware that the test makes up."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pynvml
import pytest

from extender.agent.devices import Devices
from extender.agent.hardware import Health
from extender.agent.nvml import Nvml
from tests.agent.stub import A30, A100, NAMES, FakeGpu, FakeSlice, partitioned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from extender.agent.hardware import Gpu, Hardware
    from extender.core.catalogue import Product
    from tests.agent.stub import Stub


@pytest.fixture
def nvml(stub: Stub) -> Iterator[Nvml]:
    reader = Nvml()
    yield reader
    reader.close()


def gpus(hardware: Hardware) -> tuple[Gpu, ...]:
    assert hardware.gpus is not None, hardware.problem
    return hardware.gpus


def arrangements(product: Product) -> Iterator[tuple[tuple[str, int], ...]]:
    """Every set of (profile, start) that a card can hold, by NVIDIA's rules and not by our own code.

    No memory slice twice, no more compute slices than there are, one instance with media extensions.
    """
    spots = [(profile, start) for profile in product.profiles for start in profile.starts]

    def extend(
        chosen: tuple[tuple[str, int], ...], taken: frozenset[int], compute: int, first: int
    ) -> Iterator[tuple[tuple[str, int], ...]]:
        yield chosen
        for number, (profile, start) in enumerate(spots[first:], first):
            slices = frozenset(range(start, start + profile.memory_slices))
            extended = profile.special and any("+me" in name for name, _ in chosen)
            if taken & slices or compute < profile.compute_slices or extended:
                continue
            more = (*chosen, (profile.name, start))
            yield from extend(more, taken | slices, compute - profile.compute_slices, number + 1)

    return extend((), frozenset(), product.compute_slices, 0)


@pytest.mark.parametrize(
    ("product", "count"), [(A100, 2319), (A30, 76)], ids=["A100-80GB", "A30-24GB"]
)
def test_every_valid_layout_in_every_placement_comes_back_exactly(
    stub: Stub, nvml: Nvml, product: Product, count: int
) -> None:
    seen = 0
    for placements in arrangements(product):
        card = partitioned(product, placements)
        stub.set_up(card)

        [gpu] = gpus(nvml.read())

        assert (gpu.uuid, gpu.mig, gpu.health) == (card.uuid, True, Health.HEALTHY)
        assert gpu.slices is not None
        read = [(s.profile, s.start, s.size, s.memory_mib, s.uuid) for s in gpu.slices]
        assert read == [
            (p.name, each.start, p.memory_slices, p.memory_mib, each.uuid)
            for each in sorted(card.slices, key=lambda each: each.start)
            if (p := product.profile(each.profile)) is not None
        ]
        seen += 1
    assert seen == count


def test_a_whole_card_tells_its_name_its_memory_and_what_is_used_of_it(
    stub: Stub, nvml: Nvml
) -> None:
    stub.set_up(FakeGpu(used_mib=10, processes_mib=(9600, 390)))

    hardware = nvml.read()

    [gpu] = gpus(hardware)
    assert hardware.driver == "580.95.05"
    assert (gpu.product, gpu.memory_mib, gpu.mig) == (NAMES[A100.name], 81920, False)
    assert gpu.used_mib == 10_000  # what the driver reserves is not somebody's use
    assert gpu.slices == ()


def test_a_card_is_found_by_its_device_file_whose_number_is_not_always_its_index(
    stub: Stub, nvml: Nvml
) -> None:
    first, second = FakeGpu(minor=1), FakeGpu(minor=0)
    stub.set_up(first, second)

    hardware = nvml.read()

    assert [(gpu.index, gpu.minor) for gpu in gpus(hardware)] == [(0, 1), (1, 0)]
    assert Devices(hardware).uuid_of("nvidia0") == second.uuid  # as Google's plugin calls it


def test_the_use_of_each_slice_is_its_own(stub: Stub, nvml: Nvml) -> None:
    stub.set_up(
        FakeGpu(
            slices=[
                FakeSlice("3g.40gb", 0, processes_mib=(30_000,)),
                FakeSlice("3g.40gb", 4, used_mib=25),
            ]
        )
    )

    [gpu] = gpus(nvml.read())

    assert [s.used_mib for s in gpu.slices or ()] == [30_013, 25]
    assert gpu.used_mib is None


def test_without_privilege_only_placements_are_unknown(stub: Stub, nvml: Nvml) -> None:
    card = partitioned(A100, [("3g.40gb", 0), ("2g.20gb", 4)])
    stub.set_up(card, options=["denied"])

    [gpu] = gpus(nvml.read())

    told = {(s.profile, s.start, s.size, s.memory_mib) for s in gpu.slices or ()}
    assert told == {("3g.40gb", None, None, 40192), ("2g.20gb", None, None, 19968)}


def test_a_profile_that_the_name_does_not_tell_is_known_by_its_id(stub: Stub, nvml: Nvml) -> None:
    card = FakeGpu(slices=[FakeSlice("1g.10gb+me", 3, named=False)])
    stub.set_up(card)

    [gpu] = gpus(nvml.read())
    assert [s.profile for s in gpu.slices or ()] == ["1g.10gb+me"]

    stub.set_up(replace(card, slices=[FakeSlice("1g.10gb", 3, named=False)]), options=["denied"])
    [gpu] = gpus(nvml.read())
    assert [s.profile for s in gpu.slices or ()] == [None]


@pytest.mark.parametrize(
    "function", ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMigMode"]
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, 13])
def test_what_a_driver_cannot_tell_is_unknown_and_never_0(
    stub: Stub, nvml: Nvml, function: str, code: int
) -> None:
    both = function == "nvmlDeviceGetMemoryInfo"
    options = [f"fail {function} {code}", *([f"fail {function}_v2 {code}"] if both else [])]
    stub.set_up(FakeGpu(used_mib=700), options=options)

    [gpu] = gpus(nvml.read())

    expected = {
        "nvmlDeviceGetMemoryInfo": None,
        "nvmlDeviceGetMemoryInfo_v2": 1300,  # version 1 counts what the driver reserves
        "nvmlDeviceGetMigMode": 700,
    }
    assert gpu.used_mib == expected[function]
    assert gpu.health is Health.HEALTHY


@pytest.mark.parametrize(
    ("code", "health"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, Health.LOST),
        (pynvml.NVML_ERROR_RESET_REQUIRED, Health.RESET_REQUIRED),
        (pynvml.NVML_ERROR_UNKNOWN, Health.UNREADABLE),
    ],
)
def test_a_lost_gpu_keeps_its_name_and_leaves_the_others_readable(
    stub: Stub, nvml: Nvml, code: int, health: Health
) -> None:
    lost, fine = partitioned(A100, [("7g.80gb", 0)]), FakeGpu(used_mib=55)
    stub.set_up(lost, fine)
    nvml.read()
    lost.fault = code
    stub.set_up(lost, fine)

    first, second = gpus(nvml.read())

    assert (first.uuid, first.health, first.slices) == (lost.uuid, health, None)
    assert first.used_mib is None
    assert (second.uuid, second.used_mib, second.health) == (fine.uuid, 55, Health.HEALTHY)


def test_a_driver_that_was_reset_is_begun_with_again(stub: Stub, nvml: Nvml) -> None:
    card = FakeGpu()
    stub.set_up(card)
    nvml.read()
    stub.set_up(card, options=["epoch 1"])

    assert [gpu.uuid for gpu in gpus(nvml.read())] == [card.uuid]


def test_while_the_driver_is_away_nothing_is_known_and_it_says_why(stub: Stub, nvml: Nvml) -> None:
    card = FakeGpu()
    stub.set_up(card)
    nvml.read()
    stub.set_up(options=["epoch 1", f"init {pynvml.NVML_ERROR_DRIVER_NOT_LOADED}"])

    away = nvml.read()

    assert away.gpus is None
    assert away.problem == "NVML: Driver Not Loaded"
    stub.set_up(card, options=["epoch 2"])
    assert len(gpus(nvml.read())) == 1


def test_a_node_without_the_library_says_so() -> None:
    code = "from extender.agent.nvml import Nvml; print(Nvml().read().problem)"
    environ = {**os.environ, "LD_LIBRARY_PATH": ""}

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
        timeout=60,
    )

    assert done.stdout.strip() == "NVML: NVML Shared Library Not Found"


def test_slices_that_were_made_anew_are_others_and_keep_nothing(stub: Stub, nvml: Nvml) -> None:
    before = partitioned(A100, [("3g.40gb", 0), ("3g.40gb", 4)])
    stub.set_up(before)
    nvml.read()
    after = replace(before, slices=[FakeSlice("2g.20gb", 4), FakeSlice("1g.10gb", 6)])
    stub.set_up(after)

    [gpu] = gpus(nvml.read())

    assert [(s.uuid, s.profile, s.start) for s in gpu.slices or ()] == [
        (s.uuid, s.profile, s.start) for s in after.slices
    ]


def test_a_card_that_leaves_mig_mode_while_running_is_whole_and_one_that_enters_it_is_not(
    stub: Stub, nvml: Nvml
) -> None:
    card = partitioned(A100, [("1g.10gb", 0)])
    stub.set_up(card)
    nvml.read()
    stub.set_up(replace(card, slices=[], mig=False, used_mib=9))

    [gpu] = gpus(nvml.read())

    assert (gpu.mig, gpu.slices, gpu.used_mib) == (False, (), 9)
    stub.set_up(replace(card, slices=[], mig=True, used_mib=9))
    [gpu] = gpus(nvml.read())
    assert (gpu.mig, gpu.slices, gpu.used_mib) == (True, (), None)


@pytest.mark.parametrize("stale", [False, True], ids=["handles-live-on", "handles-rot"])
def test_a_gpu_cut_anew_at_any_call_of_a_reading_never_mixes_two_slices(
    stub: Stub, nvml: Nvml, stale: bool
) -> None:
    options = ["stale"] if stale else []
    neighbour = FakeGpu(slices=[FakeSlice("7g.80gb", 0, used_mib=77_777)])
    old = FakeGpu(slices=[FakeSlice("3g.40gb", 0, 3000), FakeSlice("3g.40gb", 4, 3004)])
    new = replace(old, slices=[FakeSlice("1g.10gb", n, 1000 + n) for n in range(7)])
    truth = {
        s.uuid: (s.profile, s.start, s.used_mib)
        for card in (old, new, neighbour)
        for s in card.slices
    }
    mixed = whole = 0
    for calls in range(150):
        fresh = Nvml()  # with nothing remembered, so that every call is made
        stub.set_up_after(calls, new, neighbour, now=[old, neighbour], options=options)

        first, second = gpus(fresh.read())
        fresh.close()

        for gpu in (first, second):
            for each in gpu.slices or ():
                assert (each.profile, each.start, each.used_mib) == truth[each.uuid]
        assert second.slices is not None or stale
        mixed += first.slices is None
        whole += first.slices is not None
    assert mixed > 10
    assert whole > 10
