"""The published schema of the audit line against lines that the server really writes."""

from __future__ import annotations

import copy
import json
import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from docs._reference import ACTIONS
from extender.admission.review import Reviewer
from extender.cluster.inventory import inventory
from extender.config import load
from extender.core.defaulting import defaulted
from extender.core.reason import STEP_ONE, Reason
from extender.server.audit import Audit
from tests.cli.random_pods import CONFIG, JSON, cluster, pods

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs/reference/audit.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

Change = "Callable[[Any], object]"


def written(every: list[JSON], path: Path, config: str = CONFIG) -> list[JSON]:
    """The audit lines of reviews of these pods, as they stand in the file they were written to."""
    policy = load(config)
    state = inventory(cluster(), policy, lambda: 0.0)
    ticks = count()
    reviewer = Reviewer(
        snapshot=state.snapshot,
        policy=lambda: policy,
        reserve=state.reserve,
        clock=lambda: next(ticks) / 1000,
    )
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    audit = Audit(fd, dropped=lambda: pytest.fail("a line was dropped"))
    for number, pod in enumerate(every):
        audit.line(reviewer.review(review(defaulted(pod), number)).audit())
    audit.close()
    os.close(fd)
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def review(pod: JSON, number: int) -> bytes:
    request = {
        "uid": f"uid-{number}",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "dryRun": number % 7 == 0,
        "namespace": pod.get("metadata", {}).get("namespace", "default"),
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
    }
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    ).encode()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_audit_lines_of_a_thousand_random_pods_are_valid(tmp_path: Path) -> None:
    lines = written(pods(1000), tmp_path / "audit")

    assert len(lines) == 1000
    for line in lines:
        VALIDATOR.validate(line)
    seen = {(line["action"], Reason(line["reason"])) for line in lines}
    assert all(action in ACTIONS[reason] for action, reason in seen)
    assert {action for action, _ in seen} == {"rewritten", "left", "denied"}
    assert any(line["wouldBe"] for line in lines)


def test_lines_cut_for_their_length_are_valid_too(tmp_path: Path) -> None:
    [pod] = pods(1)
    pod["spec"]["containers"] = [
        {"name": "long" * 9000, "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    ]

    [line] = written([pod], tmp_path / "audit")

    assert line["containers"][0]["name"].endswith("…")
    VALIDATOR.validate(line)


FITS = {
    "metadata": {"annotations": {"migfit.io/gpu-memory": "9.6G"}},
    "spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.update(extra=1),
        lambda line: line.pop("time"),
        lambda line: line["containers"][0].update(env="SECRET"),
        lambda line: line["candidates"][0].update(verdict="good"),
        lambda line: line.update(reason="Because"),
        lambda line: line.update(reason="TooLarge"),
        lambda line: line.update(action="left"),
        lambda line: line.update(wouldBe="rewritten"),
        lambda line: line.update(need=10987),
        lambda line: line.update(durationMs=-1),
        lambda line: line.update(event="pod"),
    ],
)
def test_the_schema_turns_down_anything_else(
    tmp_path: Path, spoil: Callable[[Any], object]
) -> None:
    [line] = written([FITS], tmp_path / "audit")
    VALIDATOR.validate(line)
    assert line["reason"] == "Fits"

    spoilt = copy.deepcopy(line)
    spoil(spoilt)

    assert not VALIDATOR.is_valid(spoilt)


def test_the_documented_order_of_the_first_step_is_the_order_of_its_checks(tmp_path: Path) -> None:
    """A pod with every reason to be left loses them one by one, from the front."""
    gpu = {"nvidia.com/gpu": "1"}
    slice_ = {"nvidia.com/mig-1g.10gb": "1"}
    pod: JSON = {
        "metadata": {
            "namespace": "kube-system",
            "annotations": {"kubernetes.io/config.mirror": "x"},
            "labels": {"migfit.io/mode": "ignore", "team": "off"},
            "ownerReferences": [{"kind": "DaemonSet", "name": "d", "controller": True}],
        },
        "spec": {
            "nodeName": "a100-0",
            "resourceClaims": [{"name": "gpu"}],
            "schedulerName": "other",
            "schedulingGates": [{"name": "later"}],
            "containers": [{"name": "main", "resources": {}}],
        },
    }
    metadata, spec = pod["metadata"], pod["spec"]
    steps: list[tuple[Reason, Callable[[], object]]] = [
        (Reason.NO_GPU_REQUEST, lambda: spec["containers"][0].update(resources={"limits": slice_})),
        (Reason.ALREADY_MIG, lambda: spec["containers"][0].update(resources={"limits": gpu})),
        (Reason.MIRROR_POD, metadata["annotations"].clear),
        (Reason.NODE_NAME_SET, lambda: spec.pop("nodeName")),
        (Reason.RESOURCE_CLAIMS, lambda: spec.pop("resourceClaims")),
        (Reason.DAEMON_SET, metadata["ownerReferences"].clear),
        (Reason.NAMESPACE_EXCLUDED, lambda: metadata.update(namespace="default")),
        (Reason.IGNORED, lambda: metadata["labels"].pop("migfit.io/mode")),
        (Reason.DISABLED, metadata["labels"].clear),
        (Reason.OTHER_SCHEDULER, lambda: spec.pop("schedulerName")),
        (Reason.QUEUED, lambda: spec.pop("schedulingGates")),
    ]

    found = []
    for reason, mend in steps:
        [line] = written([pod], tmp_path / reason)
        found.append(line["reason"])
        mend()

    # BackedOff and StaleState are of the cluster, not of the pod.
    assert tuple(found) == STEP_ONE[:-2]
    assert STEP_ONE[-2:] == (Reason.BACKED_OFF, Reason.STALE_STATE)
