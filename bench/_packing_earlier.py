"""What an earlier simulator found, written apart from this one and run with other seeds.

Idle GPUs of 96 (88 in U4, 384 in 48 nodes, 16 in 4 nodes x 4), exact layouts given to the score. Of
U4, U4w and U5 it is known how many nodes and GPUs there were, but not quite how each was cut.
"""

from collections.abc import Mapping
from typing import NamedTuple

AGAINST = ("best stock", "MA cpu+mig")


class Earlier(NamedTuple):
    """Ours, and ours minus two others with half of the 95 % interval."""

    ours: float
    best_stock: float
    best_stock_half_width: float
    cpu_mig: float
    cpu_mig_half_width: float

    def minus(self, other: str) -> tuple[float, float]:
        """Mean and half of the interval, against one of `AGAINST`."""
        if other == AGAINST[0]:
            return self.best_stock, self.best_stock_half_width
        return self.cpu_mig, self.cpu_mig_half_width


EARLIER: Mapping[str, Earlier] = {
    "U1 .15": Earlier(72.5, -0.6, 1.0, 1.8, 1.1),
    "U1 .30": Earlier(59.7, 0.3, 0.3, 12.7, 2.6),
    "U1 .50": Earlier(37.7, 0.1, 0.4, 4.6, 0.8),
    "U1 .70": Earlier(15.9, 0.1, 0.9, 0.1, 0.9),
    "U2 .30": Earlier(59.0, 0.1, 0.1, 0.8, 0.3),
    "U2 .50": Earlier(37.9, 0.1, 0.1, 1.1, 0.3),
    "U3 .30": Earlier(60.4, 0.1, 0.1, 0.4, 0.1),
    "U3 .50": Earlier(39.5, 0.2, 0.1, 0.4, 0.2),
    "U1 .30 prop": Earlier(59.7, 1.5, 0.7, 13.9, 0.5),
    "U1 .30 anti": Earlier(56.5, 0.6, 1.9, 7.6, 3.0),
    "U1 .30 resident": Earlier(58.8, 3.0, 1.4, 5.1, 1.0),
    "U1 .30 churn 5%": Earlier(59.6, 0.6, 0.3, 14.0, 0.6),
    "U1 .30 churn 10%": Earlier(59.7, 1.5, 0.3, 14.6, 0.6),
    "U1 .30 churn 20%": Earlier(59.7, 5.9, 0.9, 16.0, 0.7),
    "U1 .30 churn 40%": Earlier(59.7, 13.2, 0.9, 16.2, 0.5),
    "U2 .30 churn 20%": Earlier(59.1, 1.5, 0.3, 8.9, 2.1),
    "U3 .30 churn 20%": Earlier(60.4, 2.4, 0.3, 3.5, 0.6),
    "U1 .50 128 cores": Earlier(34.1, 0.5, 0.6, 4.0, 0.5),
    "U1 .50 128 cores churn 30%": Earlier(33.3, 10.4, 0.8, 10.4, 0.8),
    "U1 .40 64 cores": Earlier(25.7, 4.6, 0.3, 6.4, 0.5),
    "U1 .50 96 cores prop churn 30%": Earlier(28.7, 11.2, 0.5, 11.2, 0.5),
    "U4 .30": Earlier(47.0, -0.3, 0.7, 4.8, 1.2),
    "U4 .30 resident": Earlier(46.9, 4.1, 1.6, 5.8, 2.0),
    "U4 .30 churn 20%": Earlier(47.0, 6.7, 0.6, 9.2, 0.8),
    "U5 .30": Earlier(61.3, 0.6, 0.5, 3.4, 0.5),
    "U5 .50 96 cores": Earlier(38.8, 3.2, 0.6, 4.6, 0.5),
    "U4w .30": Earlier(54.4, 0.0, 0.1, 4.2, 0.4),
    "U1 .30 bursts": Earlier(50.6, 0.5, 0.2, 3.0, 0.8),
    "U1 .30 diurnal": Earlier(55.8, 0.4, 0.4, 2.2, 0.9),
    "U1 .30 diurnal churn 20%": Earlier(55.8, 3.3, 0.5, 6.4, 0.8),
    "U1 .30 heavy": Earlier(60.3, 0.9, 0.6, 13.1, 1.2),
    "48 nodes .30": Earlier(254.6, -1.1, 1.9, 31.3, 5.6),
    "4 nodes x 4 .30": Earlier(6.6, 0.0, 0.1, 0.4, 0.1),
}


def reproduced(mean: float, half_width: float, earlier: float, earlier_half_width: float) -> bool:
    """Whether the two intervals meet; an earlier figure was rounded to a tenth."""
    return abs(mean - earlier) <= half_width + earlier_half_width + 0.05
