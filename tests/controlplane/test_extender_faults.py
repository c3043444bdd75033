"""An extender that fails costs time, never a pod: kube-scheduler goes on without it.

How much time it costs is measured by bench/scheduler.py.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from bench._extenders import GARBAGE
from tests.controlplane.capture import NEED, REWRITTEN, SLICE
from tests.controlplane.migfit import a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, wait_until
from tests.controlplane.recorder import recording
from tests.deploy.manifests import SCHEDULERS, documents

if TYPE_CHECKING:
    from tests.controlplane.client import JSON
    from tests.controlplane.migfit import Migfit
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SOON_S = 60.0
NODES = ("gpu-a", "gpu-b")
rewritten_pod = partial(gpu_pod, resources={SLICE: 1}, labels=REWRITTEN, annotations=NEED)


def sample(extender: JSON) -> JSON:
    """The extender as deploy/scheduler/ configures it on loopback, but for its port."""
    (document,) = documents(SCHEDULERS / "second-scheduler.yaml")
    (found,) = document["extenders"]
    return {**found, "urlPrefix": extender["urlPrefix"]}


def two_nodes(plane: ControlPlane) -> None:
    """Room for twenty pods."""
    for name in NODES:
        plane.client.create(fake_node(name, allocatable={SLICE: 10}, labels=a100_labels()))


def all_bound(plane: ControlPlane, namespace: str, prefix: str, count: int = 3) -> None:
    """Create pods and see them bound."""
    names = [f"{prefix}-{number}" for number in range(count)]
    for name in names:
        plane.client.create(rewritten_pod(name, namespace))
    for name in names:
        assert bound_node(plane.client, namespace, name, SOON_S) in NODES


def calls(migfit: Migfit) -> float:
    """Answers to the scheduler so far."""
    return migfit.metric("migfit_requests_total", code="200")


def test_killed_the_scheduler_goes_on_and_once_restarted_it_is_asked_again(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    two_nodes(plane)
    plane.start_scheduler([sample(migfit.extender)])
    all_bound(plane, namespace, "with", 1)
    assert calls(migfit) >= 1
    migfit.kill()
    all_bound(plane, namespace, "without")
    migfit.start()
    all_bound(plane, namespace, "again", 1)
    assert calls(migfit) >= 1


@pytest.mark.long
def test_hung_the_scheduler_waits_for_the_timeout_and_goes_on(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    two_nodes(plane)
    plane.start_scheduler([sample(migfit.extender)])
    all_bound(plane, namespace, "with", 1)
    assert migfit.program is not None
    os.kill(migfit.program.pid, signal.SIGSTOP)
    try:
        all_bound(plane, namespace, "without")
    finally:
        os.kill(migfit.program.pid, signal.SIGCONT)
    wait_until(migfit.ready, SOON_S, "the server answers again")
    before = calls(migfit)
    all_bound(plane, namespace, "again", 1)
    assert calls(migfit) > before


def test_where_only_the_filter_fails_scores_are_still_heard(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    two_nodes(plane)
    on_b = {"nodeSelector": {"kubernetes.io/hostname": "gpu-b"}}
    configured = {**sample(migfit.extender), "filterVerb": "nothing-is-served-here"}
    plane.start_scheduler([configured])
    plane.client.create(rewritten_pod("first", namespace, spec=on_b))
    assert bound_node(plane.client, namespace, "first") == "gpu-b"

    migfit.wait_free(SLICE, 19)
    plane.client.create(rewritten_pod("second", namespace))
    assert bound_node(plane.client, namespace, "second") == "gpu-b"
    assert migfit.metric("migfit_requests_total", code="404") >= 1


@pytest.mark.parametrize("number", range(len(GARBAGE)))
def test_answering_garbage_it_is_passed_over(
    plane: ControlPlane, namespace: str, number: int
) -> None:
    two_nodes(plane)
    with recording() as babbling:
        babbling.answer = lambda _: GARBAGE[number]
        plane.start_scheduler([sample(babbling.configured())])
        all_bound(plane, namespace, "pod", 2)
        assert {asked.verb for asked in babbling.requests} == {"filter", "prioritize"}
