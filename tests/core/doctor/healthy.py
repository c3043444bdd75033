"""An installation that nothing is wrong with, as the doctor finds it; a test changes one thing."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from extender.config import load
from extender.core.doctor.diagnose import diagnose
from extender.core.doctor.evidence import Certificate, Evidence
from tests.build import GPU, JSON, bound, mig, namespace
from tests.build import node as bare_node
from tests.deploy.manifests import SCHEDULERS, documents, one

if TYPE_CHECKING:
    from collections.abc import Mapping

    from extender.core.policy import Policy

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
INSTALLED = "2027-01-10T00:00:00Z"
LATER = "2027-01-12T00:00:00Z"
NOW = "2027-01-15T08:00:00Z"
SYSTEM = "migfit-system"
IMAGE = "ghcr.io/migfit/migfit:0.1.0"
A100 = "NVIDIA-A100-SXM4-80GB"
LABELS_OF_PRODUCTS = {
    "A100-40GB": "NVIDIA-A100-SXM4-40GB",
    "A100-80GB": A100,
    "H100-80GB": "NVIDIA-H100-80GB-HBM3",
    "H200-141GB": "NVIDIA-H200",
    "A30-24GB": "NVIDIA-A30",
}
DRIVER = {"major": "580", "minor": "95", "revision": "05"}
"""Newer than every fault we know, on machines that are not Grace."""


def node(
    name: str = "gpu-a",
    product: str = "A100-80GB",
    slices: Mapping[str, int] | None = None,
    labels: Mapping[str, str | None] | None = None,
    whole: int = 2,
) -> JSON:
    """A node as device plugin, GFD and mig-manager leave it; a label given as None is left out."""
    counts = {"1g.10gb": 2, "2g.20gb": 3} if slices is None else slices
    said: dict[str, str | None] = {
        "nvidia.com/mig.capable": "true",
        "nvidia.com/mig.config": "all-balanced",
        **{f"nvidia.com/cuda.driver-version.{part}": value for part, value in DRIVER.items()},
    }
    for profile, count in counts.items():
        said[f"{mig(profile)}.count"] = str(count)
        said[f"{mig(profile)}.replicas"] = "1"
        said[f"{mig(profile)}.sharing-strategy"] = "none"
    made = bare_node(
        name,
        slices=counts,
        whole=whole,
        product=LABELS_OF_PRODUCTS.get(product, product),
        labels={**said, **(labels or {})},
    )
    made["status"]["capacity"] = dict(made["status"]["allocatable"])
    return made


def plain_node() -> JSON:
    """One without any GPU."""
    made = bare_node("cpu-a", slices={}, whole=0)
    made["metadata"]["labels"] = {"kubernetes.io/hostname": "cpu-a"}
    return made


def pod(name: str, **metadata: Any) -> JSON:
    """A pod on a whole GPU, made after the installation, with a decision."""
    made = bound(name, "gpu-a", {GPU: 1})
    made["metadata"]["creationTimestamp"] = LATER
    made["metadata"]["annotations"]["migfit.io/decision"] = "{}"
    made["metadata"] |= metadata
    return made


def own_pod(name: str, image: str = IMAGE, args: tuple[str, ...] = ("serve",)) -> JSON:
    """A replica of migfit."""
    return {
        "metadata": {
            "name": name,
            "namespace": SYSTEM,
            "labels": {"app.kubernetes.io/name": "migfit"},
            "creationTimestamp": INSTALLED,
        },
        "spec": {"containers": [{"name": "migfit", "image": image, "args": list(args)}]},
        "status": {"phase": "Running"},
    }


def webhook() -> JSON:
    """The configuration we ship, as it is some time after it was applied."""
    made = copy.deepcopy(one("MutatingWebhookConfiguration"))
    made["metadata"]["creationTimestamp"] = INSTALLED
    return made


def scheduler() -> JSON:
    """The configuration we ship for a second scheduler."""
    (sample,) = documents(SCHEDULERS / "second-scheduler.yaml")
    return sample


def lease(renewed: str = NOW, name: str = "migfit-scheduler") -> JSON:
    """Of the second scheduler."""
    return {"metadata": {"name": name, "namespace": SYSTEM}, "spec": {"renewTime": renewed}}


def plugin(image: str = "nvcr.io/nvidia/k8s-device-plugin:v0.20.0", **env: str) -> JSON:
    """NVIDIA's device plugin as the GPU Operator runs it; beside it GFD out of the same image."""
    settings = {"MIG_STRATEGY": "mixed", **env}
    return {
        "metadata": {"name": "nvidia-device-plugin-daemonset", "namespace": "gpu-operator"},
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "nvidia-device-plugin",
                            "image": image,
                            "env": [{"name": n, "value": v} for n, v in settings.items()],
                        },
                        {
                            "name": "gpu-feature-discovery",
                            "image": image,
                            "command": ["gpu-feature-discovery"],
                            "env": [{"name": "MIG_STRATEGY", "value": "single"}],
                        },
                    ]
                }
            }
        },
    }


def config(**fields: object) -> Policy:
    """A configuration that enforces, and hands pods to the second scheduler."""
    text = {"inject": {"schedulerName": "migfit-scheduler"}, **fields}
    head = {"apiVersion": "migfit.io/v1alpha1", "kind": "MigfitConfiguration"}
    return load(json.dumps({**head, **text}), own_namespace=SYSTEM)


def certificate(left_s: float = 60 * DAY_S, distrust: str = "") -> Certificate:
    """One that lives for 90 days."""
    return Certificate(
        "Secret migfit-system/migfit-tls", NOW_S + left_s - 90 * DAY_S, NOW_S + left_s, distrust
    )


def evidence(**fields: Any) -> Evidence:
    """What is found where all is well; `fields` replace some of it."""
    healthy = Evidence(
        namespace=SYSTEM,
        now_s=NOW_S,
        skew_s=0.4,
        kubernetes="v1.36.3",
        webhook=webhook(),
        certificate=certificate(),
        endpoints=2,
        config="ConfigMap migfit-system/migfit-config",
        policy=config(),
        scheduler_configurations={"ConfigMap migfit-system/migfit-scheduler": scheduler()},
        nodes=(node(), plain_node()),
        pods=(own_pod("migfit-1"), own_pod("migfit-2"), pod("asr")),
        namespaces=(namespace("kube-system"), namespace(SYSTEM), namespace("speech")),
        leases=(lease(),),
        plugins=(plugin(),),
    )
    return replace(healthy, **fields)


def ids(found: Evidence) -> list[str]:
    """What the doctor says, each kind once."""
    return sorted({str(finding.id) for finding in diagnose(found)})
