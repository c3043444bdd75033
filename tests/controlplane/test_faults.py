"""An API server that is away, slow, forgetful or curt: what users see, and that nothing is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.faults import Between, Fault
from tests.controlplane.fleet import PLENTY, Fleet
from tests.controlplane.followed import Noted, becomes_equal, following
from tests.controlplane.forms import RATE, form
from tests.controlplane.load import Load
from tests.controlplane.objects import gpu_pod, wait_until
from tests.controlplane.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from extender.cluster.state import State
    from tests.controlplane.background import Background
    from tests.controlplane.conftest import Figure
    from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.reliability]

STALE_AFTER_S = form(4, 30)
SLACK_S = 3.0
"""Until a replica has taken in what came before it went wrong, on a machine however busy."""
LASTS_S = form(6, 60)
PATIENT_S = form(10, 30)
"""`staleAfter` where no pod is to be left for it, on a machine however busy."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Replicas that reach the API server through faults, and users that reach it directly."""

    plane: ControlPlane
    namespace: str
    background: Background
    between: Between
    fleet: Fleet
    view: State
    """Fed as the replicas are."""
    pulse: Pulse
    stale_after_s: int

    def load(self) -> Load:
        """Users begin to create pods."""
        return self.background.enter(Load(self.plane, [self.namespace], RATE))

    def now(self, fault: Fault) -> float:
        """From now on this is wrong; when that was."""
        return self.background.run(self.between.now(fault))

    def wait_right(self) -> float:
        """Wait until every replica knows what is new; when that was."""
        node = self.fleet.new_node(PLENTY)
        wait_until(lambda: self.fleet.know(node), 90, f"every replica knows {node}")
        return time.monotonic()

    def nothing_is_lost(self, load: Load | None = None) -> None:
        """Everything stands still, and what we know is what a fresh list says."""
        if load is not None:
            self.background.run(load.stop())
        self.background.run(self.pulse.stop())
        self.background.run(becomes_equal(self.plane, self.view, 60))

    def oldest_s(self) -> float:
        """The oldest view that a pod was decided on, as replicas say themselves: for a figure."""
        lines = self.fleet.audit()
        return max(float(e["snapshotAge"]) for e in lines if e["reason"] != "StaleState")

    def stale_s(self, began_s: float) -> float:
        """When every decision is `StaleState`, if from then on nothing has come; by our own clock."""
        return began_s + self.stale_after_s + SLACK_S

    def ask(self, began_s: float, until_s: float) -> tuple[list[str], list[str]]:
        """Reasons of all replicas, again and again: before the view must be stale, and after that.

        Args:
            began_s: when it went wrong.
            until_s: go on at least until then.
        """
        pod = gpu_pod("asks", self.namespace, annotations={"migfit.io/gpu-memory": "9.6G"})
        before: list[str] = []
        after: list[str] = []
        while time.monotonic() < until_s or not after:
            for replica in self.fleet.replicas:
                late = time.monotonic() >= self.stale_s(began_s)
                (after if late else before).append(self.fleet.review(replica, pod))
                assert replica.ready()
            time.sleep(0.2)
        return before, after


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    authority: trustme.CA,
    background: Background,
) -> Iterator[Scene]:
    stale_after_s = getattr(request, "param", STALE_AFTER_S)
    between = background.enter(Between(plane, tmp_path))
    with Fleet(
        plane,
        tmp_path,
        authority,
        background,
        kubeconfig=between.kubeconfig,
        staleAfter=f"{stale_after_s}s",
    ) as fleet:
        view = background.enter(following(between.kubeconfig, Noted()))
        pulse = background.enter(Pulse(plane, fleet.new_node(PLENTY)))
        scene = Scene(plane, namespace, background, between, fleet, view, pulse, stale_after_s)
        scene.wait_right()
        yield scene


def test_a_restart_of_the_api_server_loses_nothing(scene: Scene, figure: Figure) -> None:
    load = scene.load()
    wait_until(lambda: len(load.all) > 50, 30, "pods are created")

    scene.plane.restart_apiserver()
    back_s = time.monotonic()
    right_s = scene.wait_right()
    scene.nothing_is_lost(load)

    figure(f"all right {right_s - back_s:.1f} s after it is back", load)
    assert [each for each in load.failed if "webhook" in each.failed] == []
    assert load.missed == []


def test_while_the_api_server_is_away_the_last_view_serves_until_it_is_stale(
    scene: Scene, figure: Figure
) -> None:
    with scene.plane.without_apiserver():
        gone_s = time.monotonic()
        before, after = scene.ask(gone_s, gone_s + LASTS_S)
    back_s = time.monotonic()
    right_s = scene.wait_right()
    scene.nothing_is_lost()

    figure(f"all right {right_s - back_s:.1f} s after it is back; {scene.oldest_s():.1f} s old")
    assert before[:2] == ["Fits", "Fits"]
    assert set(after) == {"StaleState"}


@pytest.mark.parametrize("scene", [form(STALE_AFTER_S, 120)], indirect=True, ids=["patient"])
def test_while_watches_hang_the_last_view_serves_until_it_is_stale_and_then_no_more(
    scene: Scene, figure: Figure
) -> None:
    """In full it lasts for two of the silences after which a watch that sends bookmarks is left."""
    opened_s = time.monotonic()
    bookmarked_s = form(0, 75)
    wait_until(
        lambda: time.monotonic() - opened_s >= bookmarked_s, 90, "every watch has a bookmark"
    )

    began_s = scene.now(Fault(silent=True))
    node = scene.fleet.new_node(PLENTY)
    before, after = scene.ask(began_s, began_s + form(LASTS_S, 220))
    assert not scene.fleet.know(node)
    healed_s = scene.now(Fault())
    right_s = scene.wait_right()
    scene.nothing_is_lost()

    figure(f"all right {right_s - healed_s:.1f} s after; {scene.oldest_s():.1f} s old")
    assert before[:2] == ["Fits", "Fits"]
    assert set(after) == {"StaleState"}


@pytest.mark.parametrize("scene", [PATIENT_S], indirect=True, ids=["patient"])
def test_watches_closed_every_second_lose_nothing_and_are_not_stale_where_nothing_happens(
    scene: Scene, figure: Figure
) -> None:
    scene.background.run(scene.pulse.stop())
    load = scene.load()
    began_s = scene.now(Fault(watch_s=1.0))
    lasts_s = max(LASTS_S, PATIENT_S + 2)
    wait_until(lambda: time.monotonic() - began_s >= lasts_s, 90, "it has lasted")
    healed_s = scene.now(Fault())
    right_s = scene.wait_right()
    scene.nothing_is_lost(load)

    figure(f"all right {right_s - healed_s:.1f} s after; {scene.oldest_s():.1f} s old", load)
    assert load.failed == load.missed == []
    assert load.reasons.keys() == {"Fits"}


def test_with_410_at_every_relist_the_last_view_serves_until_it_is_stale(
    scene: Scene, figure: Figure
) -> None:
    load = scene.load()
    began_s = scene.now(Fault(gone=True))
    node = scene.fleet.new_node(PLENTY)
    wait_until(lambda: time.monotonic() - began_s >= LASTS_S, 90, "it has lasted")
    stale_s = scene.stale_s(began_s)
    wait_until(lambda: load.since(stale_s) > 10, 60, "pods are created when the view is stale")
    assert not scene.fleet.know(node)
    told_s = time.monotonic()
    healed_s = scene.now(Fault())
    right_s = scene.wait_right()
    scene.nothing_is_lost(load)

    figure(f"all right {right_s - healed_s:.1f} s after; {scene.oldest_s():.1f} s old", load)
    assert load.failed == load.missed == []
    late = [
        each
        for each in load.all
        if each.began_s >= stale_s and each.began_s + each.lasted_s < told_s
    ]
    assert {each.reason for each in late} == {"StaleState"}


def test_an_api_server_that_takes_two_seconds_slows_no_creation(
    plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    authority: trustme.CA,
    background: Background,
    figure: Figure,
) -> None:
    between = background.enter(Between(plane, tmp_path))
    background.run(between.now(Fault(answer_s=2.0)))
    began_s = time.monotonic()
    with Fleet(plane, tmp_path, authority, background, kubeconfig=between.kubeconfig) as fleet:
        served_s = time.monotonic() - began_s
        load = background.enter(Load(plane, [namespace], RATE))
        view = background.enter(following(between.kubeconfig, Noted()))
        wait_until(lambda: time.monotonic() - began_s >= LASTS_S, 90, "it has lasted")
        node = fleet.new_node(PLENTY)
        wait_until(lambda: fleet.know(node), 30, f"every replica knows {node}")
        wait_until(lambda: len(load.all) > 50, 30, "pods are created")
        background.run(load.stop())
        background.run(becomes_equal(plane, view, 60))

    figure(f"in service {served_s:.1f} s after the start", load)
    assert load.failed == load.missed == []
    assert load.reasons.keys() == {"Fits"}
