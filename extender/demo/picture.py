"""One bar per GPU, as lines of inked text: pure, so that a test can read what a person sees.

Solid is memory in use, hatched is memory that a pod holds and never touches, dots are free. A bar is
cut at the memory slices where the GPU is cut. Pattern, not only colour, carries the meaning.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import groupby

from extender.demo.caption import gb
from extender.demo.hardware import Gpu, Piece
from extender.demo.outcome import Run, Use

WIDTH = 80


class Ink(StrEnum):
    """What a piece of text is, for who colours it."""

    PLAIN = "plain"
    HEADING = "heading"
    NAME = "name"
    USED = "used"
    UNTOUCHED = "untouched"
    UNKNOWN = "unknown"
    FREE = "free"
    EDGE = "edge"
    QUIET = "quiet"
    GOOD = "good"
    BAD = "bad"


Line = tuple[tuple[str, Ink], ...]


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What the bars are drawn with."""

    full: str
    parts: str
    """From almost empty to almost full; empty if there are none."""
    untouched: str
    unknown: str
    free: str
    edge: str


BLOCKS = Glyphs(
    "█", "▏▎▍▌▋▊▉", "\N{BOX DRAWINGS LIGHT DIAGONAL UPPER RIGHT TO LOWER LEFT}", "?", "·", "┃"
)
ASCII = Glyphs("#", "", "/", "?", ".", "|")

_MARGIN = 8
"""Columns before the bar: ` GPU 12 `."""
_TAG = 7
"""Columns after it: ` hollow`."""


def bar_unit(width: int) -> int:
    """Columns for one eighth of a GPU in a terminal of that width."""
    return max(2, min(12, (width - _MARGIN - _TAG - 1) // 8))


def bars(
    run: Run, hollow: Iterable[str], *, width: int = WIDTH, glyphs: Glyphs = BLOCKS
) -> list[Line]:
    """All GPUs of a run, by node.

    Args:
        run: what to draw.
        hollow: names of the pods that a smaller profile would hold.
        width: columns of the terminal.
        glyphs: what to draw with.
    """
    unit = bar_unit(width)
    named = frozenset(hollow)
    nodes = [list(gpus) for _, gpus in groupby(run.gpus, key=lambda gpu: gpu.node)]
    lines: list[Line] = []
    for cards, following in zip(nodes, [*nodes[1:], None], strict=True):
        idle = "" if any(map(run.in_use, cards)) else "  idle"
        name, product = f" {cards[0].node}", f"  {cards[0].product.name}"
        lines.append(((name, Ink.NAME), (product, Ink.QUIET), (idle, Ink.GOOD)))
        for gpu in cards:
            uses = [run.use(gpu, position) for position in range(len(gpu.pieces))]
            bar = _bar(gpu, uses, unit, glyphs)
            if not gpu.whole or uses[0]:
                lines.append(_labels(gpu, uses, unit))
            if gpu.whole and not uses[0]:
                bar = (*bar, (" free", Ink.GOOD))
            elif gpu.whole and uses[0] and uses[0].pod.name in named:
                bar = (*bar, (" hollow", Ink.BAD))
            lines.append(bar)
        if not following or following[0].product is not cards[0].product:
            lines.append(_scale(cards[0], unit))
    return lines


def legend(glyphs: Glyphs = BLOCKS) -> Line:
    """What the patterns mean."""
    return (
        (" " * _MARGIN, Ink.PLAIN),
        (glyphs.full * 2, Ink.USED),
        (" used   ", Ink.QUIET),
        (glyphs.untouched * 2, Ink.UNTOUCHED),
        (" held, never touched   ", Ink.QUIET),
        (glyphs.free * 2, Ink.FREE),
        (" free   ", Ink.QUIET),
        (glyphs.edge, Ink.EDGE),
        (" where the GPU is cut", Ink.QUIET),
    )


def _columns(gpu: Gpu, unit: int) -> int:
    """Columns per memory slice: bars of 4-slice and 8-slice GPUs are equally long."""
    return unit * 8 // gpu.product.memory_slices


def _bar(gpu: Gpu, uses: Sequence[Use | None], unit: int, glyphs: Glyphs) -> Line:
    per_slice = _columns(gpu, unit)
    edge = (glyphs.edge, Ink.EDGE)
    line: list[tuple[str, Ink]] = [(f" GPU {gpu.index:<2} ", Ink.PLAIN)]
    at = 0
    for piece, use in zip(gpu.pieces, uses, strict=True):
        if piece.start > at:  # memory slices that belong to nobody
            line += [edge, (" " * ((piece.start - at) * per_slice - 1), Ink.PLAIN)]
        line += [edge, *_content(piece, use, piece.slices * per_slice - 1, glyphs)]
        at = piece.start + piece.slices
    if at < gpu.product.memory_slices:
        line += [edge, (" " * ((gpu.product.memory_slices - at) * per_slice - 1), Ink.PLAIN)]
    return (*line, edge)


def _content(piece: Piece, use: Use | None, columns: int, glyphs: Glyphs) -> list[tuple[str, Ink]]:
    if use is None:
        return [(glyphs.free * columns, Ink.FREE)]
    if use.used_gb is None:
        return [(glyphs.unknown * columns, Ink.UNKNOWN)]
    solid = filled(use.used_gb / piece.nominal_gb, columns, glyphs)
    rest = glyphs.untouched * (columns - len(solid))
    return [(text, ink) for text, ink in ((solid, Ink.USED), (rest, Ink.UNTOUCHED)) if text]


def filled(fraction: Fraction, columns: int, glyphs: Glyphs = BLOCKS) -> str:
    """A bar of that fraction of the columns, to the nearest part; never empty, never too long."""
    steps = len(glyphs.parts) + 1
    count = min(columns * steps, max(1, round(fraction * columns * steps)))
    full, part = divmod(count, steps)
    return glyphs.full * full + (glyphs.parts[part - 1] if part else "")


def _labels(gpu: Gpu, uses: Sequence[Use | None], unit: int) -> Line:
    """The line above a bar: who holds each piece, written where the piece begins."""
    per_slice = _columns(gpu, unit)
    line: list[tuple[str, Ink]] = []
    at = 0
    for piece, use in zip(gpu.pieces, uses, strict=True):
        begin = _MARGIN + piece.start * per_slice + 1
        line.append((" " * (begin - at), Ink.PLAIN))
        room = piece.slices * per_slice - 1
        label = next((text for text in _wordings(piece, use) if len(text) <= room), "")
        if not label:
            label = _wordings(piece, use)[-1][: room - 1] + "…"
        name = use.pod.title if use else ""
        if label.startswith(name) and name:
            line += [(name, Ink.NAME), (label.removeprefix(name), Ink.QUIET)]
        else:
            line.append((label, Ink.QUIET))
        at = begin + len(label)
    return tuple(span for span in line if span[0])


def _wordings(piece: Piece, use: Use | None) -> list[str]:
    """What to say of a piece, from wordy to terse."""
    if use is None:
        return [f"{piece.profile} free", piece.profile, "free"]
    title = use.pod.title
    if use.used_gb is None:
        return [f"{title}  ? of {piece.nominal_gb} GB", title]
    size = f"{gb(use.used_gb)} of {piece.nominal_gb}"
    return [f"{title}  {size} GB", f"{title} {size}", f"{title} {gb(use.used_gb)}", title]


def _scale(gpu: Gpu, unit: int) -> Line:
    """GB under every second eighth, at its place."""
    total = gpu.product.nominal_gb
    text = " " * _MARGIN + "0"
    for eighth in (2, 4, 6, 8):
        tick = gb(Fraction(total * eighth, 8)) + (" GB" if eighth == 8 else "")  # noqa: PLR2004
        middle = _MARGIN + eighth * unit
        number = tick.removesuffix(" GB")
        text += " " * (middle - (len(number) - 1) // 2 - len(text)) + tick
    return ((text, Ink.QUIET),)
