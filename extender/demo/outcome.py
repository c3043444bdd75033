"""What a run came to: who holds which piece of which GPU, and the figures that follow from it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from extender.core.quantity import need_mib
from extender.demo.hardware import WHOLE, Gpu, Piece
from extender.demo.kubelet import Spot

GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOutcome:
    """One pod after its run."""

    name: str
    title: str
    namespace: str
    footprint_bytes: int | None
    """GPU memory it really uses, all pieces together; None: not known."""
    node: str = ""
    """Where it runs; empty while it is pending."""
    decision: Mapping[str, Any] = field(default_factory=dict)
    """The audit line of the served process; empty where none was asked."""
    problem: str = ""
    """Why there is no decision, or no pod."""
    warnings: tuple[str, ...] = ()
    """What kubectl would have printed."""


@dataclass(frozen=True, slots=True)
class Use:
    """A piece that is held."""

    pod: PodOutcome
    used_gb: Fraction | None
    """Of this piece, really used; None: not known."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the scenario."""

    name: str
    """Of the layout; empty for the nodes as they are."""
    gpus: tuple[Gpu, ...]
    held: Mapping[Spot, str]
    """Piece -> name of the pod."""
    pods: tuple[PodOutcome, ...]
    errors: tuple[str, ...] = ()
    """Calls of the extender that failed; the scheduler went on without it."""

    def use(self, gpu: Gpu, position: int) -> Use | None:
        """Who holds one piece of a GPU, and how much of it is used; None: it is free."""
        name = self.held.get(Spot(gpu.node, gpu.index, position))
        pod = next((pod for pod in self.pods if pod.name == name), None)
        if pod is None:
            return None
        if pod.footprint_bytes is None:
            return Use(pod, None)
        share = sum(1 for holder in self.held.values() if holder == name)
        return Use(pod, Fraction(pod.footprint_bytes, GB * share))

    def pieces(self) -> list[tuple[Gpu, Piece, Use | None]]:
        """Every piece of every GPU."""
        return [
            (gpu, piece, self.use(gpu, position))
            for gpu in self.gpus
            for position, piece in enumerate(gpu.pieces)
        ]

    def in_use(self, gpu: Gpu) -> bool:
        """Whether any pod holds any piece of the GPU."""
        return any(spot[:2] == (gpu.node, gpu.index) for spot in self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run adds up to. GB are decimal; sizes are those in the names of cards and profiles."""

    used_gb: Fraction
    held_gb: Fraction
    gpus: int
    gpus_in_use: int
    free: tuple[Gpu, ...]
    """Whole cards that nobody holds."""
    idle: tuple[Gpu, ...]
    """Partitioned cards of which nobody holds a slice: idle, but no use to whole-GPU pods."""
    free_slices: Mapping[str, int]
    """Profile -> slices that nobody holds, on cards that are in use."""
    hollow: tuple[PodOutcome, ...]
    """Pods on a whole card that would fit a smaller profile of it, headroom included."""
    hollow_used_gb: Fraction
    hollow_held_gb: Fraction
    pending: tuple[PodOutcome, ...]
    cost_a_month: Fraction
    """For the GPUs in use."""


def figures(run: Run, *, headroom: Fraction, gpu_month: Fraction) -> Figures:
    """Add a run up.

    Args:
        run: what happened.
        headroom: of the configuration; decides what is hollow.
        gpu_month: price of one GPU for one month.
    """
    held = [(gpu, piece, use) for gpu, piece, use in run.pieces() if use]
    hollow = [
        (piece, use)
        for gpu, piece, use in held
        if piece.profile == WHOLE and _hollow(gpu, use, headroom)
    ]
    busy = [gpu for gpu in run.gpus if run.in_use(gpu)]
    rest = [gpu for gpu in run.gpus if gpu not in busy]
    return Figures(
        used_gb=sum((use.used_gb or Fraction(0) for _, _, use in held), Fraction(0)),
        held_gb=Fraction(sum(piece.nominal_gb for _, piece, _ in held)),
        gpus=len(run.gpus),
        gpus_in_use=len(busy),
        free=tuple(gpu for gpu in rest if gpu.whole),
        idle=tuple(gpu for gpu in rest if not gpu.whole),
        free_slices=Counter(
            piece.profile for gpu, piece, use in run.pieces() if gpu in busy and not use
        ),
        hollow=tuple(pod for pod in run.pods if any(use.pod is pod for _, use in hollow)),
        hollow_used_gb=sum((use.used_gb or Fraction(0) for _, use in hollow), Fraction(0)),
        hollow_held_gb=Fraction(sum(piece.nominal_gb for piece, _ in hollow)),
        pending=tuple(pod for pod in run.pods if not pod.node),
        cost_a_month=len(busy) * gpu_month,
    )


def _hollow(gpu: Gpu, use: Use, headroom: Fraction) -> bool:
    """Whether a smaller profile of the product holds the need: the definition of a hollow GPU."""
    if use.used_gb is None:
        return False
    need = need_mib(int(use.used_gb * GB), headroom)
    return any(
        profile.memory_mib is not None and profile.memory_mib >= need
        for profile in gpu.product.profiles
        if profile.memory_slices < gpu.product.memory_slices and not profile.special
    )
