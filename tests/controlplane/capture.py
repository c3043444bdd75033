"""What the real kube-scheduler asks of an extender, kept under tests/scheduling/requests/.

    python -m tests.controlplane.capture

writes the files anew; test_extender_wire.py compares them with what the scheduler asks today.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.controlplane.build import find
from tests.controlplane.migfit import a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, new_namespace
from tests.controlplane.plane import ControlPlane
from tests.controlplane.recorder import recording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.controlplane.client import JSON
    from tests.controlplane.recorder import Asked

FOLDER = Path(__file__).parents[1] / "scheduling" / "requests"
SLICE = "nvidia.com/mig-2g.20gb"
REWRITTEN = {"migfit.io/rewritten": "true"}
NEED = {"migfit.io/need": "18432Mi"}

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_VERSION = re.compile(r'"resourceVersion": "\d+"')


def every_field(namespace: str) -> JSON:
    """A pod with whatever people write into pods, as the webhook leaves it."""
    probe = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 7}
    term = {"matchExpressions": [{"key": f"{SLICE}.memory", "operator": "Gt", "values": ["18431"]}]}
    near = {
        "topologyKey": "topology.kubernetes.io/zone",
        "labelSelector": {"matchLabels": {"app": "asr"}},
    }
    slice_of = {"limits": {SLICE: "1", "cpu": "2"}, "requests": {SLICE: "1", "cpu": "2"}}
    pod = gpu_pod(
        "every-field",
        namespace,
        resources={SLICE: 1, "cpu": "1500m", "memory": "8Gi", "ephemeral-storage": "1G"},
        labels={**REWRITTEN, "app": "asr", "pod-template-hash": "7c9d5bfb6d"},
        annotations={**NEED, "note": 'a <b> & "c" \u00e9\u4e16\U0001f600 \u2028 line\nbreak'},
        spec={
            "initContainers": [
                {"name": "warm-up", "image": "registry.invalid/warm:1", "resources": slice_of},
                {"name": "proxy", "image": "registry.invalid/proxy:1", "restartPolicy": "Always"},
            ],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 7, "preference": term}
                    ],
                },
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 3, "podAffinityTerm": near}
                    ]
                },
            },
            "nodeSelector": {"nvidia.com/mig.strategy": "mixed"},
            "tolerations": [
                {"operator": "Exists"},
                {"key": "a", "value": "b", "effect": "NoExecute"},
            ],
            "topologySpreadConstraints": [
                {**near, "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}
            ],
            "securityContext": {"runAsUser": 1000, "fsGroup": 1000, "sysctls": []},
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "node", "hostPath": {"path": "/dev/null", "type": "CharDevice"}},
            ],
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["store"]}],
            "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
            "readinessGates": [{"conditionType": "example.com/ready"}],
            "terminationGracePeriodSeconds": 9,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "shareProcessNamespace": True,
            "hostname": "asr",
            "subdomain": "speech",
            "os": {"name": "linux"},
        },
    )
    pod["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": "asr-7c9d5bfb6d",
            "uid": "11111111-2222-3333-4444-555555555555",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    pod["metadata"]["finalizers"] = ["example.com/kept"]
    pod["spec"]["containers"][0] |= {
        "command": ["/bin/serve"],
        "args": ["--port", "$(PORT)"],
        "env": [
            {"name": "PORT", "value": "8000"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "envFrom": [{"secretRef": {"name": "keys", "optional": True}}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "startupProbe": {"exec": {"command": ["true"]}},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        "securityContext": {"capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
        "workingDir": "/srv",
        "tty": True,
    }
    return pod


def capture(plane: ControlPlane) -> dict[str, str]:
    """File name -> text of what is asked in a cluster of two nodes and a third without slices."""
    client, namespace = plane.client, new_namespace(plane.client)
    for name in ("gpu-a", "gpu-b"):
        labels = {**a100_labels(), "topology.kubernetes.io/zone": name}
        client.create(fake_node(name, allocatable={SLICE: 3}, labels=labels))
    client.create(fake_node("plain", allocatable={}))
    only = {"nodeSelector": {"kubernetes.io/hostname": "gpu-b"}}
    plain = partial(gpu_pod, resources={SLICE: 1}, labels=REWRITTEN, annotations=NEED)
    found: dict[str, str] = {}
    with recording() as names:
        scheduler = plane.start_scheduler([names.configured()])
        client.create(every_field(namespace))
        bound_node(client, namespace, "every-field")
        client.create(plain("one-node", namespace, spec=only))
        bound_node(client, namespace, "one-node")
        scheduler.stop()
        (one_node,) = names.about("one-node")
        found |= {f"{a.verb}-names.json": _kept(a, namespace) for a in names.about("every-field")}
        found[f"{one_node.verb}-one-name.json"] = _kept(one_node, namespace)
    with recording() as nodes:
        scheduler = plane.start_scheduler([nodes.configured(nodeCacheCapable=False)])
        client.create(plain("whole-nodes", namespace))
        bound_node(client, namespace, "whole-nodes")
        scheduler.stop()
        found |= {f"{a.verb}-nodes.json": _kept(a, namespace) for a in nodes.about("whole-nodes")}
    return found


def _kept(asked: Asked, namespace: str) -> str:
    """As it was sent, but for what differs each time; nodes in the order of their names."""
    args = asked.args
    if args["NodeNames"] is not None:
        args["NodeNames"].sort()
    if args["Nodes"] is not None:
        args["Nodes"]["items"].sort(key=lambda node: node["metadata"]["name"])
    request: Mapping[str, Any] = {
        "method": asked.method,
        "path": asked.path,
        "contentType": asked.content_type,
        "body": args,
    }
    text = json.dumps(request, indent=1, ensure_ascii=True) + "\n"
    text = text.replace(namespace, "speech")
    text = _UID.sub("705ab4f5-6393-11e8-b7cc-42010a800002", text)
    text = _TIME.sub("2026-01-01T00:00:00Z", text)
    return _VERSION.sub('"resourceVersion": "1"', text)


def main() -> None:
    """Write the files anew."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ControlPlane(find(), Path(folder)) as plane,
    ):
        for name, text in capture(plane).items():
            (FOLDER / name).write_text(text)
            sys.stdout.write(f"{FOLDER / name}\n")


if __name__ == "__main__":
    main()
