"""A rewritten bare pod whose manifest is applied once more, by every way kubectl has."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.migfit import GPU, Migfit, a100_labels
from tests.controlplane.objects import fake_node, gpu_pod, wait_until
from tests.deploy.manifests import BASE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SLICE = "nvidia.com/mig-2g.20gb"
LIGHT = {"migfit.io/gpu-memory": "9.6G"}
TOLERATION = {"key": "pool", "operator": "Equal", "value": "mig", "effect": "NoSchedule"}
OWN_TOLERATION = {"key": "mine", "operator": "Exists", "effect": "NoSchedule"}
OWN_TERM = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
REQUIRED = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [OWN_TERM]}}


class Manifest:
    """A manifest in a file, and what kubectl makes of it."""

    def __init__(self, plane: ControlPlane, folder: Path, pod: JSON) -> None:
        self.pod = pod
        self._plane, self._file = plane, folder / "pod.json"

    def run(self, *command: str) -> tuple[str, str]:
        """What kubectl said on stdout and on stderr; AssertionError if it failed."""
        self._file.write_text(json.dumps(self.pod))
        done = self._plane.kubectl(*command, "-f", str(self._file))
        return done.stdout.strip(), done.stderr.strip()

    def stored(self) -> JSON:
        """The pod as the API server has it."""
        meta = self.pod["metadata"]
        return self._plane.client.get("Pod", meta["name"], meta["namespace"])

    @property
    def container(self) -> JSON:
        """The first container, to change."""
        container: JSON = self.pod["spec"]["containers"][0]
        return container


@pytest.fixture
def sliced(plane: ControlPlane, migfit: Migfit) -> None:
    """The policy on our mark in force, and a node with slices known."""
    plane.kubectl("apply", "-f", str(BASE / "policy-mark.yaml"))
    labels = {**a100_labels(), "zone": "a"}
    plane.client.create(fake_node("gpu-a", allocatable={GPU: 4, SLICE: 8}, labels=labels))
    probe = gpu_pod("probe", "default", annotations=LIGHT)

    def known() -> bool:
        plane.client.create(probe, dry_run=True)
        return bool(migfit.audit("default")[-1]["candidates"])

    wait_until(known, 10, "the node is known")


@pytest.fixture
def manifest(plane: ControlPlane, namespace: str, sliced: None, tmp_path: Path) -> Manifest:
    """A light pod's manifest, not applied yet."""
    return Manifest(plane, tmp_path, gpu_pod("asr", namespace, annotations=LIGHT))


def slices(pod: JSON) -> list[JSON]:
    """Limits and requests of all containers, without cpu and memory."""
    held = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    return [
        {name: count for name, count in each["resources"][part].items() if "/" in name}
        for each in held
        for part in ("limits", "requests")
    ]


WAYS = {
    "apply": ("apply",),
    "server-side apply": ("apply", "--server-side"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_applied_twice_the_pod_keeps_its_slice_and_everything_else(
    manifest: Manifest, migfit: Migfit, namespace: str, way: tuple[str, ...]
) -> None:
    manifest.run(*way)
    first = manifest.stored()

    _, said = manifest.run(*way)

    second = manifest.stored()
    assert slices(first) == slices(second) == [{SLICE: "1"}] * 2
    assert second["spec"] == first["spec"]
    assert second["metadata"]["labels"] == first["metadata"]["labels"]
    assert second["metadata"]["annotations"] == first["metadata"]["annotations"]
    assert said == (
        "Warning: migfit: AlreadyMig: an update brought nvidia.com/gpu back; "
        "the pod keeps its slice"
    )
    created, updated = migfit.audit(namespace)
    assert (created["action"], created["reason"]) == ("rewritten", "Fits")
    assert (updated["action"], updated["reason"]) == ("left", "AlreadyMig")
    assert updated["containers"][0]["to"] == SLICE


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_new_image_label_and_annotation_in_the_same_apply_go_through(
    manifest: Manifest, way: tuple[str, ...]
) -> None:
    manifest.run(*way)
    manifest.container["image"] = "registry.invalid/model:2"
    manifest.pod["metadata"]["labels"]["release"] = "two"
    manifest.pod["metadata"]["annotations"]["note"] = "new"

    manifest.run(*way)

    after = manifest.stored()
    assert after["spec"]["containers"][0]["image"] == "registry.invalid/model:2"
    assert after["metadata"]["labels"] == {"migfit.io/rewritten": "true", "release": "two"}
    assert after["metadata"]["annotations"]["note"] == "new"
    assert "migfit.io/decision" in after["metadata"]["annotations"]
    assert slices(after) == [{SLICE: "1"}] * 2


def test_every_container_gets_its_slice_back_and_none_that_had_none(manifest: Manifest) -> None:
    gpu = {"limits": {GPU: "1"}}
    plain = {"name": "plain", "image": "registry.invalid/tools:1", "resources": {}}
    warm_up = {"name": "warm-up", "image": "registry.invalid/tools:1", "resources": gpu}
    manifest.pod["spec"]["initContainers"] = [warm_up]
    manifest.pod["spec"]["containers"].append({**plain, "resources": {"limits": {"cpu": "1"}}})
    manifest.run("apply")
    before = manifest.stored()

    manifest.run("apply")

    assert manifest.stored()["spec"] == before["spec"]
    assert slices(before) == [{SLICE: "1"}] * 4 + [{}] * 2


def test_what_else_the_rewrite_added_stays_though_the_manifest_spells_out_the_same_lists(
    manifest: Manifest, plane: ControlPlane, migfit: Migfit, namespace: str
) -> None:
    inject = {"tolerations": [TOLERATION], "nodeSelector": {"zone": "a"}, "preferUsedNodes": True}
    migfit.configure(inject=inject, scheduling={"filter": False})
    roomy = a100_labels(memory_mib={"2g.20gb": 20000})  # values that differ: the guard is needed
    labels = {**roomy, "zone": "a"}
    plane.client.create(fake_node("gpu-b", allocatable={GPU: 4, SLICE: 8}, labels=labels))
    spec = manifest.pod["spec"]
    spec["tolerations"] = [OWN_TOLERATION]
    spec["affinity"] = {"nodeAffinity": deepcopy(REQUIRED)}
    spec["schedulerName"] = "default-scheduler"

    def injected() -> bool:
        dry = plane.client.create(manifest.pod, dry_run=True).body["spec"]
        return TOLERATION in dry["tolerations"] and "Gt" in json.dumps(dry["affinity"])

    wait_until(injected, 10, "the configuration and both nodes are known")
    manifest.run("apply")
    before = manifest.stored()

    manifest.container["image"] = "registry.invalid/model:2"
    manifest.run("apply")

    before["spec"]["containers"][0]["image"] = "registry.invalid/model:2"
    assert manifest.stored()["spec"] == before["spec"]


def test_replaced_by_its_manifest_the_pod_keeps_slice_and_marks(
    manifest: Manifest, migfit: Migfit, namespace: str
) -> None:
    manifest.pod["spec"]["automountServiceAccountToken"] = False  # else never replaceable
    manifest.run("apply")
    before = manifest.stored()

    manifest.run("replace")

    after = manifest.stored()
    assert after["spec"] == before["spec"]
    for marks in ("labels", "annotations"):
        ours = {k: v for k, v in before["metadata"][marks].items() if k.startswith("migfit.io/")}
        assert ours.items() <= after["metadata"][marks].items()


def test_a_dry_run_of_the_second_apply_says_the_same_and_changes_nothing(
    manifest: Manifest, migfit: Migfit, namespace: str
) -> None:
    manifest.run("apply")
    before = manifest.stored()

    out, said = manifest.run("apply", "--dry-run=server")

    assert "server dry run" in out
    assert "the pod keeps its slice" in said
    assert manifest.stored() == before
    assert [line["dryRun"] for line in migfit.audit(namespace)] == [False, True]


def refusal(manifest: Manifest) -> str:
    """Why the API server did not take it."""
    with pytest.raises(AssertionError) as refused:
        manifest.run("apply")
    return str(refused.value)


@pytest.mark.parametrize("count", ["0", "2"])
def test_what_the_api_server_refuses_without_us_it_still_refuses(
    manifest: Manifest, count: str
) -> None:
    manifest.run("apply")

    manifest.container["resources"]["limits"][GPU] = count
    assert "pod updates may not change fields" in refusal(manifest)
    manifest.container["resources"]["limits"] = {GPU: "1", "cpu": "4"}
    told = refusal(manifest)
    assert "pod updates may not change fields" in told

    assert slices(manifest.stored()) == [{SLICE: "1"}] * 2


def test_while_nobody_answers_the_second_apply_is_refused_and_the_pod_runs_on(
    manifest: Manifest, migfit: Migfit
) -> None:
    manifest.run("apply")
    migfit.kill()

    assert "pod updates may not change fields" in refusal(manifest)
    assert slices(manifest.stored()) == [{SLICE: "1"}] * 2


def test_no_other_update_of_any_pod_comes_to_us(
    manifest: Manifest, plane: ControlPlane, migfit: Migfit, namespace: str
) -> None:
    client = plane.client
    manifest.run("apply")
    heavy = gpu_pod("whole", namespace, annotations={"migfit.io/gpu-memory": "79G"})
    forged = gpu_pod("forged", namespace, labels={"migfit.io/rewritten": "true"})
    by_name = gpu_pod("by-name", namespace, resources={SLICE: 1})
    for pod in (heavy, forged, by_name, gpu_pod("plain", namespace, resources={})):
        client.create(pod)
    reviewed = len(migfit.audit(namespace))
    assert reviewed == 3

    for name, number in itertools.product(("asr", "whole", "forged", "by-name", "plain"), "12"):
        client.patch("Pod", name, {"metadata": {"labels": {"touched": number}}}, namespace)
        change = {"status": {"message": number}}
        client.patch("Pod", name, change, namespace, subresource="status")
        again = client.get("Pod", name, namespace)
        again["spec"]["containers"][0]["image"] = f"registry.invalid/model:{number}"
        client.replace(again)

    assert len(migfit.audit(namespace)) == reviewed
    assert migfit.metric("migfit_requests_total", verb="/mutate", code="400") == 0


def test_the_refusal_of_a_foreign_update_is_no_harm(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    """An admin who drops the conditions: every update comes to us, and every one is let through."""
    plane.client.delete("MutatingWebhookConfiguration", "migfit")
    entry = migfit.update_webhook(matchConditions=[])
    plane.client.create(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "careless"},
            "webhooks": [entry],
        }
    )
    plane.client.create(gpu_pod("plain", namespace, resources={}))

    def refused() -> float:
        change = {"metadata": {"labels": {"n": str(next(numbers))}}}
        plane.client.patch("Pod", "plain", change, namespace)  # ApiError if it is not let through
        return migfit.metric("migfit_requests_total", verb="/mutate", code="400")

    numbers = itertools.count()
    wait_until(refused, 15, "the API server asks us about the update")


def test_a_pod_left_whole_is_applied_twice_as_ever(
    manifest: Manifest, migfit: Migfit, namespace: str
) -> None:
    manifest.pod["metadata"]["annotations"]["migfit.io/gpu-memory"] = "79G"
    manifest.run("apply")

    out, said = manifest.run("apply")

    assert out.endswith(("unchanged", "configured"))
    assert said == ""
    assert slices(manifest.stored()) == [{GPU: "1"}] * 2
    assert len(migfit.audit(namespace)) == 1
