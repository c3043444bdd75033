"""The figures of a run in sentences. All numbers come from `Figures`."""

from collections.abc import Sequence
from fractions import Fraction

from extender.demo.hardware import Gpu
from extender.demo.outcome import Figures, PodOutcome

PODS_NAMED = 3
GPUS_NAMED = 6
"""So many are named; more are counted."""


def gb(amount: Fraction) -> str:
    """`96.2`, `240`: one decimal where there is something to say."""
    return _number(amount, 1)


def money(amount: Fraction) -> str:
    """`4,320`, `1,036.80`."""
    cents = _rounded(amount, 2)
    return f"{int(cents):,}" if cents.denominator == 1 else f"{float(cents):,.2f}"


def percent(part: Fraction, whole: Fraction) -> str:
    """`40 %`; of nothing, 0 %."""
    return f"{_number(100 * part / whole if whole else Fraction(0), 0)} %"


def use(figures: Figures) -> str:
    """`96.2 of 240 GB, 40 %`: what is used of what is held."""
    share = percent(figures.used_gb, figures.held_gb)
    return f"{gb(figures.used_gb)} of {gb(figures.held_gb)} GB, {share}"


def waste(figures: Figures) -> str:
    """What the hollow cards come to; empty if there are none."""
    if not figures.hollow:
        return ""
    wasted = figures.hollow_held_gb - figures.hollow_used_gb
    verb = "uses" if len(figures.hollow) == 1 else "use"
    return (
        f"{_titles(figures.hollow)} {verb} {gb(figures.hollow_used_gb)} of "
        f"{gb(figures.hollow_held_gb)} GB, {gb(wasted)} GB "
        f"({percent(wasted, figures.hollow_held_gb)}) wasted"
    )


def spare(figures: Figures, nodes: int) -> str:
    """What nobody holds. A partitioned card is called idle, not free: it serves no whole-GPU pod."""
    free = [_gpus(figures.free, nodes)] if figures.free else []
    free += [f"{count} x {profile}" for profile, count in figures.free_slices.items()]
    parts = [f"{_listed(free)} free"] if free else []
    if figures.idle:
        parts.append(f"{_gpus(figures.idle, nodes)} idle (partitioned)")
    return ", ".join(parts)


def saving(before: Figures, after: Figures, currency: str) -> str:
    """`4,320 → 2,880 $ a month, -1,440 $`."""
    difference = after.cost_a_month - before.cost_a_month
    sign = (
        {True: "+", False: "\N{MINUS SIGN}"}[difference > 0]
        if difference
        else "\N{PLUS-MINUS SIGN}"
    )
    return (
        f"{money(before.cost_a_month)} → {money(after.cost_a_month)} {currency} a month, "
        f"{sign}{money(abs(difference))} {currency}"
    )


def pending(figures: Figures) -> str:
    """Who found no place; empty if all did."""
    return f"{_titles(figures.pending)} without a place" if figures.pending else ""


def sentence(*parts: str) -> str:
    """The parts that say something, as one sentence."""
    return "; ".join(part for part in parts if part) + "."


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _titles(pods: Sequence[PodOutcome]) -> str:
    if len(pods) > PODS_NAMED:
        return f"{len(pods)} pods"
    return " + ".join(pod.title for pod in pods)


def _gpus(gpus: Sequence[Gpu], nodes: int) -> str:
    """`GPU 2`; with several nodes `gpu-node/2`, or a count."""
    if len(gpus) > GPUS_NAMED:
        return f"{len(gpus)} GPUs"
    if nodes > 1:
        return ", ".join(f"{gpu.node}/{gpu.index}" for gpu in gpus)
    return f"GPU{'s' if len(gpus) > 1 else ''} " + ", ".join(str(gpu.index) for gpu in gpus)


def _rounded(amount: Fraction, digits: int) -> Fraction:
    """Half away from zero, as people round."""
    scaled = abs(amount) * 10**digits
    nearest = Fraction(int(scaled + Fraction(1, 2)), 10**digits)
    return -nearest if amount < 0 else nearest


def _number(amount: Fraction, digits: int) -> str:
    rounded = _rounded(amount, digits)
    return f"{int(rounded):,}" if rounded.denominator == 1 else f"{float(rounded):,.{digits}f}"
