"""The wall clock stepped under replicas that manage their own certificate, under load."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.fleet import SLICE, Fleet
from tests.controlplane.forms import RATE, form
from tests.controlplane.keeping import Kept
from tests.controlplane.load import Load
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.objects import gpu_pod, new_namespace, wait_until
from tests.controlplane.stepped import step
from tests.controlplane.workloads import Pods

if TYPE_CHECKING:
    from tests.controlplane.background import Background
    from tests.controlplane.client import JSON
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


class CrashLooping:
    """Two pods of one Deployment, of which one is deleted in each window; nobody makes others."""

    def __init__(self, plane: ControlPlane) -> None:
        self._client = plane.client
        self._pods = Pods(plane.client, new_namespace(plane.client))
        for name in ("asr-1", "asr-2"):
            self._client.create(self.pod(name))
        for name in ("asr-1", "asr-2"):
            self._pods.crash(self._pods.one(name, on=SLICE), 3)

    def pod(self, name: str) -> JSON:
        """A pod of the Deployment."""
        need = {"migfit.io/gpu-memory": "9.6G"}
        labels = {"pod-template-hash": "5d4f"}
        pod = gpu_pod(name, self._pods.namespace, annotations=need, labels=labels)
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "asr-5d4f", "uid": "5"}
        pod["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
        return pod

    @property
    def left(self) -> int:
        """How many there are still."""
        return sum(len(self._pods.of(name)) for name in ("asr-1", "asr-2"))


def test_a_clock_stepped_by_an_hour_fails_no_creation_and_allows_no_second_deletion(
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
        for clock in clocks:
            step(clock, -HOUR_S)
        crashing = CrashLooping(plane)
        wait_until(lambda: crashing.left == 1, 60, "one of the two is deleted")
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
            next_one = crashing.pod("asr-3")
            assert {fleet.review(each, next_one) for each in fleet.replicas} == {"BackedOff"}
        background.run(load.stop())

        figure("stepped three times, by up to two hours", load)
        assert load.failed == load.missed == []
        assert load.reasons.keys() == {"Fits"}
        assert kept.secret() == before
        assert crashing.left == 1
