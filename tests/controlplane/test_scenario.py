"""A pod goes through the real API server and the real kube-scheduler and lands on a slice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.migfit import CONFIG_MAP, GPU, SYSTEM_NAMESPACE, a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, wait_until

if TYPE_CHECKING:
    from tests.controlplane.client import JSON
    from tests.controlplane.migfit import Migfit
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SLICE_2G = "nvidia.com/mig-2g.20gb"
SLICE_3G = "nvidia.com/mig-3g.40gb"


def node(plane: ControlPlane, name: str, **allocatable: int) -> None:
    """A fake A100 node; keyword `gpu`, `mig_3g` or `mig_2g` -> count."""
    names = {"gpu": GPU, "mig_3g": SLICE_3G, "mig_2g": SLICE_2G}
    resources = {names[key]: count for key, count in allocatable.items()}
    plane.client.create(fake_node(name, allocatable=resources, labels=a100_labels()))


def known(migfit: Migfit, plane: ControlPlane, namespace: str, slices: int) -> None:
    """Wait until the server has seen so many slices of 3g.40gb, by asking it with a dry run."""

    def seen() -> bool:
        probe = gpu_pod("probe", namespace, annotations={"migfit.io/gpu-memory": "30G"})
        plane.client.create(probe, dry_run=True)
        candidates = migfit.audit(namespace)[-1]["candidates"]
        return slices in [c["free"] for c in candidates if c["resource"] == SLICE_3G]

    wait_until(seen, 10, f"{slices} slices are known")


def asked(pod: JSON) -> tuple[dict[str, str], dict[str, str]]:
    """Limits and requests of the pod's container."""
    resources = pod["spec"]["containers"][0]["resources"]
    return resources["limits"], resources["requests"]


def test_asr_and_tts_land_on_slices_and_the_llm_keeps_a_whole_gpu(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    node(plane, "gpu-a", gpu=2, mig_3g=2)
    known(migfit, plane, namespace, 2)
    plane.start_scheduler([migfit.extender])
    replies = {
        name: plane.client.create(
            gpu_pod(name, namespace, annotations={"migfit.io/gpu-memory": footprint})
        )
        for name, footprint in (("llm", "73.2G"), ("asr", "9.6G"), ("tts", "13.4G"))
    }

    assert [bound_node(plane.client, namespace, name) for name in replies] == ["gpu-a"] * 3
    pods = {name: plane.client.get("Pod", name, namespace) for name in replies}
    for name in ("asr", "tts"):
        assert asked(pods[name]) == ({SLICE_3G: "1"}, {SLICE_3G: "1"})
        assert pods[name]["metadata"]["labels"]["migfit.io/rewritten"] == "true"
    assert asked(pods["llm"]) == ({GPU: "1"}, {GPU: "1"})
    whole = [pod for pod in pods.values() if GPU in asked(pod)[0]]
    assert len(whole) == 1, "one whole GPU of two stays free"

    decisions = {
        name: json.loads(pod["metadata"]["annotations"]["migfit.io/decision"])
        for name, pod in pods.items()
    }
    assert {name: d["reason"] for name, d in decisions.items()} == {
        "llm": "TooLarge",
        "asr": "Fits",
        "tts": "Fits",
    }
    assert pods["asr"]["metadata"]["annotations"]["migfit.io/need"] == decisions["asr"]["need"]
    [warning] = replies["asr"].warnings
    assert warning.startswith("migfit: Fits: need 10987Mi fits mig-3g.40gb")
    assert replies["llm"].warnings == []

    lines = [line for line in migfit.audit(namespace) if not line["dryRun"]]
    assert [(line["pod"], line["reason"]) for line in lines] == [
        ("llm", "TooLarge"),
        ("asr", "Fits"),
        ("tts", "Fits"),
    ]
    assert {line["id"] for line in lines} == {d["id"] for d in decisions.values()}

    def audited() -> list[JSON]:
        events = plane.audit_events("create", resource="pods", namespace=namespace, name="asr")
        return [event for event in events if "subresource" not in event["objectRef"]]

    [event] = wait_until(audited, 10, "the API server has written its audit line")
    assert json.loads(event["annotations"]["pods.migfit.io/decision"]) == decisions["asr"]


def fill_with_five(plane: ControlPlane, namespace: str, migfit: Migfit) -> list[str]:
    """Five more pods for two nodes of which `gpu-b` has a slice in use; where they went.

    Each asks for enough cpu that the scheduler's own plugins have a clear opinion: to spread.
    """
    for name in ("gpu-a", "gpu-b"):
        node(plane, name, mig_3g=6)
    known(migfit, plane, namespace, 12)

    def place(name: str, **spec: object) -> str:
        pod = gpu_pod(
            name,
            namespace,
            resources={GPU: 1, "cpu": 8},
            annotations={"migfit.io/gpu-memory": "30G"},
            spec=spec,
        )
        plane.client.create(pod)
        return bound_node(plane.client, namespace, name)

    assert place("first", nodeSelector={"kubernetes.io/hostname": "gpu-b"}) == "gpu-b"
    places = []
    for number in range(5):
        known(migfit, plane, namespace, 11 - number)
        places.append(place(f"more-{number}"))
    return places


def test_a_node_in_use_is_filled_before_an_idle_one_is_touched(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    plane.start_scheduler([migfit.extender])
    assert fill_with_five(plane, namespace, migfit) == ["gpu-b"] * 5


def test_without_the_extender_the_scheduler_spreads_the_same_pods(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    plane.start_scheduler()
    assert fill_with_five(plane, namespace, migfit).count("gpu-a") == 3


def test_a_server_side_dry_run_mutates_alike_and_changes_nothing(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    node(plane, "gpu-a", mig_3g=1)
    known(migfit, plane, namespace, 1)
    counted = migfit.metric("migfit_decisions_total")
    dry = migfit.metric("migfit_dry_run_reviews_total")
    pod = gpu_pod("asr", namespace, annotations={"migfit.io/gpu-memory": "9.6G"})

    for _ in range(3):  # a reservation would fill the only slice after the first
        assert asked(plane.client.create(pod, dry_run=True).body) == ({SLICE_3G: "1"},) * 2

    assert migfit.metric("migfit_decisions_total") == counted
    assert migfit.metric("migfit_dry_run_reviews_total") == dry + 3
    assert plane.client.items("Pod", namespace) == []
    assert asked(plane.client.create(pod).body) == ({SLICE_3G: "1"},) * 2
    assert migfit.metric("migfit_decisions_total", reason="Fits") == 1


def test_without_the_server_pods_run_whole_and_with_it_again_they_are_rewritten(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    node(plane, "gpu-a", gpu=2, mig_3g=2)
    known(migfit, plane, namespace, 2)
    plane.start_scheduler([migfit.extender])
    migfit.stop()
    footprint = {"migfit.io/gpu-memory": "9.6G"}

    created = plane.client.create(gpu_pod("missed", namespace, annotations=footprint)).body
    assert asked(created) == ({GPU: "1"},) * 2
    assert bound_node(plane.client, namespace, "missed") == "gpu-a"

    migfit.start()
    wait_until(
        lambda: (
            asked(
                plane.client.create(
                    gpu_pod("served", namespace, annotations=footprint), dry_run=True
                ).body
            )[0]
            == {SLICE_3G: "1"}
        ),
        2,
        "pods are rewritten again within 2 s of the caches being synced",
    )


def test_a_changed_config_map_changes_the_next_decision_and_a_broken_one_does_not(
    plane: ControlPlane, namespace: str, migfit: Migfit
) -> None:
    node(plane, "gpu-a", mig_3g=2)
    known(migfit, plane, namespace, 2)
    pod = gpu_pod("asr", namespace, annotations={"migfit.io/gpu-memory": "10Gi"})

    def need() -> str:
        body = plane.client.create(pod, dry_run=True).body
        return str(body["metadata"]["annotations"]["migfit.io/need"])

    assert need() == "12288Mi"
    migfit.configure(headroom="100%")
    wait_until(lambda: need() == "20480Mi", 10, "the new headroom is in force")
    assert migfit.metric("migfit_config_valid") == 1

    migfit.configure_text("headroom: lots\n")
    wait_until(lambda: migfit.metric("migfit_config_valid") == 0, 10, "the config is refused")
    assert need() == "20480Mi"
    assert migfit.ready()

    def told() -> list[JSON]:
        return plane.client.items("Event", SYSTEM_NAMESPACE)

    [event] = wait_until(told, 10, "an Event is on the ConfigMap")
    assert event["reason"] == "ConfigurationRefused"
    about = event["involvedObject"]
    assert (about["kind"], about["name"]) == ("ConfigMap", CONFIG_MAP)
    assert "headroom" in event["message"]
