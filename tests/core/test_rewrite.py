import copy
import json
from dataclasses import replace
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.decision import Change, Decision
from extender.core.policy import Inject
from extender.core.reason import Action, Reason
from extender.core.rewrite import (
    MOST_ANNOTATION_BYTES,
    Patch,
    PatchError,
    apply,
    escape,
    patch_for,
)
from tests.build import GPU, JSON, changed, container, mig, pod, without

MIDDLE = mig("2g.20gb")
TOLD = '{"reason":"Fits"}'
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
GUARD = (f"{MIDDLE}.memory", 10986)
DEMAND = {"key": GUARD[0], "operator": "Gt", "values": ["10986"]}


def rewritten(*names: str, **fields: Any) -> Decision:
    """Containers of a pod, in its order, get a slice each; one that is called `-` is passed over."""
    changes = tuple(
        Change(name, f"/spec/containers/{n}", GPU, MIDDLE, need_mib=10987)
        for n, name in enumerate(names or ("asr",))
        if name != "-"
    )
    known: dict[str, Any] = {"need_mib": 10987, "changes": changes}
    return Decision(
        action=Action.REWRITTEN, reason=Reason.FITS, message="fits", **{**known, **fields}
    )


def left(reason: Reason = Reason.TOO_LARGE, **fields: Any) -> Decision:
    return Decision(action=Action.LEFT, reason=reason, message="left", **fields)


def patched(tree: JSON, decision: Decision, **how: Any) -> JSON:
    """The pod after the patch, as the reference implementation of RFC 6902 applies it."""
    patch = patch_for(decision, tree, **{"inject": Inject(), "annotation": TOLD, **how})
    before = json.dumps(tree)
    result: JSON = jsonpatch.apply_patch(tree, patch)
    assert apply(patch, tree) == result
    assert json.dumps(tree) == before
    return result


def resources(tree: JSON, position: int = 0) -> Any:
    return tree["spec"]["containers"][position]["resources"]


# --- what is patched -------------------------------------------------------------------------------


def test_the_gpu_gives_way_to_the_slice_in_limits_and_requests() -> None:
    found = resources(patched(pod(), rewritten()))
    asked = {"cpu": "2", "memory": "8Gi", MIDDLE: "1"}
    assert found == {"limits": asked, "requests": asked}


def test_limits_without_requests_get_both_as_the_api_server_would_make_of_them() -> None:
    tree = without(pod(), "spec", "containers", 0, "resources", "requests")
    found = resources(patched(tree, rewritten()))
    assert found["limits"][MIDDLE] == "1"
    assert found["requests"] == {MIDDLE: "1"}


@pytest.mark.parametrize("nothing", [None, {}])
def test_requests_that_say_nothing_are_made_good(nothing: object) -> None:
    tree = changed(pod(), "spec", "containers", 0, "resources", "requests", to=nothing)
    assert resources(patched(tree, rewritten()))["requests"] == {MIDDLE: "1"}


def test_a_gpu_in_requests_only_moves_too() -> None:
    tree = without(pod(), "spec", "containers", 0, "resources", "limits")
    found = resources(patched(tree, rewritten()))
    assert found["limits"] == {MIDDLE: "1"}
    assert GPU not in found["requests"]


def test_containers_that_ask_for_no_gpu_are_not_touched() -> None:
    tree = pod(container("proxy", None), container("asr"))
    found = patched(tree, rewritten("-", "asr"))
    assert found["spec"]["containers"][0] == tree["spec"]["containers"][0]
    assert resources(found, 1)["limits"][MIDDLE] == "1"


def test_a_rewritten_pod_carries_decision_need_and_label() -> None:
    found = patched(pod(), rewritten())["metadata"]
    assert found["annotations"] == {
        "migfit.io/gpu-memory": "9.6G",
        "migfit.io/need": "10987Mi",
        "migfit.io/decision": TOLD,
    }
    assert found["labels"] == {
        "app": "asr",
        "pod-template-hash": "5d4f8c7b9d",
        "migfit.io/rewritten": "true",
    }


def test_a_pod_without_a_need_carries_none() -> None:
    found = patched(pod(), rewritten(need_mib=None))["metadata"]["annotations"]
    assert "migfit.io/need" not in found


@pytest.mark.parametrize(
    "missing", [("metadata",), ("metadata", "labels"), ("metadata", "annotations")]
)
@pytest.mark.parametrize("null", [True, False])
def test_maps_that_are_missing_or_null_are_made(missing: tuple[str, ...], null: bool) -> None:
    tree = changed(pod(), *missing, to=None) if null else without(pod(), *missing)
    found = patched(tree, rewritten())["metadata"]
    assert found["labels"]["migfit.io/rewritten"] == "true"
    assert found["annotations"]["migfit.io/decision"] == TOLD


def test_a_pod_that_is_left_gets_the_decision_and_nothing_else() -> None:
    found = patched(pod(), left())
    expected = changed(pod(), "metadata", "annotations", "migfit.io/decision", to=TOLD)
    assert found == expected


@pytest.mark.parametrize(
    "reason", [Reason.NO_GPU_REQUEST, Reason.ALREADY_MIG, Reason.MIRROR_POD, Reason.DISABLED]
)
def test_pods_that_are_none_of_our_business_get_no_patch(reason: Reason) -> None:
    assert patch_for(left(reason), pod(), inject=Inject(), annotation=TOLD) == []


def test_a_pod_that_is_denied_gets_no_patch() -> None:
    denied = left(Reason.QUOTA, claims={})
    assert patch_for(denied, pod(), inject=Inject(), annotation=TOLD) != []
    denied = replace(denied, action=Action.DENIED)
    assert patch_for(denied, pod(), inject=Inject(), annotation=TOLD) == []


def test_a_pod_that_says_it_already_is_not_told_again() -> None:
    assert patch_for(left(), pod(), inject=Inject(), annotation=None) == []


def test_an_older_decision_is_replaced() -> None:
    tree = changed(pod(), "metadata", "annotations", "migfit.io/decision", to="{}")
    assert patched(tree, left())["metadata"]["annotations"]["migfit.io/decision"] == TOLD


def test_a_stray_gpu_is_removed_and_nothing_else_is_done() -> None:
    both = {"cpu": "2", GPU: "1", MIDDLE: "1"}
    tree = pod({"name": "asr", "resources": {"limits": both, "requests": dict(both)}})
    stray = left(
        Reason.ALREADY_MIG,
        stray=("/spec/containers/0",),
        changes=(Change("asr", "/spec/containers/0", GPU),),
    )
    found = patched(tree, stray)
    alone = {"cpu": "2", MIDDLE: "1"}
    assert resources(found) == {"limits": alone, "requests": alone}
    assert found["metadata"] == tree["metadata"]


def test_only_members_are_added_or_removed_and_nothing_is_tested() -> None:
    inject = Inject(
        scheduler_name="migfit", node_selector=(("a", "b"),), tolerations=({"key": "k"},)
    )
    patch = patch_for(
        rewritten(guards=(GUARD,)), pod(), inject=inject, annotation=TOLD, prefer=["gpu-a"]
    )
    assert {operation["op"] for operation in patch} == {"add", "remove"}
    present = {"/metadata/labels", "/metadata/annotations", "/spec/tolerations", "/spec/containers"}
    assert not present & {operation["path"] for operation in patch}


# --- room for annotations --------------------------------------------------------------------------


def filled(leave: int) -> JSON:
    """A pod whose annotations leave so many bytes of the limit."""
    tree = pod(footprint=None)
    size = MOST_ANNOTATION_BYTES - leave - len("note")
    tree["metadata"]["annotations"] = {"note": "é" * (size // 2) + "x" * (size % 2)}
    return tree


DECISION_BYTES = len("migfit.io/decision") + len(TOLD)
NEED_BYTES = len("migfit.io/need") + len("10987Mi")


@pytest.mark.parametrize(("leave", "told"), [(DECISION_BYTES, True), (DECISION_BYTES - 1, False)])
def test_the_decision_is_left_out_where_it_would_burst_the_annotations(
    leave: int, told: bool
) -> None:
    found = patched(filled(leave), left())["metadata"]["annotations"]
    assert ("migfit.io/decision" in found) is told


@pytest.mark.parametrize(
    ("leave", "marks"),
    [
        (NEED_BYTES + DECISION_BYTES, {"need", "decision"}),
        (NEED_BYTES + DECISION_BYTES - 1, {"need"}),
        (NEED_BYTES, {"need"}),
        (NEED_BYTES - 1, set()),
    ],
)
def test_the_need_goes_before_the_decision_where_room_is_scarce(
    leave: int, marks: set[str]
) -> None:
    found = patched(filled(leave), rewritten())
    annotations = found["metadata"]["annotations"]
    assert {k.removeprefix("migfit.io/") for k in annotations if k != "note"} == marks
    assert resources(found)["limits"][MIDDLE] == "1"


def test_an_annotation_that_is_replaced_takes_no_room_twice() -> None:
    tree = filled(10)
    old = tree["metadata"]["annotations"]["note"]
    tree["metadata"]["annotations"] = {"migfit.io/decision": old}
    assert patched(tree, left())["metadata"]["annotations"] == {"migfit.io/decision": TOLD}


# --- injection -------------------------------------------------------------------------------------


def injected(tree: JSON, inject: Inject) -> Any:
    return patched(tree, rewritten(), inject=inject)["spec"]


@pytest.mark.parametrize("scheduler", ["default-scheduler", "", None])
def test_only_the_default_scheduler_is_replaced(scheduler: str | None) -> None:
    inject = Inject(scheduler_name="migfit")
    assert injected(pod(schedulerName=scheduler), inject)["schedulerName"] == "migfit"
    assert injected(pod(schedulerName="volcano"), inject)["schedulerName"] == "volcano"
    assert injected(pod(), Inject())["schedulerName"] == "default-scheduler"


def test_a_node_selector_is_added_to_and_what_the_pod_says_stays() -> None:
    inject = Inject(node_selector=(("pool", "mig"), ("zone", "b")))
    assert injected(pod(), inject)["nodeSelector"] == {"pool": "mig", "zone": "b"}
    own = pod(nodeSelector={"zone": "a"})
    assert injected(own, inject)["nodeSelector"] == {"zone": "a", "pool": "mig"}
    assert "nodeSelector" not in injected(pod(), Inject())


def test_tolerations_are_appended_unless_the_pod_has_them() -> None:
    mine = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
    new = {"key": "mig", "operator": "Exists"}
    inject = Inject(tolerations=(new, mine))
    assert injected(pod(), inject)["tolerations"] == [mine, new]
    assert injected(pod(tolerations=None), inject)["tolerations"] == [new, mine]
    assert injected(pod(tolerations=[new, mine]), inject)["tolerations"] == [new, mine]


def test_nothing_is_injected_into_a_pod_that_is_left() -> None:
    inject = Inject(scheduler_name="migfit", node_selector=(("pool", "mig"),))
    assert patched(pod(), left(), inject=inject)["spec"] == pod()["spec"]


def test_used_nodes_are_preferred_the_more_the_better_they_are() -> None:
    found = patched(pod(), rewritten(), prefer=["gpu-b", "gpu-a"])["spec"]["affinity"]
    terms = found["nodeAffinity"][PREFERRED]
    assert [term["weight"] for term in terms] == [100, 90]
    assert [term["preference"]["matchFields"][0] for term in terms] == [
        {"key": "metadata.name", "operator": "In", "values": [name]} for name in ("gpu-b", "gpu-a")
    ]


def test_weights_of_preferred_nodes_are_valid_however_many_are_given() -> None:
    names = [f"n{number}" for number in range(30)]
    found = patched(pod(), rewritten(), prefer=names)["spec"]["affinity"]["nodeAffinity"]
    assert [term["weight"] for term in found[PREFERRED]] == list(range(100, 0, -10))


def test_preferences_of_the_pod_stay_before_ours() -> None:
    own = {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
    tree = pod(affinity={"podAffinity": {}, "nodeAffinity": {PREFERRED: [own]}})
    found = patched(tree, rewritten(guards=(GUARD,)), prefer=["gpu-a"])["spec"]["affinity"]
    assert found["podAffinity"] == {}
    assert found["nodeAffinity"][PREFERRED][0] == own
    assert len(found["nodeAffinity"][PREFERRED]) == 2


# --- the guard -------------------------------------------------------------------------------------


def guarded(affinity: Any) -> Any:
    """Required terms after a guard was put on a pod with this affinity."""
    tree = pod() if affinity is None else pod(affinity=affinity)
    found = patched(tree, rewritten(guards=(GUARD,)))["spec"]["affinity"]
    return found["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]


def required(*terms: JSON) -> JSON:
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}


@pytest.mark.parametrize(
    "affinity",
    [
        None,
        {},
        {"podAntiAffinity": {}},
        {"nodeAffinity": None},
        {"nodeAffinity": {}},
        {"nodeAffinity": {REQUIRED: None}},
        {"nodeAffinity": {PREFERRED: []}},
    ],
)
def test_without_a_required_affinity_the_guard_is_a_term_of_its_own(affinity: Any) -> None:
    assert guarded(affinity) == [{"matchExpressions": [DEMAND]}]


def test_the_guard_joins_every_term_because_they_are_alternatives() -> None:
    zone = {"key": "zone", "operator": "Exists"}
    name = {"key": "metadata.name", "operator": "In", "values": ["gpu-a"]}
    terms: list[JSON] = [
        {"matchExpressions": [zone]},
        {"matchFields": [name]},
        {"matchExpressions": [], "matchFields": [name]},
        {"matchExpressions": [zone], "matchFields": [name]},
    ]
    assert guarded(required(*terms)) == [
        {"matchExpressions": [zone, DEMAND]},
        {"matchFields": [name], "matchExpressions": [DEMAND]},
        {"matchExpressions": [DEMAND], "matchFields": [name]},
        {"matchExpressions": [zone, DEMAND], "matchFields": [name]},
    ]


@pytest.mark.parametrize("empty", [{}, {"matchExpressions": []}, {"matchFields": []}])
def test_an_empty_term_matches_nothing_and_stays_so(empty: JSON) -> None:
    zone = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    assert guarded(required(empty, zone))[0] == empty


def test_several_labels_are_guarded_in_one_term() -> None:
    both = ((f"{mig('1g.10gb')}.memory", 900), GUARD)
    found = patched(pod(), rewritten(guards=both))["spec"]["affinity"]["nodeAffinity"]
    (term,) = found[REQUIRED]["nodeSelectorTerms"]
    assert [e["key"] for e in term["matchExpressions"]] == [key for key, _ in both]


# --- JSON pointer and patch --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "token"),
    [("nvidia.com/gpu", "nvidia.com~1gpu"), ("a~b", "a~0b"), ("~1", "~01"), ("plain", "plain")],
)
def test_a_member_is_escaped_as_a_json_pointer(member: str, token: str) -> None:
    assert escape(member) == token


keys = st.text("ab/~01", max_size=4)
trees = st.recursive(
    st.integers() | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, trees, max_size=4), st.data())
def test_a_patch_does_what_the_reference_implementation_makes_of_it(
    tree: JSON, data: st.DataObject
) -> None:
    patch: Patch = []
    current: Any = tree
    for _ in range(data.draw(st.integers(1, 4))):
        path, at = "", current
        while isinstance(at, dict | list) and at and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], dict | list):
                break
            path, at = f"{path}/{escape(str(key))}", at[key]
        if at and data.draw(st.booleans()):
            last = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            patch.append({"op": "remove", "path": f"{path}/{escape(str(last))}"})
        else:
            last = data.draw(keys) if isinstance(at, dict) else "-"
            value = data.draw(trees)
            patch.append({"op": "add", "path": f"{path}/{escape(last)}", "value": value})
        current = jsonpatch.apply_patch(tree, patch)
    before = copy.deepcopy((tree, patch))
    assert apply(patch, tree) == current
    assert (tree, patch) == before


@pytest.mark.parametrize(
    ("paths", "after"),
    [
        (("add /m/x", "add /m", "add /m/y"), {"m": {"y": 1}, "l": [{"a": 1}, {"b": 2}]}),
        (("add /l/1/x", "remove /l/0", "add /l/0/y"), {"m": {}, "l": [{"b": 2, "x": 1, "y": 1}]}),
        (("add /l/0/x", "add /l/0", "add /l/0/y"), {"m": {}, "l": [{"y": 1}, {"a": 1, "x": 1}]}),
        (("add /l/0/x", "add /l/-", "add /l/0/y"), {"m": {}, "l": [{"a": 1, "x": 1, "y": 1}]}),
    ],
)
def test_what_an_operation_puts_elsewhere_is_found_there_by_the_next(
    paths: tuple[str, ...], after: JSON
) -> None:
    patch: Patch = [
        {"op": op, "path": path, "value": {} if path in ("/m", "/l/0", "/l/-") else 1}
        for op, path in map(str.split, paths)
    ]
    tree = {"m": {}, "l": [{"a": 1}, {"b": 2}]}
    found = apply(patch, tree)
    assert found == jsonpatch.apply_patch(tree, patch)
    assert found["m"] == after["m"]
    assert found["l"][: len(after["l"])] == after["l"]
    assert tree == {"m": {}, "l": [{"a": 1}, {"b": 2}]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/metadata/missing"},
        {"op": "add", "path": "/missing/name", "value": "x"},
        {"op": "add", "path": "/metadata/generateName/x", "value": "x"},
        {"op": "remove", "path": "/spec/containers/7"},
        {"op": "add", "path": "/spec/containers/x/name", "value": "x"},
    ],
)
def test_a_patch_that_does_not_apply_is_told_with_the_operation(operation: JSON) -> None:
    with pytest.raises(PatchError, match=operation["path"]):
        apply([operation], pod())
