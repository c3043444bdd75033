"""Whose sample it is, what a plateau is, and that nothing piles up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.agent.assignments import Holder
from extender.agent.devices import Devices, Held
from extender.agent.hardware import Gpu, Hardware
from extender.agent.peaks import SETTLE_S, WINDOW, Observed, Peaks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CARD_MIB = 81920


def devices(used_mib: Mapping[str, int | None], memory_mib: int = CARD_MIB) -> Devices:
    """Whole cards of these uuids, with so much in use."""
    return Devices(
        Hardware(
            gpus=tuple(
                Gpu(index=n, uuid=uuid, memory_mib=memory_mib, used_mib=used, mig=False)
                for n, (uuid, used) in enumerate(used_mib.items())
            )
        )
    )


def holding(**pods: str | Iterable[str]) -> Held:
    """uuid -> the pod, or the pods, that hold it."""
    return Held(
        {
            uuid: frozenset(
                Holder("ml", pod, "main") for pod in ([names] if isinstance(names, str) else names)
            )
            for uuid, names in pods.items()
        }
    )


@dataclass
class Watched:
    """Peaks fed by one card `g`, every five seconds."""

    peaks: Peaks = field(default_factory=Peaks)
    now_s: float = 1000.0
    before: Held | None = None

    def see(self, used_mib: int | None, after: Held | None) -> None:
        self.peaks.take(devices({"g": used_mib}), self.before, after, self.now_s)
        self.before = after
        self.now_s += 5

    def of(self, pod: str) -> Observed | None:
        return self.peaks.of("g", ("ml", pod), CARD_MIB)

    def peak_mib(self, pod: str) -> int | None:
        found = self.of(pod)
        return None if found is None else found.peak_mib


def test_the_peak_is_the_most_that_was_ever_used() -> None:
    watched = Watched()
    for used_mib in (500, 9000, 9600, 700):
        watched.see(used_mib, holding(g="asr"))

    assert watched.of("asr") == Observed(9600, since_s=1005.0)


def test_a_pod_that_was_not_seen_holding_before_the_sample_gets_none_of_it() -> None:
    watched = Watched()
    watched.see(70_000, holding(g="llm"))
    watched.see(60_000, holding(g="llm"))
    watched.see(65_000, holding(g="asr"))  # the card changed hands meanwhile: whose was it?
    watched.see(9000, holding(g="asr"))

    assert watched.peak_mib("asr") == 9000
    assert watched.peak_mib("llm") is None  # gone


def test_pods_that_share_a_device_get_no_peak_since_nobody_knows_whose_it_is() -> None:
    watched = Watched()
    for _ in range(3):
        watched.see(30_000, holding(g=["a", "b"]))

    assert watched.peak_mib("a") is watched.peak_mib("b") is None


def test_what_cannot_be_read_is_no_sample_of_0() -> None:
    watched = Watched()
    for _ in range(3):
        watched.see(None, holding(g="asr"))

    assert watched.of("asr") is None


def test_nothing_is_counted_while_a_holder_cannot_be_placed() -> None:
    watched = Watched()
    for _ in range(3):
        watched.see(30_000, replace(holding(g="asr"), unplaced=1))

    assert watched.of("asr") is None


def test_a_silent_kubelet_costs_samples_but_no_peak() -> None:
    watched = Watched()
    watched.see(100, holding(g="asr"))
    watched.see(9000, holding(g="asr"))
    watched.see(20_000, None)
    watched.see(30_000, holding())  # it has just started, and does not know its pods yet
    watched.see(40_000, holding(g="asr"))

    assert watched.peak_mib("asr") == 9000
    watched.see(9500, holding(g="asr"))
    assert watched.peak_mib("asr") == 9500


def test_a_pod_that_does_not_come_back_after_a_restart_is_forgotten() -> None:
    watched = Watched()
    watched.peaks.restore(
        {("g", "ml", "asr"): Observed(9000, 1.0), ("g", "ml", "old"): Observed(70_000, 1.0)},
        watched.now_s,
    )
    for _ in range(int(SETTLE_S / 5) + 2):
        watched.see(800, holding(g="asr"))

    assert watched.of("asr") == Observed(9000, since_s=1.0)
    assert len(watched.peaks) == 1


def test_a_restored_reservation_is_still_one() -> None:
    watched = Watched()
    watched.peaks.restore({("g", "ml", "vllm"): Observed(74_000, 1.0, True)}, watched.now_s)
    watched.see(74_000, holding(g="vllm"))

    assert watched.of("vllm") == Observed(74_000, 1.0, preallocates=True)


@pytest.mark.parametrize(
    ("share", "preallocates"),
    [
        (0.12, False),
        (0.50, False),
        (0.70, False),
        (0.76, True),  # JAX: 0.75, and what CUDA takes
        (0.90, True),  # vLLM, SGLang, TensorRT-LLM
        (0.97, True),  # TensorFlow
    ],
)
def test_a_plateau_near_a_fixed_share_of_the_card_is_no_need(
    share: float, *, preallocates: bool
) -> None:
    watched = Watched()
    for _ in range(3):
        watched.see(2000, holding(g="pod"))
    for n in range(WINDOW + 1):
        watched.see(int(CARD_MIB * share) + n, holding(g="pod"))

    found = watched.of("pod")
    assert found is not None
    assert found.preallocates is preallocates


def test_a_peak_near_such_a_share_is_no_need_from_its_first_sample_on() -> None:
    """A second replica may be made before a minute has shown that the first one stays there."""
    watched = Watched()
    watched.see(2000, holding(g="vllm"))
    watched.see(30_000, holding(g="vllm"))
    assert watched.of("vllm") == Observed(30_000, since_s=1005.0)
    for _ in range(2 * WINDOW):
        watched.see(73_800, holding(g="vllm"))
        assert watched.of("vllm") == Observed(73_800, since_s=1005.0, preallocates=True)


def test_memory_that_only_passes_through_such_a_share_is_a_need_once_that_shows() -> None:
    watched = Watched()
    for n in range(40):  # a training run that grows, and falls back
        watched.see(60_000 + 500 * n, holding(g="train"))
    for _ in range(WINDOW):
        watched.see(50_000, holding(g="train"))

    assert watched.of("train") == Observed(79_500, since_s=1005.0)


def test_a_pod_that_grows_beyond_its_plateau_did_not_reserve_what_it_needs() -> None:
    watched = Watched()
    for _ in range(WINDOW + 1):
        watched.see(61_440, holding(g="jax"))
    assert (found := watched.of("jax")) is not None
    assert found.preallocates
    watched.see(67_000, holding(g="jax"))

    assert (found := watched.of("jax")) is not None
    assert not found.preallocates


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, tuple[str, ...]]]:
    """Who holds which of two slices, look after look; pods come, go, share and change places."""
    pods = st.lists(st.sampled_from("abc"), max_size=2, unique=True).map(tuple)
    return draw(st.lists(st.fixed_dictionaries({"x": pods, "y": pods}), max_size=12))


@given(histories())
def test_no_pod_ever_gets_a_sample_of_anothers_memory(
    history: list[dict[str, tuple[str, ...]]],
) -> None:
    use_of = {"a": 1000, "b": 2000, "c": 4000}
    peaks, before = Peaks(), None
    for n, holders in enumerate(history):
        # The reading is of any moment between two answers of the kubelet: here of the earlier one's.
        earlier = history[max(0, n - 1)]
        used = {uuid: sum(use_of[pod] for pod in earlier[uuid]) for uuid in holders}
        after = holding(**holders)
        peaks.take(devices(used), before, after, 5.0 * n)
        before = after

        for uuid in holders:
            for pod, mib in use_of.items():
                found = peaks.of(uuid, ("ml", pod), CARD_MIB)
                assert found is None or found.peak_mib == mib
