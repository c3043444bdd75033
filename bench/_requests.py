"""What migfit is asked: a pod as the API server hands it to webhooks, as kube-scheduler to extenders."""

import itertools
import random
import uuid
from collections.abc import Iterator
from typing import Any

import orjson

from bench._cluster import (
    DEPLOYMENT,
    HASH,
    JSON,
    LAYOUTS,
    NAMESPACE,
    POOLS,
    ZONES,
    node_name,
    pool,
    zone,
)

SLICE = "nvidia.com/mig-2g.20gb"
"""What the pod needs: 9.6 GB and 20 % make 10987Mi, and 1g.10gb has 9728Mi."""

POD_BYTES = 4096
TEMPLATES = 20
"""Of which a busy cluster starts replicas at the same time."""
_TOKEN = b"kube-api-access-x7k2p"
_WRITTEN_AT = b"2026-11-20T08:15:42Z"
HOST = "kubernetes.io/hostname"
POOL = "cloud.google.com/gke-nodepool"
ZONE = "topology.kubernetes.io/zone"


def gpu_pod(resource: str = "nvidia.com/gpu", *, owner: str | None = None, **spec: Any) -> JSON:
    """A replica of a speech service, 4 KiB of JSON without what `spec` adds.

    Args:
        resource: what it asks for.
        owner: the Deployment it is of, for a pod on its way in: with the API server's notes on who wrote
            what, which kube-scheduler does not hand on.
        spec: fields of its spec.
    """
    labels = {"app.kubernetes.io/name": DEPLOYMENT, "pod-template-hash": HASH}
    limits = {"cpu": "8", "memory": "24Gi", resource: "1"}
    pod: JSON = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "generateName": f"{DEPLOYMENT}-{HASH}-",
            "namespace": NAMESPACE,
            "creationTimestamp": None,
            "labels": labels,
            "annotations": {
                "migfit.io/gpu-memory": "9.6G",
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "8000",
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{DEPLOYMENT}-{HASH}",
                    "uid": "0d0c7e9e-7d57-4b0c-9a44-3ad4c9c1b7d5",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "volumes": [
                {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
                {"name": "cache", "persistentVolumeClaim": {"claimName": "nim-cache"}},
                _token_volume(),
            ],
            "containers": [
                {
                    "name": "asr",
                    "image": "nvcr.io/nim/nvidia/parakeet-1-1b-ctc-en-us:1.3.0",
                    "ports": [
                        {"name": "http", "containerPort": 9000, "protocol": "TCP"},
                        {"name": "grpc", "containerPort": 50051, "protocol": "TCP"},
                    ],
                    "env": [],
                    "resources": {"limits": limits, "requests": dict(limits)},
                    "volumeMounts": [
                        {"name": "dshm", "mountPath": "/dev/shm"},
                        {"name": "cache", "mountPath": "/opt/nim/.cache"},
                        {
                            "name": "kube-api-access-x7k2p",
                            "readOnly": True,
                            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                        },
                    ],
                    "readinessProbe": _probe("/v1/health/ready", 30),
                    "livenessProbe": _probe("/v1/health/live", 3),
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "imagePullPolicy": "IfNotPresent",
                    "securityContext": {"runAsNonRoot": True, "allowPrivilegeEscalation": False},
                }
            ],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "securityContext": {"fsGroup": 1000},
            "imagePullSecrets": [{"name": "ngc-secret"}],
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                _toleration("not-ready"),
                _toleration("unreachable"),
            ],
            "priority": 0,
            "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {},
    }
    if owner is not None:
        _owned_by(pod, owner)
    _pad(pod)
    pod["spec"].update(spec)
    return pod


def _owned_by(pod: JSON, owner: str) -> None:
    """A pod of that Deployment, with the fields that its controller wrote, as the API server notes them."""
    meta = pod["metadata"]
    meta["generateName"] = f"{owner}-{HASH}-"
    meta["ownerReferences"][0]["name"] = f"{owner}-{HASH}"
    container = pod["spec"]["containers"][0]
    meta["managedFields"] = [
        {
            "manager": "kube-controller-manager",
            "operation": "Update",
            "apiVersion": "v1",
            "time": _WRITTEN_AT.decode(),
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {
                    "f:generateName": {},
                    "f:labels": {".": {}, **{f"f:{key}": {} for key in meta["labels"]}},
                    "f:annotations": {".": {}, **{f"f:{key}": {} for key in meta["annotations"]}},
                    "f:ownerReferences": {".": {}},
                },
                "f:spec": {
                    "f:containers": {
                        'k:{"name":"asr"}': {".": {}, **{f"f:{key}": {} for key in container}}
                    },
                    **{f"f:{key}": {} for key in pod["spec"] if key != "containers"},
                },
            },
        }
    ]


def _token_volume() -> JSON:
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    return {
        "name": "kube-api-access-x7k2p",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {
                    "configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    }
                },
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
            ],
            "defaultMode": 420,
        },
    }


def _probe(path: str, failures: int) -> JSON:
    get = {"path": path, "port": "http", "scheme": "HTTP"}
    return {"httpGet": get, "timeoutSeconds": 2, "periodSeconds": 10, "failureThreshold": failures}


def _toleration(trouble: str) -> JSON:
    return {
        "key": f"node.kubernetes.io/{trouble}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    }


def _pad(pod: JSON) -> None:
    """Environment variables until the pod has its size, as a chart's values would add them."""
    env = pod["spec"]["containers"][0]["env"]
    for number in itertools.count():
        missing = POD_BYTES - len(orjson.dumps(pod))
        if missing <= 0:
            return
        value = "value-of-a-setting"[: max(1, missing - 40)]
        env.append({"name": f"NIM_SETTING_{number:02}", "value": value})


def review(pod: JSON) -> bytes:
    """The AdmissionReview of a pod, with a uid of its own."""
    return orjson.dumps(
        {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": str(uuid.uuid4()),
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
                "requestResource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": NAMESPACE,
                "operation": "CREATE",
                "userInfo": {
                    "username": "system:serviceaccount:kube-system:replicaset-controller",
                    "uid": "5f1b8a52-6b0f-4a52-8f2c-1f9f4f6d5e0b",
                    "groups": ["system:serviceaccounts", "system:authenticated"],
                },
                "object": pod,
                "oldObject": None,
                "dryRun": False,
                "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            },
        }
    )


def _replica(body: bytes, chance: random.Random) -> bytes:
    """With what the API server writes into each pod: a volume's name drawn at random, and the time."""
    name = "".join(chance.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
    written_at = f"2026-11-20T08:{chance.randrange(60):02}:{chance.randrange(60):02}Z"
    body = body.replace(_TOKEN, f"kube-api-access-{name}".encode())
    return body.replace(_WRITTEN_AT, written_at.encode())


def reviews_alike() -> Iterator[bytes]:
    """Replicas of some services by turns."""
    chance = random.Random(22)
    templates = [gpu_pod(owner=f"{DEPLOYMENT}-{number:02}") for number in range(TEMPLATES)]
    while True:
        for pod in templates:
            yield _replica(review(pod), chance)


def reviews_apart(nodes: int) -> Iterator[bytes]:
    """Pods of a service each, with four kinds of selectors by turns, no two equal within `nodes` pods.

    One node by hostname; a pool (of a small cluster a zone) less one node; some nodes by name; either
    of two zones or pools.
    """
    chance = random.Random(23)
    pod = gpu_pod(owner=DEPLOYMENT)
    for number in itertools.count():
        # A node with the slice that fits, so that what is measured is the longer way to a rewrite.
        node = number * 7 % (nodes - 1)
        node += node % len(LAYOUTS) == 0
        spec = {**pod["spec"], **_selector(number, node, nodes)}
        meta = {**pod["metadata"], "generateName": f"{DEPLOYMENT}-{number}-{HASH}-"}
        yield _replica(review({**pod, "metadata": meta, "spec": spec}), chance)


def _selector(number: int, node: int, nodes: int) -> JSON:
    this = node_name(node)
    match number % 4:
        case 0:
            return {"nodeSelector": {HOST: this}}
        case 1:
            several = {POOL: pool(node)} if nodes > 2 * POOLS else {ZONE: zone(node)}
            return {
                "nodeSelector": several,
                **_required([_expression(HOST, "NotIn", this)]),
            }
        case 2:
            names = [node_name((node + step) % nodes) for step in (0, 1, 2, 3)]
            return _required([_expression(HOST, "In", *names)])
        case _:
            elsewhere = _expression(HOST, "NotIn", this)
            return _required(
                [_expression(ZONE, "In", zone(node), ZONES[0]), elsewhere],
                [_expression(POOL, "In", pool(node), pool(node + 1)), elsewhere],
            )


def _expression(key: str, operator: str, *values: str) -> JSON:
    return {"key": key, "operator": operator, "values": list(values)}


def _required(*terms: list[JSON]) -> JSON:
    needed = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": needed}}
    }


def extender_args(nodes: int) -> bytes:
    """What kube-scheduler asks about a rewritten pod that could go to any of the nodes."""
    pod = gpu_pod(SLICE)
    meta = pod["metadata"]
    meta["name"] = f"{meta['generateName']}x7k2p"
    meta["labels"]["migfit.io/rewritten"] = "true"
    meta["annotations"]["migfit.io/need"] = "10987Mi"
    names = [node_name(number) for number in range(nodes)]
    random.Random(21).shuffle(names)
    return orjson.dumps({"Pod": pod, "Nodes": None, "NodeNames": names})
