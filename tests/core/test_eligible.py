from dataclasses import replace
from typing import Any

import pytest

from extender.core.decide import decide
from extender.core.policy import Globs, Inject, Match, Mode, Policy, Queues, Rule
from extender.core.reason import STEP_ONE, Reason
from tests.build import (
    GPU,
    JSON,
    changed,
    container,
    decided,
    mig,
    namespace,
    pod,
    state,
)

BY_RULE = Policy(rules=(Rule(name="all", match=Match(), footprint_bytes=9_600_000_000),))
"""The admin knows the footprint; the pod need not say it."""


def reason(tree: JSON, policy: Policy | None = None, **cluster: Any) -> Reason:
    return decided(tree, policy=policy, **cluster).reason


def labelled(tree: JSON, key: str, value: str = "x") -> JSON:
    return changed(tree, "metadata", "labels", key, to=value)


def owned(kind: str, name: str = "asr") -> JSON:
    reference = {"kind": kind, "name": name, "controller": True}
    return changed(pod(footprint=None), "metadata", "ownerReferences", to=[reference])


def slice_of(profile: str = "2g.20gb") -> JSON:
    return {"name": "other", "resources": {"limits": {mig(profile): "1"}}}


# --- step 1: is it ours? ---------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", [None, "0", 0, "none"])
def test_a_pod_that_asks_for_no_gpu_is_none_of_our_business(gpu: object) -> None:
    assert reason(pod(container(gpu=gpu))) is Reason.NO_GPU_REQUEST


def test_gpus_of_ephemeral_containers_do_not_count() -> None:
    tree = pod(container(gpu=None), ephemeralContainers=[container("debug")])
    assert reason(tree) is Reason.NO_GPU_REQUEST


def test_pod_level_resources_ask_for_no_gpu() -> None:
    tree = pod(container(gpu=None), resources={"limits": {GPU: "1", "cpu": "4"}})
    assert reason(tree) is Reason.NO_GPU_REQUEST


@pytest.mark.parametrize("profile", ["2g.20gb", "1g.10gb+me", "9g.99gb"])
def test_a_pod_that_asks_for_a_slice_by_name_keeps_it(profile: str) -> None:
    decision = decided(pod(slice_of(profile)))
    assert decision.reason is Reason.ALREADY_MIG
    assert mig(profile) in decision.message


def test_another_name_for_the_gpu_resource_is_heeded() -> None:
    limits = {"limits": {"gpu.example.com/card": "1"}}
    tree = pod({"name": "asr", "resources": limits})
    assert reason(tree) is Reason.NO_GPU_REQUEST
    assert reason(tree, Policy(gpu_resource="gpu.example.com/card")) is Reason.FITS


def test_a_mirror_pod_cannot_be_changed() -> None:
    key = "kubernetes.io/config.mirror"
    tree = changed(pod(), "metadata", "annotations", key, to="c0ffee")
    assert reason(tree) is Reason.MIRROR_POD


def test_a_pod_put_on_a_node_by_name_is_left() -> None:
    decision = decided(pod(nodeName="gpu-a"))
    assert decision.reason is Reason.NODE_NAME_SET
    assert "gpu-a" in decision.message


def test_a_pod_with_resource_claims_is_left() -> None:
    assert reason(pod(resourceClaims=[{"name": "gpu"}])) is Reason.RESOURCE_CLAIMS
    assert reason(pod(resourceClaims=[])) is Reason.FITS


def test_a_pod_of_a_daemon_set_is_left() -> None:
    assert reason(owned("DaemonSet"), BY_RULE) is Reason.DAEMON_SET


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), Reason.FITS),
        ((), ("speech",), Reason.NAMESPACE_EXCLUDED),
        ((), ("spee*",), Reason.NAMESPACE_EXCLUDED),
        (("spee*",), (), Reason.FITS),
        (("video",), (), Reason.NAMESPACE_EXCLUDED),
        (("speech",), ("speech",), Reason.NAMESPACE_EXCLUDED),
    ],
)
def test_namespaces_are_served_by_glob_and_exclusion_wins(
    include: tuple[str, ...], exclude: tuple[str, ...], expected: Reason
) -> None:
    policy = Policy(include=Globs(include), exclude=Globs(exclude))
    assert reason(pod(), policy) is expected


@pytest.mark.parametrize("name", ["kube-system", "gpu-operator", "nvidia-gpu-operator"])
def test_namespaces_whose_pods_work_on_whole_cards_are_excluded_by_default(name: str) -> None:
    tree = changed(pod(), "metadata", "namespace", to=name)
    assert reason(tree) is Reason.NAMESPACE_EXCLUDED


def test_the_namespace_of_the_request_counts_not_what_the_pod_says() -> None:
    cluster = state(policy=Policy(exclude=Globs(("video",))))
    found = decide(pod(), cluster.snapshot(), cluster.policy, namespace="video")
    assert found.reason is Reason.NAMESPACE_EXCLUDED


def test_pod_or_namespace_may_opt_out() -> None:
    assert reason(labelled(pod(), "migfit.io/mode", "ignore")) is Reason.IGNORED
    assert reason(pod(), namespaces=[namespace(mode="ignore")]) is Reason.IGNORED
    assert reason(pod(), namespaces=[namespace("video", mode="ignore")]) is Reason.FITS


def test_a_namespace_nobody_knows_yet_counts_as_one_without_labels() -> None:
    assert reason(pod(), namespaces=[]) is Reason.FITS


def test_disabled_is_told_with_who_disabled_it() -> None:
    off = Rule(name="notebooks", match=Match(), mode=Mode.DISABLED)
    by_rule = decided(pod(), policy=Policy(rules=(off,)))
    silent = Rule(name="silent", match=Match())
    by_all = decided(pod(), policy=Policy(mode=Mode.DISABLED, rules=(silent,)))
    assert (by_rule.reason, by_rule.message) == (Reason.DISABLED, "disabled by rule notebooks")
    assert (by_all.reason, by_all.message) == (Reason.DISABLED, "disabled by the configuration")


@pytest.mark.parametrize("scheduler", ["default-scheduler", "", None, "migfit", "volcano"])
def test_pods_of_known_schedulers_are_rewritten(scheduler: str | None) -> None:
    policy = Policy(
        inject=Inject(scheduler_name="migfit"), schedulers=frozenset({"volcano", "yunikorn"})
    )
    assert reason(pod(schedulerName=scheduler), policy) is Reason.FITS


@pytest.mark.parametrize("scheduler", ["volcano", "migfit", "Default-Scheduler"])
def test_pods_of_other_schedulers_are_left(scheduler: str) -> None:
    decision = decided(pod(schedulerName=scheduler))
    assert decision.reason is Reason.OTHER_SCHEDULER
    assert scheduler in decision.message


QUEUED = [
    pod(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}]),
    labelled(pod(), "kueue.x-k8s.io/queue-name"),
    labelled(pod(), "kueue.x-k8s.io/managed", "true"),
    labelled(pod(), "kueue.x-k8s.io/podset", "main"),
    labelled(pod(), "scheduling.x-k8s.io/pod-group"),
    labelled(pod(), "pod-group.scheduling.sigs.k8s.io"),
    changed(pod(), "metadata", "annotations", "scheduling.k8s.io/group-name", to="gang"),
    changed(pod(), "metadata", "annotations", "scheduling.volcano.sh/group-name", to="gang"),
    pod(workloadRef={"name": "gang", "podGroup": "workers"}),
    pod(schedulingGroup={"podGroupName": "gang"}),
]


@pytest.mark.parametrize("tree", QUEUED)
def test_a_pod_held_by_a_queue_is_left_unless_queues_say_rewrite(tree: JSON) -> None:
    assert reason(tree) is Reason.QUEUED
    assert reason(tree, Policy(queues=Queues.REWRITE)) is Reason.FITS


@pytest.mark.parametrize("tree", [pod(schedulingGates=[]), pod(workloadRef=None)])
def test_a_queue_that_holds_nothing_is_none(tree: JSON) -> None:
    assert reason(tree) is Reason.FITS


def test_a_workload_held_back_runs_whole_for_a_while() -> None:
    cluster = state()
    held = replace(cluster.snapshot(), held={("speech", "Deployment/asr"): 7200.0})
    found = decide(pod(), held, cluster.policy)
    assert found.reason is Reason.BACKED_OFF
    assert "120 min" in found.message
    elsewhere = replace(held, held={("video", "Deployment/asr"): 7200.0})
    assert decide(pod(), elsewhere, cluster.policy).reason is Reason.FITS


def test_nothing_is_decided_on_a_stale_view() -> None:
    cluster = state()
    stale = replace(cluster.snapshot(), stale=True, age_s=200.0)
    told = decide(pod(), stale, cluster.policy)
    assert (told.reason, told.message) == (
        Reason.STALE_STATE,
        "nothing heard of the cluster for 200 s",
    )
    told = decide(pod(), replace(stale, age_s=0.0), cluster.policy)
    assert (told.reason, told.message) == (
        Reason.STALE_STATE,
        "not everything is listed yet that a decision needs",
    )


def test_reasons_of_the_first_step_are_checked_in_the_documented_order() -> None:
    """From a pod to which every reason applies, they are taken away one by one."""
    tree = pod(
        nodeName="gpu-a",
        resourceClaims=[{"name": "gpu"}],
        schedulerName="volcano",
        schedulingGates=[{"name": "gate"}],
    )
    tree = changed(tree, "metadata", "annotations", "kubernetes.io/config.mirror", to="c0ffee")
    tree = labelled(tree, "migfit.io/mode", "ignore")
    tree = changed(
        tree,
        "metadata",
        "ownerReferences",
        to=[{"kind": "DaemonSet", "name": "a", "controller": True}],
    )
    policy = Policy(mode=Mode.DISABLED, exclude=Globs(("speech",)))
    workloads = {("speech", "DaemonSet/a"): 60.0, ("speech", "Pod/asr-5d4f8c7b9d-"): 60.0}
    snapshot = replace(state().snapshot(), held=workloads, stale=True)
    found = []

    def look() -> None:
        found.append(decide(tree, snapshot, policy).reason)

    look()
    del tree["metadata"]["annotations"]["kubernetes.io/config.mirror"]
    look()
    del tree["spec"]["nodeName"]
    look()
    del tree["spec"]["resourceClaims"]
    look()
    del tree["metadata"]["ownerReferences"]
    look()
    policy = replace(policy, exclude=Globs())
    look()
    del tree["metadata"]["labels"]["migfit.io/mode"]
    look()
    policy = replace(policy, mode=Mode.ENFORCE)
    look()
    del tree["spec"]["schedulerName"]
    look()
    del tree["spec"]["schedulingGates"]
    look()
    snapshot = replace(snapshot, held={})
    look()
    assert tuple(found) == STEP_ONE[2:]


def test_a_pod_without_gpus_is_so_before_anything_else() -> None:
    tree = labelled(pod(container(gpu=None), nodeName="gpu-a"), "migfit.io/mode", "ignore")
    assert reason(tree, Policy(mode=Mode.DISABLED)) is Reason.NO_GPU_REQUEST
