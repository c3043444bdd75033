"""Pods as found in the wild, what is expected of each, and the cluster and configuration they meet."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from extender.core.defaulting import defaulted

JSON = dict[str, Any]

HERE = Path(__file__).parent
CONFIGURATION = (HERE / "configuration.yaml").read_text()

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class Expectation:
    """The outcome for a pod. `profile` and `would_be` are None where there is none."""

    action: str
    reason: str
    profile: str | None = None
    would_be: str | None = None


@dataclass(frozen=True, slots=True)
class WildPod:
    """One file of `pods/`: a document that says what is expected and why, then the pod."""

    name: str
    what: str
    why: str
    expect: Expectation
    pod: JSON
    """As its controller posts it; `sent` is what a webhook gets of it."""

    @property
    def namespace(self) -> str:
        """Where it is created."""
        return str(self.pod["metadata"]["namespace"])


def wild_pods() -> list[WildPod]:
    """Every file of `pods/`, by name."""
    return [_read(path) for path in sorted((HERE / "pods").glob("*.yaml"))]


def nodes() -> list[JSON]:
    """The nodes of the cluster."""
    return list(yaml.safe_load((HERE / "cluster.yaml").read_text())["items"])


@cache
def _read(path: Path) -> WildPod:
    head, pod = yaml.safe_load_all(path.read_text())
    expect = Expectation(**head.pop("expect"))
    return WildPod(name=path.stem, expect=expect, pod=pod, **head)


def sent(pod: JSON) -> JSON:
    """The pod as the API server sends it to a webhook: defaults filled in, plugins before us done.

    Not every default is there, but all that stand where we read or write, and those that make a pod
    look as it does: tolerations, the service account's token, termination messages.
    """
    pod = copy.deepcopy(defaulted(pod))
    spec = pod["spec"]
    pod["metadata"] |= {"creationTimestamp": None}
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("enableServiceLinks", True)
    spec |= {"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}
    spec["tolerations"] = [
        *spec.get("tolerations", []),
        *(
            {
                "key": f"node.kubernetes.io/{condition}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
            for condition in ("not-ready", "unreachable")
        ),
    ]
    token = spec.get("automountServiceAccountToken", True)
    if token:
        expiring = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
        volume = {"name": "kube-api-access-x7k2p", "projected": {"sources": [expiring]}}
        spec["volumes"] = [*spec.get("volumes", []), volume]
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "IfNotPresent")
        if token:
            mount = {"name": "kube-api-access-x7k2p", "readOnly": True, "mountPath": TOKEN_PATH}
            container["volumeMounts"] = [*container.get("volumeMounts", []), mount]
    return pod
