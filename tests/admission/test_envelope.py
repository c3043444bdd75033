"""What is kept of a review: all that may decide, and nothing of what tells one replica from the next."""

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given

from extender.admission.envelope import BadReview, read_json, read_request
from tests.build import JSON, changed, container, pod, review
from tests.draw import mangled, pods

PASSED_OVER = b'"passed over"'


def kept(tree: JSON, **fields: Any) -> Any:
    """What is kept of a pod in a review."""
    return orjson.loads(read_request(review(tree, **fields)).pod)


def with_volumes(tree: JSON, note: Any) -> JSON:
    """The pod with something in every place that replicas differ in."""
    made = copy.deepcopy(tree)
    made["metadata"]["managedFields"] = note
    made["spec"]["volumes"] = note
    for each in (*made["spec"]["containers"], *made["spec"].get("initContainers", ())):
        each["volumeMounts"] = note
    return made


@given(pods())
def test_metadata_and_spec_are_kept_but_for_fields_managers_volumes_and_mounts(tree: JSON) -> None:
    found = kept(with_volumes(tree, [{"name": "token-x7k2p"}]))
    assert found == {"metadata": tree["metadata"], "spec": tree["spec"]}


@given(pods())
def test_replicas_are_the_same_bytes(tree: JSON) -> None:
    first, second = (review(with_volumes(tree, [{"name": note}])) for note in ("a", "b"))
    assert read_request(first).pod == read_request(second).pod


@given(mangled(pods()))
def test_of_a_pod_of_any_other_shape_nothing_is_lost_that_could_decide(tree: JSON) -> None:
    found = kept(tree)
    for member in ("metadata", "spec"):
        assert found.get(member) == tree.get(member)


def test_an_update_is_kept_as_it_came_with_the_pod_before() -> None:
    old = changed(pod(), "metadata", "labels", "migfit.io/rewritten", to="true")
    new = with_volumes(old, [{"name": "token"}])
    request = read_request(review(new, operation="UPDATE", oldObject=old))
    assert orjson.loads(request.pod)["spec"] == new["spec"]
    assert request.before == old


@pytest.mark.parametrize("strange", [None, 7, [None], "x", [{"name": "asr"}, 1]])
def test_containers_of_no_known_shape_are_kept_as_they_are(strange: Any) -> None:
    assert kept(changed(pod(), "spec", "containers", to=strange))["spec"]["containers"] == strange


def test_what_nobody_looks_at_may_be_no_text_at_all() -> None:
    body = review(with_volumes(pod(), "passed over")).replace(PASSED_OVER, b'"\xff"')
    assert orjson.loads(read_request(body).pod)["spec"] == pod()["spec"]


def test_what_is_looked_at_may_not() -> None:
    body = review(changed(pod(), "spec", "containers", 0, "passed over", to=1))
    request = read_request(body.replace(PASSED_OVER, b'"\xff"'))
    with pytest.raises(BadReview, match="not JSON"):
        read_json(request.pod)


def test_the_request_of_a_kind_that_is_no_object_is_refused() -> None:
    body = orjson.dumps({**orjson.loads(review(pod())), "request": []})
    with pytest.raises(BadReview, match=r"not an AdmissionReview: .* `\$.request`"):
        read_request(body)


def test_who_asks_for_what_is_told() -> None:
    user = {"username": "system:serviceaccount:kube-system:replicaset-controller"}
    request = read_request(review(pod(container()), uid="u1", userInfo=user, dryRun=True))
    assert request[:4] == ("u1", "speech", user["username"], True)
