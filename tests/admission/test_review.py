import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonpatch
import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from extender.admission import replicas
from extender.admission import review as module
from extender.admission.envelope import BadReview
from extender.admission.review import Reviewed, Reviewer
from extender.cluster.state import State
from extender.core.decision import Decision
from extender.core.policy import Inject, Mode, Policy, WhenFull
from extender.core.reason import Action, Reason
from tests.build import (
    GPU,
    JSON,
    UID,
    Clock,
    annotated,
    bound,
    changed,
    container,
    decided,
    mig,
    node,
    pod,
    request,
    review,
    state,
    without,
)
from tests.draw import anything, clusters, crowds, mangled, pods, policies

MIDDLE = mig("2g.20gb")


class Served:
    """A reviewer on a state, and what it made of its reviews."""

    def __init__(self, cluster: State | None = None) -> None:
        self.state = cluster or state()
        self.clock = Clock()
        self.reserved: list[Decision] = []
        self.reviewer = Reviewer(
            snapshot=self.state.snapshot,
            policy=lambda: self.state.policy,
            reserve=self._reserve,
            clock=self.clock,
        )

    def _reserve(self, decision: Decision) -> None:
        self.reserved.append(decision)
        self.state.reserve(decision)

    def review(self, tree: JSON, **fields: Any) -> Reviewed:
        return self.reviewer.review(review(tree, **fields))

    def answer(self, tree: JSON, **fields: Any) -> JSON:
        """The response inside the AdmissionReview that is sent back."""
        return response(self.review(tree, **fields))


def response(reviewed: Reviewed) -> JSON:
    found: JSON = orjson.loads(reviewed.answer)
    assert (found["kind"], found["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
    inner: JSON = found["response"]
    return inner


def operations(answer: JSON) -> list[JSON]:
    found: list[JSON] = orjson.loads(base64.b64decode(answer["patch"]))
    return found


def stored(answer: JSON, tree: JSON) -> JSON:
    """The pod as the API server makes it of the answer."""
    if "patch" not in answer:
        return tree
    patched: JSON = jsonpatch.apply_patch(tree, operations(answer))
    return patched


# --- the answer ------------------------------------------------------------------------------------


def test_a_pod_that_fits_is_allowed_with_a_patch_a_warning_and_an_audit_annotation() -> None:
    answer = Served().answer(pod())
    assert (answer["uid"], answer["allowed"], answer["patchType"]) == (UID, True, "JSONPatch")
    after = stored(answer, pod())
    assert after["spec"]["containers"][0]["resources"]["limits"][MIDDLE] == "1"
    assert (
        after["metadata"]["annotations"]["migfit.io/decision"]
        == (answer["auditAnnotations"]["decision"])
    )
    (line,) = answer["warnings"]
    assert line.startswith("migfit: Fits: need 10987Mi fits mig-2g.20gb, 19968Mi usable; ")
    assert "status" not in answer


def test_a_pod_that_is_left_is_allowed_and_told_on_the_pod_only() -> None:
    tree = pod(footprint="60G")
    answer = Served().answer(tree)
    assert answer["allowed"]
    assert "warnings" not in answer
    added = [operation["path"] for operation in operations(answer)]
    assert added == ["/metadata/annotations/migfit.io~1decision"]


@pytest.mark.parametrize(
    "tree", [pod(container(gpu=None)), pod({"name": "a", "resources": {"limits": {MIDDLE: "1"}}})]
)
def test_no_change_is_no_patch_at_all(tree: JSON) -> None:
    answer = Served().answer(tree)
    assert answer["allowed"]
    assert "patch" not in answer
    assert "patchType" not in answer


def test_an_author_is_warned_of_a_slip() -> None:
    (line,) = Served().answer(annotated(pod(), gpu_memory="9.6"))["warnings"]
    assert line == (
        "migfit: BadAnnotation, left as is: migfit.io/gpu-memory: "
        "'9.6' counts bytes: write 9.6G (or 9.6Gi)"
    )


def test_only_quota_denies_and_in_its_own_words() -> None:
    quota = {
        "metadata": {"name": "gpus", "namespace": "speech"},
        "spec": {"hard": {f"requests.{GPU}": "1"}},
    }
    served = Served(state(quotas=[quota]))
    assert served.answer(pod())["allowed"]
    answer = served.answer(pod(), uid="uid-2")
    assert answer["allowed"] is False
    assert (answer["status"]["code"], answer["status"]["reason"]) == (403, "Forbidden")
    assert answer["status"]["message"].startswith("exceeded quota: gpus, requested: requests.")
    assert "patch" not in answer
    assert served.review(pod(), uid="uid-3").decision.reason is Reason.QUOTA


def test_the_audit_line_tells_the_request_and_the_age_of_what_was_known() -> None:
    served = Served()
    served.state._clock.now_s += 2.5  # type: ignore[attr-defined]
    audit = served.review(pod(), dryRun=True).audit()
    assert (audit["id"], audit["dryRun"], audit["snapshotAge"]) == (UID, True, 2.5)
    assert audit["user"] == "system:serviceaccount:kube-system:replicaset-controller"
    assert (audit["namespace"], audit["pod"]) == ("speech", "asr-5d4f8c7b9d-")
    assert audit["workload"] == {"kind": "Deployment", "name": "asr"}


def test_the_namespace_is_that_of_the_request() -> None:
    tree = changed(pod(), "metadata", "namespace", to="elsewhere")
    assert Served().review(tree).decision.namespace == "speech"


# --- reservations ----------------------------------------------------------------------------------


def test_what_will_be_stored_is_reserved() -> None:
    served = Served()
    assert served.reserved == []
    decision = served.review(pod()).decision
    assert served.reserved == [decision]
    assert (decision.id, decision.claims) == (UID, {MIDDLE: 1})


def test_a_dry_run_answers_the_same_and_reserves_nothing() -> None:
    served = Served()
    dry = served.answer(pod(), dryRun=True)
    assert served.reserved == []
    assert served.answer(pod()) == dry


def test_a_pod_that_comes_again_unchanged_is_not_reserved_for_twice() -> None:
    held = [bound(f"h{n}", "gpu-a", {MIDDLE: 1}) for n in range(3)]
    policy = Policy(when_full=(WhenFull.WHOLE_NOW, WhenFull.WAIT))
    served = Served(state(pods=held, policy=policy))
    after = stored(served.answer(pod()), pod())
    again = served.answer(after, uid="uid-2")  # another webhook changed something
    assert "patch" not in again
    assert [decision.id for decision in served.reserved] == [UID]
    assert served.review(pod(), uid="uid-3").decision.reason is Reason.NO_FREE_SLICE
    assert served.review(pod(), uid="uid-4").decision.reason is Reason.WAITS


def test_slices_are_promised_only_once() -> None:
    served = Served(state(policy=Policy(when_full=())))
    reasons = [served.review(pod(), uid=str(n)).decision.reason for n in range(5)]
    assert reasons == [*[Reason.FITS] * 3, *[Reason.NO_FREE_SLICE] * 2]


# --- injection -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alive", "scheduler"), [(True, "migfit"), (False, "default-scheduler")])
def test_a_scheduler_is_injected_only_while_it_is_alive(alive: bool, scheduler: str) -> None:
    policy = Policy(inject=Inject(scheduler_name="migfit"))
    served = Served(state(policy=policy))
    snapshot = served.state.snapshot
    served.reviewer = replace(
        served.reviewer, snapshot=lambda: replace(snapshot(), scheduler_alive=alive)
    )
    assert stored(served.answer(pod()), pod())["spec"]["schedulerName"] == scheduler


def test_used_nodes_are_preferred_where_the_configuration_says_so() -> None:
    used = [bound("other", "gpu-b", {MIDDLE: 1})]
    nodes = (node(), node("gpu-b"))
    quiet = Served(state(*nodes, pods=used)).answer(pod())
    assert "affinity" not in stored(quiet, pod())["spec"]
    policy = Policy(inject=Inject(prefer_used_nodes=True))
    answer = Served(state(*nodes, pods=used, policy=policy)).answer(pod())
    affinity = stored(answer, pod())["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["preference"]["matchFields"][0]["values"] == ["gpu-b"]


# --- whatever comes --------------------------------------------------------------------------------


@given(mangled(pods()), clusters(), crowds(), policies())
def test_whatever_is_wrong_with_a_pod_it_is_let_through(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    served = Served(state(*nodes, pods=crowd, policy=policy))
    reviewed = served.review(tree)
    answer = response(reviewed)
    assert answer["allowed"] is True
    assert reviewed.decision.reason is not Reason.INTERNAL_ERROR
    assert orjson.loads(answer["auditAnnotations"]["decision"])["reason"] == (
        reviewed.decision.reason
    )
    json.dumps(reviewed.audit())
    stored(answer, tree)


TOLERANT = Policy(
    inject=Inject(
        scheduler_name="migfit",
        tolerations=({"operator": "Exists"},),
        node_selector=(("pool", "mig"),),
        prefer_used_nodes=True,
    ),
    filter=False,
)
"""Whatever we may add to a pod is added."""


@given(mangled(st.sampled_from([pod(), pod(affinity={}), pod(nodeSelector={"pool": "mig"})])))
def test_a_patch_applies_to_whatever_pod_it_was_made_for(tree: JSON) -> None:
    served = Served(state(node(labels={"pool": "mig"}), policy=TOLERANT))
    reviewed = served.review(tree)
    assert reviewed.decision.reason is not Reason.INTERNAL_ERROR
    stored(response(reviewed), tree)


def reviewed_or_refused(body: bytes) -> Reviewed | str:
    """What was made of a body, or why nothing was."""
    try:
        return Served().reviewer.review(body)
    except BadReview as refused:
        return str(refused)


@given(anything)
def test_any_json_in_the_object_field_is_allowed_or_no_review(junk: Any) -> None:
    found = reviewed_or_refused(review({}, object=junk))
    if isinstance(found, Reviewed):
        assert response(found)["allowed"] is True
        assert found.decision.reason is Reason.NO_GPU_REQUEST
    else:
        assert not isinstance(junk, dict)
        assert found == "request carries no object"


@given(mangled(st.just(request(pod()))))
def test_whatever_is_wrong_with_the_envelope_is_told_in_one_line(tree: JSON) -> None:
    found = reviewed_or_refused(orjson.dumps(tree))
    if isinstance(found, Reviewed):
        answer = response(found)
        assert answer["uid"] == tree["request"]["uid"]
        assert answer["allowed"] is True
        assert found.decision.reason is not Reason.INTERNAL_ERROR
    else:
        assert found
        assert "\n" not in found


@given(st.binary(max_size=50) | st.text(max_size=50).map(str.encode))
def test_bytes_that_are_no_review_are_refused(body: bytes) -> None:
    with pytest.raises(BadReview):
        Served().reviewer.review(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 10_000 + b"]" * 10_000, "not an AdmissionReview"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "not JSON"),
        (b'{"a":[' + b"{}," * 400_000 + b"0]}", "more than 700000 values"),
        (b"[]", "not an AdmissionReview"),
        (b"{}", "not an AdmissionReview"),
        (orjson.dumps({**request(pod()), "kind": "Pod"}), "not an AdmissionReview"),
        (
            orjson.dumps({**request(pod()), "apiVersion": "admission.k8s.io/v1beta1"}),
            "only AdmissionReview of admission.k8s.io/v1",
        ),
        (orjson.dumps({**request(pod()), "request": None}), "no request"),
        (review(pod(), uid=""), "no uid"),
        (review(pod(), uid=7), "no uid"),
        (review(pod(), operation="DELETE"), "neither CREATE nor UPDATE"),
        (review(pod(), operation=None), "neither CREATE nor UPDATE"),
        (review(pod(), operation="UPDATE"), "oldObject is no pod with migfit.io/rewritten"),
        (review(pod(), operation="UPDATE", oldObject=pod()), "oldObject is no pod with"),
        (review(pod(), subResource="ephemeralcontainers"), "only Pods"),
        (review(pod(), kind={"group": "apps", "version": "v1", "kind": "Deployment"}), "only Pods"),
        (review(pod(), kind={"group": "metrics.k8s.io", "kind": "Pod"}), "only Pods"),
        (review(pod(), kind=None), "only Pods"),
        (review(pod(), object=None), "no object"),
    ],
)
def test_an_envelope_we_cannot_answer_is_refused_with_why(body: bytes, why: str) -> None:
    with pytest.raises(BadReview, match=why):
        Served().reviewer.review(body)


def test_a_pod_may_nest_deeper_than_any_api_object_does() -> None:
    tree = changed(pod(), "spec", "extra", to=None)
    body = review(tree).replace(b'"extra":null', b'"extra":' + b"[" * 900 + b"]" * 900)
    assert response(Served().reviewer.review(body))["allowed"] is True


def test_the_largest_pod_that_the_api_server_takes_is_taken_with_what_it_was_before() -> None:
    env = [{"name": f"V{n}", "value": "x"} for n in range(100_000)]  # 3 MiB
    tree = changed(pod(container(env=env)), "metadata", "labels", "migfit.io/rewritten", to="true")
    body = review(tree, operation="UPDATE", oldObject=tree)
    assert 2 * 2.8 < len(body) / (1 << 20) < 8
    assert response(Served().reviewer.review(body))["allowed"] is True


def test_quantities_of_any_size_are_taken() -> None:
    huge = "9" * 300
    body = review(pod(container(gpu="HUGE"))).replace(b'"HUGE"', huge.encode())
    assert response(Served().reviewer.review(body))["allowed"] is True


# --- when we fail ----------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A decision that raises, and what is logged of it."""

    def fail(*_args: object, **_kwargs: object) -> Decision:
        raise RuntimeError("secret of the pod")

    monkeypatch.setattr(module, "decide", fail)
    with structlog.testing.capture_logs() as logs:
        yield logs


def test_when_the_decision_fails_the_pod_is_let_through_as_it_came(failing: list[Any]) -> None:
    served = Served(state(policy=Policy(revision="c0ffee")))
    reviewed = served.review(pod())
    answer = response(reviewed)
    assert answer["allowed"] is True
    assert "patch" not in answer
    assert (reviewed.decision.action, reviewed.decision.reason) == (
        Action.LEFT,
        Reason.INTERNAL_ERROR,
    )
    told = orjson.loads(answer["auditAnnotations"]["decision"])
    assert (told["id"], told["reason"]) == (UID, "InternalError")
    assert reviewed.audit()["configRevision"] == "c0ffee"
    assert reviewed.decision.claims == {}


def test_a_failure_is_logged_with_the_request_and_told_without_its_text(failing: list[Any]) -> None:
    reviewed = Served().review(pod())
    (entry,) = failing
    assert (entry["id"], entry["namespace"], entry["log_level"]) == (UID, "speech", "error")
    assert entry["exc_info"]
    assert "RuntimeError" in reviewed.decision.message
    assert "secret" not in reviewed.decision.message


def test_a_patch_that_would_not_apply_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [{"op": "remove", "path": "/spec/nowhere"}]
    monkeypatch.setattr(replicas, "patch_for", lambda *_args, **_kwargs: wrong)
    with structlog.testing.capture_logs() as logs:
        reviewed = Served().review(pod())
    assert reviewed.decision.reason is Reason.INTERNAL_ERROR
    assert "patch" not in response(reviewed)
    assert len(logs) == 1


# --- one function for all --------------------------------------------------------------------------


@given(pods(), clusters(), crowds(), policies())
def test_the_webhook_decides_what_the_decision_function_decides(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    reviewed = Served(state(*nodes, pods=crowd, policy=policy)).review(tree)
    assert reviewed.decision == decided(tree, *nodes, pods=crowd, policy=policy)


@given(pods(), clusters(), crowds(), policies(mode=Mode.ENFORCE))
def test_reviewing_the_stored_pod_again_changes_nothing(
    tree: JSON, nodes: list[JSON], crowd: list[JSON], policy: Policy
) -> None:
    served = Served(state(*nodes, pods=crowd, policy=policy))
    after = stored(served.answer(tree), tree)
    assert "patch" not in served.answer(after, uid="uid-2")


def test_limits_without_requests_come_out_valid() -> None:
    tree = without(pod(), "spec", "containers", 0, "resources", "requests")
    found = stored(Served().answer(tree), tree)["spec"]["containers"][0]["resources"]
    assert found["limits"][MIDDLE] == found["requests"][MIDDLE] == "1"
    assert GPU not in {**found["limits"], **found["requests"]}
