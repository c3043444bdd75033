"""What can be known without simulating: the re-pack bound, and loss and occupancy by formula."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

Counts = tuple[int, ...]
"""How many of each kind."""


@lru_cache(maxsize=1 << 16)
def fewest(boxes: tuple[tuple[Counts, int], ...], needed: Counts) -> int | None:
    """The least number of boxes that hold what is needed, exactly; None if all of them do not.

    min sum(y) so that sum(y[c] * boxes[c]) >= needed for every kind, 0 <= y[c] <= available, y whole.
    Kinds that share no box are solved apart; within a part, a search over the boxes that cuts off
    what a count of the largest box left shows to be no better.

    Args:
        boxes: what a GPU (or a node) holds, and how many such there are.
        needed: pods of each kind.
    """
    total = 0
    for part in _parts(boxes):
        held = [kind for kind in range(len(needed)) if any(box[kind] for box, _ in part)]
        small = [(tuple(box[kind] for kind in held), number) for box, number in part]
        found = _search(small, tuple(needed[kind] for kind in held))
        if found is None:
            return None
        total += found
    without = (kind for kind in range(len(needed)) if not any(box[kind] for box, _ in boxes))
    return None if any(needed[kind] for kind in without) else total


def _parts(boxes: Iterable[tuple[Counts, int]]) -> list[list[tuple[Counts, int]]]:
    parts: list[list[tuple[Counts, int]]] = []
    for box in boxes:
        joined = [p for p in parts if any(_meet(box[0], other) for other, _ in p)]
        parts = [p for p in parts if p not in joined]
        parts.append([box, *(each for p in joined for each in p)])
    return parts


def _meet(one: Counts, other: Counts) -> bool:
    return any(a and b for a, b in zip(one, other, strict=True))


def _search(boxes: list[tuple[Counts, int]], needed: Counts) -> int | None:
    boxes = sorted(boxes, reverse=True)
    kinds = range(len(needed))
    most = [[max(box[k] for box, _ in boxes[i:]) for k in kinds] for i in range(len(boxes))]
    left = [[sum(box[k] * n for box, n in boxes[i:]) for k in kinds] for i in range(len(boxes))]
    best = sum(number for _, number in boxes) + 1

    def extend(index: int, needed: Counts, taken: int) -> None:
        nonlocal best
        if not any(needed):
            best = min(best, taken)
            return
        if index == len(boxes) or any(need > left[index][k] for k, need in enumerate(needed)):
            return
        least = max(-(-need // most[index][k]) for k, need in enumerate(needed) if need)
        if taken + least >= best:
            return
        box, number = boxes[index]
        enough = max((-(-needed[k] // box[k]) for k in kinds if box[k] and needed[k]), default=0)
        for y in range(min(number, enough), -1, -1):
            rest = tuple(max(0, need - y * held) for need, held in zip(needed, box, strict=True))
            extend(index + 1, rest, taken + y)

    extend(0, needed, 0)
    return best if best <= sum(number for _, number in boxes) else None


def boxes(held: Iterable[Counts]) -> tuple[tuple[Counts, int], ...]:
    """GPUs or nodes, those that hold the same counted together."""
    return tuple(sorted(Counter(held).items()))


def erlang_b(servers: int, offered: float) -> float:
    """The share of arrivals that a loss system turns away (Erlang's formula B)."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
    2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip
"""Student's t, 97.5 %, for 1 to 19 degrees of freedom."""


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval (Student's t)."""
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, float("inf")
    spread = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
    return mean, T_975[min(n - 1, len(T_975)) - 1] * spread / n**0.5
