"""How long to wait before trying again."""

from random import Random

_FLOOR_S = 0.05
_MAX_DOUBLINGS = 16


class Backoff:
    """Exponential backoff with full jitter, and never nothing.

    The nth wait is drawn evenly between 50 ms and `first_s` doubled n times, at most `cap_s`: replicas that
    failed together do not come back together.
    """

    def __init__(self, rng: Random, *, first_s: float, cap_s: float) -> None:
        self._rng = rng
        self._first_s = first_s
        self._cap_s = cap_s
        self._doublings = 0

    def next_s(self) -> float:
        """Seconds to wait now; the next wait may be twice as long."""
        wait_s = self._drawn_s(min(self._cap_s, self._first_s * 2.0**self._doublings))
        self._doublings = min(self._doublings + 1, _MAX_DOUBLINGS)
        return wait_s

    def first_s(self) -> float:
        """Seconds to wait after what was no failure; the next wait is not longer for it."""
        return self._drawn_s(self._first_s)

    def _drawn_s(self, ceiling_s: float) -> float:
        floor_s = min(_FLOOR_S, ceiling_s)
        return floor_s + self._rng.random() * (ceiling_s - floor_s)

    def reset(self) -> None:
        """All is well: the next wait is a short one."""
        self._doublings = 0
