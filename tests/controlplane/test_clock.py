"""The wall clock stepped under replicas that manage their own certificate, under load."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.fleet import Fleet
from tests.controlplane.forms import RATE, form
from tests.controlplane.keeping import Kept
from tests.controlplane.load import Load
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.objects import gpu_pod, wait_until
from tests.controlplane.stepped import step

if TYPE_CHECKING:
    from tests.controlplane.background import Background
    from tests.controlplane.conftest import Figure
    from tests.controlplane.migfit import Migfit
    from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.reliability]

HOUR_S = 3600.0
EACH_S = form(1.5, 20)


def ahead_s(fleet: Fleet, replica: Migfit) -> float:
    """By how much the clock is ahead that stamps its audit lines."""
    fleet.review(replica, gpu_pod("asks", "default"))  # it may not have been asked anything yet
    stamped = datetime.fromisoformat(replica.audit()[-1]["time"])
    return (stamped - datetime.now(UTC)).total_seconds()


def test_a_clock_stepped_by_an_hour_fails_no_creation_and_ends_nothing_early(
    plane: ControlPlane, namespace: str, tmp_path: Path, background: Background, figure: Figure
) -> None:
    clocks = tmp_path / "clock-0", tmp_path / "clock-1"
    script = Path(__file__).with_name("stepped.py")
    for clock, ahead in zip(clocks, (HOUR_S, -HOUR_S), strict=True):
        step(clock, ahead)  # whichever of the two makes the certificate: it serves at once
    commands = [(sys.executable, str(script), str(clock)) for clock in clocks]
    with Fleet(plane, tmp_path, None, background, commands=commands) as fleet:
        kept = Kept(plane, SYSTEM_NAMESPACE)
        before = kept.secret()
        load = background.enter(Load(plane, [namespace], RATE))
        for first, second in ((0.0, 0.0), (HOUR_S, -HOUR_S), (-HOUR_S, HOUR_S)):
            for clock, ahead in zip(clocks, (first, second), strict=True):
                step(clock, ahead)
            stepped_s = time.monotonic()
            for replica, ahead in zip(fleet.replicas, (first, second), strict=True):

                def stepped(replica: Migfit = replica, ahead: float = ahead) -> bool:
                    return abs(ahead_s(fleet, replica) - ahead) < HOUR_S / 2

                wait_until(stepped, 20, f"the clock of {replica.name} is {ahead:g} s ahead")
            wait_until(lambda: time.monotonic() - stepped_s > EACH_S, 60, "it has lasted")  # noqa: B023
            assert all(replica.ready() for replica in fleet.replicas)
        background.run(load.stop())

        figure("stepped three times, by up to two hours", load)
        assert load.failed == load.missed == []
        assert load.reasons.keys() == {"Fits"}
        assert kept.secret() == before
