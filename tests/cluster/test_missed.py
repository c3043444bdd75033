"""Which pods are told as missed: those that somebody should have decided on, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.missed import BATCH, Missed, since
from extender.cluster.objects import PodObject
from extender.core.policy import Globs, Mode, Policy
from extender.core.reason import STEP_ONE, Reason
from extender.core.rewrite import MOST_ANNOTATION_BYTES
from tests.build import changed, namespace, pod, state, without
from tests.cluster.rewritten_pods import at

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.build import JSON

DECIDED = {"migfit.io/decision": "{}"}


def created(tree: JSON, name: str = "asr-1", age_s: float = 0.0) -> JSON:
    """The pod as the API server has it: named, and bound by now."""
    meta = {"name": name, "uid": f"uid-of-{name}", "creationTimestamp": at(age_s)}
    spec = {"nodeName": "gpu-a", **tree["spec"]}
    return {**tree, "metadata": {**tree["metadata"], **meta}, "spec": spec}


def judged(trees: Iterable[JSON], policy: Policy | None = None, **cluster: Any) -> Missed:
    """What is missed of these pods, all at hand at once."""
    missed = Missed()
    for tree in trees:
        item = msgspec.convert(tree, PodObject)
        missed.seen(item.metadata.uid, item)
    found = state(policy=policy, **cluster)
    missed.judge(found.snapshot(), found.policy)
    return missed


def told(missed: Missed, since_: str = "", most: int = 1000) -> list[str]:
    return [each.pod.name for each in missed.take(since_, most)]


def test_a_gpu_pod_without_a_decision_is_missed_also_when_it_is_bound_by_now() -> None:
    [missed] = judged([created(pod())]).take("", 1)

    assert missed.pod.key == ("speech", "Deployment/asr")
    assert missed.created == at(0)


def test_a_pod_that_carries_a_decision_is_not() -> None:
    tree = pod()
    tree["metadata"]["annotations"] |= DECIDED

    assert told(judged([created(tree)])) == []


OWNER = ("metadata", "ownerReferences", 0, "kind")
LIMITS = ("spec", "containers", 0, "resources", "limits")
NOT_OURS: dict[Reason, tuple[JSON, dict[str, Any]]] = {
    Reason.NO_GPU_REQUEST: (changed(pod(), *LIMITS, to={"rdma/ib": "1"}), {}),
    Reason.ALREADY_MIG: (changed(pod(), *LIMITS, to={"nvidia.com/mig-2g.20gb": "1"}), {}),
    Reason.MIRROR_POD: (
        changed(pod(), "metadata", "annotations", "kubernetes.io/config.mirror", to="x"),
        {},
    ),
    Reason.RESOURCE_CLAIMS: (pod(resourceClaims=[{"name": "gpu"}]), {}),
    Reason.DAEMON_SET: (changed(pod(), *OWNER, to="DaemonSet"), {}),
    Reason.NAMESPACE_EXCLUDED: (pod(), {"policy": Policy(exclude=Globs(("speech",)))}),
    Reason.IGNORED: (pod(), {"namespaces": [namespace(mode="ignore")]}),
    Reason.DISABLED: (pod(), {"policy": Policy(mode=Mode.DISABLED)}),
    Reason.OTHER_SCHEDULER: (pod(schedulerName="volcano"), {}),
    Reason.QUEUED: (
        changed(pod(), "metadata", "labels", "kueue.x-k8s.io/queue-name", to="q"),
        {},
    ),
}


@pytest.mark.parametrize("reason", NOT_OURS)
def test_a_pod_that_is_none_of_our_business_is_not(reason: Reason) -> None:
    tree, cluster = NOT_OURS[reason]
    if reason in (Reason.NO_GPU_REQUEST, Reason.ALREADY_MIG):
        tree = without(tree, *LIMITS[:-1], "requests")

    assert told(judged([created(tree)], **cluster)) == []


def test_every_reason_of_the_first_step_is_tried_that_can_be_told_afterwards() -> None:
    # A pod that names its node looks, once it is there, like one that was scheduled.
    later = {Reason.NODE_NAME_SET, Reason.BACKED_OFF, Reason.STALE_STATE}

    assert set(NOT_OURS) == set(STEP_ONE) - later


def test_a_pod_that_had_no_room_for_a_decision_is_not() -> None:
    tree = changed(pod(), "metadata", "annotations", "notes", to="x" * (MOST_ANNOTATION_BYTES - 99))

    assert told(judged([created(tree)])) == []


def test_those_of_before_are_not_told_and_of_the_others_so_many_at_once() -> None:
    missed = judged([created(pod(), f"asr-{n}", n) for n in range(10)])

    assert told(missed, at(4), 3) == ["asr-4", "asr-5", "asr-6"]
    assert missed.judged_until == ""
    assert told(missed, at(4), 9) == ["asr-7", "asr-8", "asr-9"]
    assert missed.judged_until == at(9)
    assert told(missed) == []


def test_a_pod_is_judged_once_whatever_configuration_comes_later() -> None:
    item = msgspec.convert(created(pod()), PodObject)
    missed = judged([created(pod())], Policy(mode=Mode.DISABLED))
    missed.seen(item.metadata.uid, item)
    missed.judge(state().snapshot(), Policy())

    assert told(missed) == []


def test_of_very_many_the_oldest_are_judged_first() -> None:
    missed = judged([created(pod(), f"asr-{n}", n) for n in reversed(range(BATCH + 1))])
    cluster = state()

    assert told(missed) == [f"asr-{n}" for n in range(BATCH)]
    assert missed.judged_until == ""
    assert not missed.judge(cluster.snapshot(), cluster.policy)
    assert told(missed) == [f"asr-{BATCH}"]


def test_of_pods_that_are_gone_nothing_is_kept() -> None:
    tree = created(pod())
    missed = judged([tree])
    missed.gone("uid-of-asr-1")

    assert told(missed) == []


def test_the_next_holder_begins_a_little_before_where_the_last_one_ended() -> None:
    assert since(at(0), at(100)) == at(95)
    assert since(at(0), at(3)) == at(0)
    assert since(at(0), "") == at(0)


@given(st.text())
def test_whatever_an_annotation_says_pods_of_before_the_installation_are_not_told(
    mark: str,
) -> None:
    assert since(at(0), mark) >= at(0)
