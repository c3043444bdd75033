"""Short forms of the tests of reliability for every day, full ones for `make reliability`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

FULL = os.environ.get("RELIABILITY") == "full"


def form(short: T, full: T) -> T:
    """What holds in the form that is asked for."""
    return full if FULL else short


RATE = form(40.0, 200.0)
"""Pods a second."""
