"""Two replicas behind a Service: restarted, killed, stopped, with new certificates, under load."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from extender.server.certificates import authorities
from tests.controlplane.fleet import LENIENT, Fleet, signalled
from tests.controlplane.forms import RATE, form
from tests.controlplane.handshakes import Handshakes
from tests.controlplane.load import Load
from tests.controlplane.objects import wait_until
from tests.controlplane.test_rotation import short_lived

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tests.controlplane.background import Background
    from tests.controlplane.conftest import Figure
    from tests.controlplane.migfit import Migfit
    from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.reliability]

UNHURRIED = {"authority_s": 72.0, "leaf_s": 24.0, "settle_s": 5.0, "retire_s": 5.0}
"""Lives of certificates: an API server that is kept busy takes seconds to see whom to trust."""
TIMEOUT_S = 3
"""Of the webhook, as in the manifests; the API server's own would be 10."""
SLACK_S = 5
"""For all else that a creation takes on a busy machine."""
BURST = 40
"""Pods at once: the API server then has connections to both replicas."""


@pytest.fixture
def fleet(
    plane: ControlPlane, tmp_path: Path, authority: trustme.CA, background: Background
) -> Iterator[Fleet]:
    """Two replicas with certificates in files."""
    with Fleet(plane, tmp_path, authority, background) as fleet:
        yield fleet


def test_a_rolling_restart_under_load_fails_no_creation_and_misses_no_pod(
    plane: ControlPlane, namespace: str, fleet: Fleet, background: Background, figure: Figure
) -> None:
    began_s = time.monotonic()
    old: list[Migfit] = []
    load = background.enter(Load(plane, [namespace], RATE))
    while not old or time.monotonic() - began_s < form(0, 60):
        for replica in list(fleet.replicas):
            fleet.replace(replica)
            old.append(replica)
    background.run(load.stop())
    told_s = time.monotonic()
    for replica in form(old, []):  # or they would wait up to 90 s for connections that are idle
        signalled(replica, signal.SIGTERM)
    assert {fleet.end(replica) for replica in old} == {0}

    ended_s = time.monotonic() - told_s
    figure(f"{len(old)} replicas replaced one by one, the last gone {ended_s:.0f} s after", load)
    assert load.failed == []
    assert load.missed == []
    assert load.reasons.keys() == {"Fits"}


def test_leaf_and_authority_are_rotated_under_load_without_one_failed_handshake(
    plane: ControlPlane, namespace: str, tmp_path: Path, background: Background, figure: Figure
) -> None:
    lives = short_lived(**form({}, UNHURRIED))
    with Fleet(plane, tmp_path, None, background, commands=(lives, lives)) as fleet:
        began_s = time.monotonic()
        load = background.enter(Load(plane, [namespace], RATE))
        with Handshakes(plane, fleet.replicas) as shakes:
            first = authorities(shakes.bundles[0])[0]

            def rotated() -> bool:
                """The first authority is gone, another alone, and its leaf shown by all."""
                last = authorities(shakes.bundles[-1])
                return first not in last and len(last) == 1 and min(map(len, shakes.leaves)) >= 4

            what = lambda: f"all is rotated; failed: {shakes.failed}, {load.failed}"  # noqa: E731
            wait_until(rotated, 120, what)
            wait_until(lambda: time.monotonic() - began_s >= form(0, 60), 60, "a minute is over")
        background.run(load.stop())

    leaves = len(set.union(*shakes.leaves))
    figure(f"{leaves} leaves in turn, {shakes.done} handshakes beside", load)
    assert shakes.failed == []
    assert load.failed == []
    assert load.missed == []
    assert shakes.done > 50


def test_of_a_replica_killed_only_creations_begun_before_the_service_knows_can_fail(
    plane: ControlPlane, namespace: str, fleet: Fleet, background: Background, figure: Figure
) -> None:
    victim = fleet.replicas[0]
    load = background.enter(Load(plane, [namespace, LENIENT], RATE))
    background.run(load.burst(BURST))

    fleet.replicas.remove(victim)
    died_s = time.monotonic()
    signalled(victim, signal.SIGKILL)
    while victim.name in fleet.service.ready:
        background.run(load.burst(BURST))
    gone_s = fleet.wait_out_of_service(victim)
    wait_until(lambda: load.since(gone_s) > 50, 30, "pods are created afterwards")
    background.run(load.stop())

    figure(f"out of service after {gone_s - died_s:.1f} s", load)
    hit = load.failed + load.missed
    assert {each.namespace for each in load.failed} <= {namespace}
    assert {each.namespace for each in load.missed} <= {LENIENT}
    assert all(each.began_s < gone_s for each in hit)


def test_of_a_replica_stopped_creations_wait_no_longer_than_the_timeout_of_the_webhook(
    plane: ControlPlane, namespace: str, fleet: Fleet, background: Background, figure: Figure
) -> None:
    victim = fleet.replicas[0]
    load = background.enter(Load(plane, [namespace, LENIENT], RATE))
    background.run(load.burst(BURST))

    stopped_s = time.monotonic()
    signalled(victim, signal.SIGSTOP)
    background.run(load.burst(BURST))
    gone_s = fleet.wait_out_of_service(victim)
    wait_until(lambda: load.since(gone_s) > 50, 30, "pods are created afterwards")
    signalled(victim, signal.SIGCONT)
    fleet.wait_in_service(victim)
    back_s = time.monotonic()
    wait_until(lambda: load.since(back_s) > 50, 30, "pods are created afterwards")
    background.run(load.stop())

    hit = load.failed + load.missed
    begun = [each.began_s for each in hit]
    longest_s = max(each.lasted_s for each in load.all)
    figure(
        f"out of service after {gone_s - stopped_s:.1f} s, "
        f"longest wait {longest_s:.1f} s, "
        f"last hit began {max(begun, default=stopped_s) - stopped_s:.1f} s after",
        load,
    )
    assert {each.namespace for each in load.failed} <= {namespace}
    assert {each.namespace for each in load.missed} <= {LENIENT}
    assert all(each.began_s < back_s for each in hit)
    assert longest_s < TIMEOUT_S + SLACK_S
