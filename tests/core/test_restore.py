"""An update of a pod that we rewrote: what the rewrite did stays, and nothing else is touched."""

import copy
from typing import Any

import jsonpatch
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extender.core.decide import decide
from extender.core.policy import Inject, Mode, Policy
from extender.core.reason import Action, Reason
from extender.core.render import annotation, warning
from extender.core.restore import restore, was_rewritten
from extender.core.rewrite import apply, patch_for
from tests.build import GPU, JSON, UID, changed, container, mig, node, pod, state, without
from tests.draw import anything, clusters, crowds, mangled, pods, policies

MIDDLE = mig("2g.20gb")
OWN = {"key": "mine", "operator": "Exists"}
GENEROUS = Policy(
    inject=Inject(
        scheduler_name="migfit",
        tolerations=({"key": "pool", "operator": "Exists"},),
        node_selector=(("pool", "mig"),),
        prefer_used_nodes=True,
    ),
    filter=False,
)
"""Whatever we may add to a pod is added."""
ROOMY = {"pool": "mig", f"{MIDDLE}.memory": "20000"}
POOL = (node(labels={"pool": "mig"}), node("gpu-b", labels=ROOMY))


def rewritten(tree: JSON, *nodes: JSON, policy: Policy | None = None, crowd: Any = ()) -> JSON:
    """The pod as it is stored after its creation; the same if it was left."""
    cluster = state(*nodes, policy=policy, pods=crowd)
    snapshot = cluster.snapshot()
    decision = decide(tree, snapshot, cluster.policy, request_id=UID)
    used = snapshot.ranking.best_used(decision.claims, decision.nodes) if snapshot.ranking else []
    rendered = annotation(decision)
    inject = cluster.policy.inject
    return apply(patch_for(decision, tree, inject=inject, annotation=rendered, prefer=used), tree)


def applied(manifest: JSON, stored: JSON) -> JSON:
    """What `kubectl apply` makes of both: maps are merged, lists of the manifest replace, and after
    that the API server copies limits into requests."""
    merged: JSON = _merged(stored, manifest)
    for key in ("initContainers", "containers"):
        for each in merged["spec"].get(key, ()):
            resources = each["resources"]
            resources["requests"] = {**resources["limits"], **resources["requests"]}
    return merged


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {k: _merged(below.get(k), above.get(k)) for k in [*below, *(above.keys() - below)]}
    if isinstance(below, list) and below and isinstance(below[0], dict) and "image" in below[0]:
        return [_merged(one, other) for one, other in zip(below, above or below, strict=True)]
    return copy.deepcopy(below if above is None else above)


def after_update(updated: JSON, before: JSON, policy: Policy | None = None) -> JSON:
    """The updated pod as the API server gets it back."""
    _, patch = restore(updated, before, policy or Policy(), request_id=UID)
    result: JSON = jsonpatch.apply_patch(updated, patch)
    assert apply(patch, updated) == result
    return result


# --- the manifest comes again --------------------------------------------------------------------


@given(pods(), clusters(), crowds(), policies(mode=Mode.ENFORCE))
def test_a_rewritten_pod_whose_manifest_is_applied_again_is_as_it_was(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    before = rewritten(tree, *nodes, policy=policy, crowd=crowd)
    assume(was_rewritten(before))
    updated = applied(tree, before)
    assert updated["spec"] != before["spec"]

    assert after_update(updated, before, policy) == before


@given(pods(), clusters(), policies(mode=Mode.ENFORCE))
def test_a_rewritten_pod_that_is_replaced_by_its_manifest_is_as_it_was(
    tree: JSON, nodes: list[JSON], policy: Policy
) -> None:
    before = rewritten(tree, *nodes, policy=policy)
    assume(was_rewritten(before))
    if before["spec"]["schedulerName"] != tree["spec"]["schedulerName"]:
        assume(tree["spec"]["schedulerName"])  # the API server leaves none empty

    after = after_update(tree, before, policy)

    assert after["metadata"] == before["metadata"]
    assert {**after["spec"], "tolerations": ()} == {**before["spec"], "tolerations": ()}
    assert sorted(map(repr, after["spec"]["tolerations"])) == (
        sorted(map(repr, before["spec"]["tolerations"]))
    )


EVERYTHING = pod(
    tolerations=[OWN],
    affinity={
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "pool", "operator": "Exists"}]},
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]},
                ]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "a"}]}}
            ],
        }
    },
)


@pytest.mark.parametrize("tree", [pod(), pod(tolerations=[OWN]), EVERYTHING])
def test_all_that_may_be_added_to_a_pod_stays_through_apply_and_replace(tree: JSON) -> None:
    used = [
        {
            "metadata": {"name": "other", "namespace": "a", "uid": "other"},
            "spec": {
                "nodeName": "gpu-b",
                "containers": [{"name": "a", "resources": {"limits": {MIDDLE: "1"}}}],
            },
            "status": {"phase": "Running"},
        }
    ]
    before = rewritten(tree, *POOL, policy=GENEROUS, crowd=used)
    added = repr(before["spec"])
    for each in ("'Gt'", "migfit", "{'pool': 'mig'}", "matchFields", "'pool', 'operator'"):
        assert each in added

    assert after_update(applied(tree, before), before, GENEROUS) == before
    assert after_update(tree, before, GENEROUS)["spec"] == before["spec"]


def test_the_decision_tells_what_happened_and_says_so_once() -> None:
    before = rewritten(pod())
    policy = Policy(revision="c0ffee")

    decision, _ = restore(
        applied(pod(), before), before, policy, namespace="speech", request_id=UID
    )

    assert (decision.action, decision.reason) == (Action.LEFT, Reason.ALREADY_MIG)
    assert [(c.name, c.resource, c.to) for c in decision.changes] == [("asr", GPU, MIDDLE)]
    assert (decision.id, decision.namespace, decision.pod) == (UID, "speech", "asr-5d4f8c7b9d-")
    assert (decision.config_revision, dict(decision.claims)) == ("c0ffee", {})
    assert warning(decision) == (
        "migfit: AlreadyMig: an update brought nvidia.com/gpu back; the pod keeps its slice"
    )


# --- what is not ours ----------------------------------------------------------------------------


def test_whatever_else_an_update_changes_goes_through() -> None:
    before = rewritten(pod())
    updated = applied(pod(), before)
    updated["spec"]["containers"][0]["image"] = "registry.example.com/asr/server:2"
    updated["metadata"]["labels"]["release"] = "2"
    updated["spec"]["activeDeadlineSeconds"] = 60

    after = after_update(updated, before)

    expected = changed(
        before, "spec", "containers", 0, "image", to=updated["spec"]["containers"][0]["image"]
    )
    expected["metadata"]["labels"]["release"] = "2"
    expected["spec"]["activeDeadlineSeconds"] = 60
    assert after == expected


RESOURCES = ("spec", "containers", 0, "resources")


@pytest.mark.parametrize(
    "change",
    [
        {"limits": {GPU: "2", MIDDLE: "1"}, "requests": {GPU: "2", MIDDLE: "1"}},
        {"limits": {GPU: "0", MIDDLE: "1"}, "requests": {GPU: "0", MIDDLE: "1"}},
        {"limits": {}, "requests": {}},
    ],
)
def test_another_number_of_gpus_is_left_for_the_api_server_to_refuse(change: JSON) -> None:
    before = rewritten(pod())
    updated = changed(before, *RESOURCES, to=change)

    decision, patch = restore(updated, before, Policy())

    assert patch == []
    assert decision.reason is Reason.ALREADY_MIG
    assert warning(decision) is None


def test_a_change_of_cpu_beside_it_stays_for_the_api_server_to_refuse() -> None:
    before = rewritten(pod())
    updated = changed(applied(pod(), before), *RESOURCES, "limits", "cpu", to="64")

    after = after_update(updated, before)

    assert after == changed(before, *RESOURCES, "limits", "cpu", to="64")


def test_an_affinity_that_is_another_one_is_not_put_back() -> None:
    before = rewritten(EVERYTHING, *POOL, policy=GENEROUS)
    path = ("spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    other = changed(EVERYTHING, *path, "nodeSelectorTerms", 0, "matchExpressions", 0, "key", to="b")

    after = after_update(applied(other, before), before, GENEROUS)

    assert after["spec"]["affinity"] == other["spec"]["affinity"]


def test_what_the_pod_never_got_is_not_added_by_a_newer_configuration() -> None:
    before = rewritten(pod())

    assert after_update(applied(pod(), before), before, GENEROUS) == before


@pytest.mark.parametrize(
    "before",
    [
        pod(),
        pod({"name": "other", "resources": {"limits": {MIDDLE: "1"}}}),
        pod({"name": "asr", "resources": {"limits": {MIDDLE: "2"}}}),
        pod({"name": "asr", "resources": {"limits": {MIDDLE: "1", GPU: "1"}}}),
        without(pod(), "spec"),
    ],
    ids=["whole", "another container", "two slices", "both", "no spec"],
)
def test_a_container_that_has_no_slice_of_ours_keeps_what_the_update_gives_it(before: JSON) -> None:
    _, patch = restore(pod(container()), before, Policy())

    assert patch == []


# --- whatever comes ------------------------------------------------------------------------------

STORED = rewritten(EVERYTHING, *POOL, policy=GENEROUS)


@given(mangled(st.sampled_from([pod(), EVERYTHING, STORED])), mangled(st.just(STORED)))
def test_whatever_both_pods_are_the_patch_applies_and_leaves_nothing_to_do(
    updated: JSON, before: JSON
) -> None:
    after = after_update(updated, before, GENEROUS)

    assert restore(after, before, GENEROUS)[0].changes == ()


@given(anything, anything)
def test_any_json_in_place_of_a_spec_is_taken(new: Any, old: Any) -> None:
    updated, before = changed(STORED, "spec", to=new), changed(STORED, "spec", to=old)

    assert after_update(updated, before) == updated


# --- the mark, forged at creation ----------------------------------------------------------------


@given(pods(), clusters(), crowds(), policies(), st.sampled_from(["true", "false", ""]))
def test_a_pod_that_comes_with_our_mark_gets_the_decision_it_gets_without(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy, value: str
) -> None:
    cluster = state(*nodes, pods=crowd, policy=policy)
    forged = changed(tree, "metadata", "labels", "migfit.io/rewritten", to=value)
    forged["metadata"]["annotations"]["migfit.io/need"] = "1Mi"

    honest = decide(tree, cluster.snapshot(), policy, request_id=UID)

    assert decide(forged, cluster.snapshot(), policy, request_id=UID) == honest
