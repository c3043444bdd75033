"""Pods as found in the wild get the decision their file expects, and nothing else happens to them."""

from __future__ import annotations

import base64
import copy
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import jsonpatch
import orjson
import pytest

from extender.admission.review import Reviewer
from extender.config.load import load
from tests.build import JSON, Clock, review, state
from tests.wild.gallery import CONFIGURATION, Expectation, WildPod, nodes, sent, wild_pods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from extender.admission.review import Reviewed

POLICY = load(CONFIGURATION)
UNMARKED = {"NoGpuRequest", "AlreadyMig", "MirrorPod", "Disabled"}

every_pod = pytest.mark.parametrize("wild", wild_pods(), ids=lambda wild: wild.name)


@cache
def reviewer() -> Reviewer:
    """The production reviewer before the cluster; nothing it decides is remembered."""
    cluster = state(*nodes(), policy=POLICY)
    return Reviewer(
        snapshot=cluster.snapshot,
        policy=lambda: POLICY,
        reserve=lambda _decision: None,
        clock=Clock(),
    )


def reviewed(wild: WildPod) -> tuple[JSON, Reviewed, JSON]:
    """The pod as sent, what the reviewer made of it, and its response."""
    pod = sent(wild.pod)
    answered = reviewer().review(review(pod, namespace=wild.namespace))
    return pod, answered, orjson.loads(answered.answer)["response"]


def announced(pod: JSON, audit: Mapping[str, Any], decision: str | None) -> JSON:
    """The pod with what the audit line says done to a copy of it by hand, and our marks."""
    pod = copy.deepcopy(pod)
    metadata, spec = pod["metadata"], pod["spec"]
    marks = {} if decision is None else {"migfit.io/decision": decision}
    if audit["action"] == "rewritten":
        every = {each["name"]: each for each in spec.get("initContainers", []) + spec["containers"]}
        for change in audit["containers"]:
            for asked in every[change["name"]]["resources"].values():
                del asked[change["from"]]
                asked[change["to"]] = "1"
        metadata.setdefault("labels", {})["migfit.io/rewritten"] = "true"
        if audit["need"] is not None:
            marks["migfit.io/need"] = audit["need"]
    if marks:
        metadata.setdefault("annotations", {}).update(marks)
    return pod


@every_pod
def test_a_pod_from_the_wild_gets_the_decision_its_file_expects(wild: WildPod) -> None:
    _, answered, response = reviewed(wild)
    audit = answered.audit()
    assert response["allowed"]
    found = Expectation(audit["action"], audit["reason"], audit["profile"], audit["wouldBe"])
    assert found == wild.expect, audit["message"]


@every_pod
def test_the_patch_does_to_it_what_is_announced_and_nothing_else(wild: WildPod) -> None:
    pod, answered, response = reviewed(wild)
    patch = orjson.loads(base64.b64decode(response.get("patch", base64.b64encode(b"[]"))))
    patched = jsonpatch.apply_patch(pod, patch)
    decision = patched["metadata"].get("annotations", {}).get("migfit.io/decision")
    assert patched == announced(pod, answered.audit(), decision)
    if answered.audit()["reason"] in UNMARKED:
        assert patch == []
    else:
        told = orjson.loads(decision)
        assert told == {key: answered.audit()[key] for key in told} | {"containers": ANY}


def test_each_kind_of_container_gets_its_own_slice() -> None:
    pods = {wild.name: wild for wild in wild_pods()}
    given = {
        name: {
            change["name"]: change["to"] for change in reviewed(pods[name])[1].audit()["containers"]
        }
        for name in ("riva", "open-webui", "speech-gateway")
    }
    assert given == {
        "riva": dict.fromkeys(("riva-model-init", "riva-speech-api"), "nvidia.com/mig-2g.20gb"),
        "open-webui": {"ollama": "nvidia.com/mig-1g.10gb"},
        "speech-gateway": {"asr": "nvidia.com/mig-1g.10gb", "tts": "nvidia.com/mig-2g.20gb"},
    }


def test_the_gallery_shows_both_ways_and_many_reasons() -> None:
    expected = [wild.expect for wild in wild_pods()]
    assert len(expected) >= 25
    assert sum(each.action == "rewritten" for each in expected) >= 10
    assert len({each.reason for each in expected}) >= 12
