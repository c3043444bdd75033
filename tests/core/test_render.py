import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.decision import Candidate, Change, Decision, Verdict
from extender.core.pod import Workload
from extender.core.policy import Mode
from extender.core.reason import Action, Reason
from extender.core.render import (
    WARNED,
    WARNING_CHARACTERS,
    annotation,
    audit_annotations,
    audit_fields,
    decision_id,
    differs,
    metric_labels,
    rewritten_containers,
    warning,
)
from tests.build import GPU, JSON, annotated, changed, container, decided, mig, pod
from tests.draw import anything

MIDDLE = mig("2g.20gb")
REWRITTEN = Decision(
    action=Action.REWRITTEN,
    reason=Reason.FITS,
    message="need 10987Mi fits mig-2g.20gb, 19968Mi usable",
    id="uid-1",
    namespace="speech",
    pod="asr-",
    workload=Workload("Deployment", "asr"),
    changes=(Change("asr", "/spec/containers/0", GPU, MIDDLE, 9_600_000_000, "annotation", 10987),),
    need_mib=10987,
    usable_mib=19968,
    profile="2g.20gb",
    candidates=(
        Candidate(mig("1g.10gb"), 9728, 2, Verdict.TOO_SMALL),
        Candidate(mig("3g.40gb"), None, 0, Verdict.MEMORY_UNKNOWN),
    ),
    config_revision="c0ffee",
)
LEFT = Decision(
    action=Action.LEFT,
    reason=Reason.NO_FOOTPRINT,
    message="nothing says how much memory container asr needs",
    id="uid-1",
    changes=(Change("asr", "/spec/containers/0", GPU),),
)


def audit(decision: Decision, **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"dry_run": False, "user": "u", "age_s": 0.0, "duration_s": 0.0}
    return audit_fields(decision, **{**known, **fields})


texts = st.text(max_size=300)
decisions = st.builds(
    Decision,
    action=st.sampled_from(Action),
    reason=st.sampled_from(Reason),
    message=texts,
    id=texts,
    namespace=texts,
    pod=texts,
    mode=st.sampled_from(Mode),
    would_be=st.none() | st.sampled_from(Action),
    changes=st.lists(
        st.builds(
            Change,
            name=texts,
            pointer=texts,
            resource=texts,
            to=st.none() | texts,
            footprint_bytes=st.none() | st.integers(1, 2**40),
            footprint_source=st.none() | texts,
        ),
        max_size=2,
    ).map(tuple),
    need_mib=st.none() | st.integers(1, 2**20),
    profile=st.none() | st.just("2g.20gb"),
)


# --- one reason ------------------------------------------------------------------------------------


@given(decisions)
def test_all_renderings_of_a_decision_tell_the_same_reason(decision: Decision) -> None:
    told = {
        json.loads(annotation(decision))["reason"],
        json.loads(audit_annotations(annotation(decision))["decision"])["reason"],
        audit(decision)["reason"],
        metric_labels(decision)["reason"],
    }
    assert told == {decision.reason.value}
    line = warning(decision)
    assert line is None or line.startswith(f"migfit: {decision.reason}")


@given(decisions)
def test_all_renderings_of_a_decision_tell_the_same_action(decision: Decision) -> None:
    told = {
        json.loads(annotation(decision))["action"],
        audit(decision)["action"],
        metric_labels(decision)["action"],
    }
    assert told == {decision.action.value}


# --- the warning -----------------------------------------------------------------------------------


@given(decisions)
def test_a_warning_is_one_short_line_without_control_characters(decision: Decision) -> None:
    line = warning(decision)
    if line is not None:
        assert len(line) <= WARNING_CHARACTERS
        assert line.isprintable()


def test_a_rewritten_pod_is_told_how_to_keep_a_whole_gpu() -> None:
    assert warning(REWRITTEN) == (
        "migfit: Fits: need 10987Mi fits mig-2g.20gb, 19968Mi usable; "
        "to keep a whole GPU: label migfit.io/mode=ignore"
    )


def test_a_long_warning_keeps_its_beginning_and_the_way_out() -> None:
    line = warning(replace(REWRITTEN, message="need " + "x" * 200))
    assert line is not None
    assert line.startswith("migfit: Fits: need xxx")
    assert "…" in line
    assert line.endswith("; to keep a whole GPU: label migfit.io/mode=ignore")
    assert len(line) == WARNING_CHARACTERS


@pytest.mark.parametrize("name", ["asr", "a" * 63])
def test_a_bad_annotation_is_told_with_its_key_and_a_good_value(name: str) -> None:
    tree = changed(
        pod(container(name)), "metadata", "annotations", f"gpu-memory.migfit.io/{name}", to="9.6"
    )
    line = warning(decided(tree))
    assert line is not None
    assert "BadAnnotation" in line
    assert "gpu-memory.migfit.io/a" in line
    assert line.endswith("write 9.6G (or 9.6Gi)")
    assert len(line) <= WARNING_CHARACTERS


def test_control_characters_become_blanks() -> None:
    line = warning(replace(LEFT, reason=Reason.BAD_ANNOTATION, message="a\nb\x1b[31mc\u2028d"))
    assert line == "migfit: BadAnnotation, left as is: a b [31mc d"


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.DRY_RUN}))
def test_of_pods_that_are_left_only_their_authors_mistakes_are_told(reason: Reason) -> None:
    assert (warning(replace(LEFT, reason=reason)) is not None) is (reason in WARNED)


def test_a_dry_run_tells_what_the_pod_was_spared() -> None:
    spared = replace(
        LEFT,
        reason=Reason.DRY_RUN,
        would_be=Action.REWRITTEN,
        message="would be rewritten: need 10987Mi fits mig-2g.20gb",
    )
    assert warning(spared) == "migfit: DryRun: would be rewritten: need 10987Mi fits mig-2g.20gb"


def test_a_denial_is_not_told_as_if_the_pod_were_left() -> None:
    denied = replace(LEFT, action=Action.DENIED, reason=Reason.QUOTA, message="exceeded quota: g")
    assert warning(denied) == "migfit: Quota: exceeded quota: g"


# --- the annotation --------------------------------------------------------------------------------


def test_the_annotation_is_compact_json_of_what_was_decided() -> None:
    assert annotation(REWRITTEN) == (
        '{"id":"uid-1","action":"rewritten","reason":"Fits","need":"10987Mi",'
        '"containers":[{"name":"asr","from":"nvidia.com/gpu","to":"nvidia.com/mig-2g.20gb",'
        '"footprint":"9600000000","footprintSource":"annotation"}],"configRevision":"c0ffee"}'
    )


def test_the_annotation_of_a_pod_that_is_left_says_no_more_than_is_known() -> None:
    assert json.loads(annotation(LEFT)) == {
        "id": "uid-1",
        "action": "left",
        "reason": "NoFootprint",
        "containers": [{"name": "asr", "from": GPU}],
        "configRevision": "",
    }


def test_the_annotation_of_a_dry_run_says_what_it_would_be() -> None:
    spared = replace(
        REWRITTEN, action=Action.LEFT, reason=Reason.DRY_RUN, would_be=Action.REWRITTEN
    )
    assert json.loads(annotation(spared))["wouldBe"] == "rewritten"


def test_only_the_id_may_differ_between_equal_annotations() -> None:
    assert not differs(REWRITTEN, annotation(REWRITTEN))
    assert not differs(REWRITTEN, annotation(replace(REWRITTEN, id="uid-2")))
    assert differs(REWRITTEN, annotation(replace(REWRITTEN, need_mib=10988)))
    assert differs(REWRITTEN, annotation(replace(REWRITTEN, config_revision="decaf")))
    assert differs(REWRITTEN, None)


@pytest.mark.parametrize("existing", ["", "{}", "[]", "null", "{", "1" * 5000, "[" * 100_000])
def test_an_annotation_that_is_none_of_ours_differs_and_claims_nothing(existing: str) -> None:
    assert differs(LEFT, existing)
    assert decision_id(existing) == ""
    assert rewritten_containers(existing) == {}


@given(anything)
def test_any_json_in_the_annotation_claims_at_most_text(junk: Any) -> None:
    for each in (
        junk,
        {"id": junk, "action": "rewritten", "containers": junk},
        {"containers": [junk]},
    ):
        found = json.dumps(each)
        assert isinstance(decision_id(found), str)
        assert all(
            isinstance(word, str) for pair in rewritten_containers(found).items() for word in pair
        )
        assert differs(REWRITTEN, found)


def test_rewritten_containers_are_those_the_annotation_gives_a_slice() -> None:
    assert decision_id(annotation(REWRITTEN)) == "uid-1"
    assert rewritten_containers(annotation(REWRITTEN)) == {"asr": MIDDLE}
    assert rewritten_containers(annotation(LEFT)) == {}


@pytest.mark.parametrize(
    "claimed",
    [
        {"action": "left", "containers": [{"name": "asr", "to": MIDDLE}]},
        {"action": "rewritten", "containers": [{"name": "asr", "to": GPU}]},
        {"action": "rewritten", "containers": [{"name": "asr", "to": "cpu"}]},
        {"action": "rewritten", "containers": [{"name": "asr", "to": None}]},
        {"containers": [{"name": "asr", "to": MIDDLE}]},
    ],
)
def test_a_claim_that_no_decision_of_ours_makes_is_not_believed(claimed: JSON) -> None:
    assert rewritten_containers(json.dumps(claimed)) == {}


# --- the audit line --------------------------------------------------------------------------------


def test_the_audit_line_has_every_documented_field_and_no_other() -> None:
    assert audit(REWRITTEN, dry_run=True, user="jane", age_s=1.23456, duration_s=0.0012345) == {
        "event": "admission",
        "id": "uid-1",
        "dryRun": True,
        "namespace": "speech",
        "pod": "asr-",
        "workload": {"kind": "Deployment", "name": "asr"},
        "user": "jane",
        "action": "rewritten",
        "reason": "Fits",
        "wouldBe": None,
        "message": "need 10987Mi fits mig-2g.20gb, 19968Mi usable",
        "mode": "Enforce",
        "containers": [
            {
                "name": "asr",
                "from": GPU,
                "to": MIDDLE,
                "footprint": "9600000000",
                "footprintSource": "annotation",
            }
        ],
        "need": "10987Mi",
        "usable": "19968Mi",
        "profile": "2g.20gb",
        "candidates": [
            {"resource": mig("1g.10gb"), "usable": "9728Mi", "free": 2, "verdict": "too-small"},
            {"resource": mig("3g.40gb"), "usable": None, "free": 0, "verdict": "memory-unknown"},
        ],
        "configRevision": "c0ffee",
        "snapshotAge": 1.235,
        "durationMs": 1.234,
    }


@given(decisions)
def test_an_audit_line_is_one_line_whatever_names_contain(decision: Decision) -> None:
    line = json.dumps(audit(decision))
    assert "\n" not in line
    assert json.loads(line)["pod"] == decision.pod


def test_nothing_of_commands_or_environment_is_told() -> None:
    secret = "hunter2"
    env = [{"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "video"}, {"name": "T", "value": secret}]
    tree = pod(container(env=env, args=["--token", secret], image=f"x/{secret}"))
    for each in (tree, annotated(tree, headroom="much")):
        decision = decided(each)
        assert secret not in repr((annotation(decision), audit(decision), warning(decision)))


def test_metric_labels_take_no_values_that_users_choose() -> None:
    assert metric_labels(REWRITTEN) == {
        "action": "rewritten",
        "reason": "Fits",
        "profile": "2g.20gb",
    }
    assert metric_labels(LEFT) == {"action": "left", "reason": "NoFootprint", "profile": ""}
