"""Nodes of 16 KB and pods of 7 KB as an API server writes them: lists in pages, and watch events.

Ten pods on each node, a quarter of all with a GPU or a slice, as where monitoring, networking and
logging run on every node. Invented, and the same on every run.
"""

import functools
import itertools
import random
import uuid
from collections.abc import Iterator
from typing import Any

import orjson

from bench._cluster import JSON, LAYOUTS, NAMESPACE, node_name, node_object

NODE_BYTES = 16 * 1024
POD_BYTES = 7 * 1024
PAGE_ITEMS = 500
GPU_SHARE = 4
"""One pod in so many holds a GPU or a slice."""
_DAEMONS = ("fluent-bit", "node-exporter", "cilium", "csi-node", "dcgm-exporter", "kube-proxy")


_OWNED_BYTES = len(b'"f:field.example.com/number-0000":{".":{},"f:value":{}},')


@functools.cache
def _managed_fields(count: int) -> orjson.Fragment:
    """Who owns that many fields: of what a list sends, usually a third."""
    fields: JSON = {
        f"f:field.example.com/number-{n:04}": {".": {}, "f:value": {}} for n in range(count)
    }
    entry = {
        "manager": "controller",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-20T08:15:42Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": fields}},
    }
    return orjson.Fragment(orjson.dumps([entry]))


def _padded(item: JSON, size: int) -> bytes:
    """The object in JSON, of about that size."""
    item["metadata"]["managedFields"] = _managed_fields(0)
    missing = size - len(orjson.dumps(item))
    item["metadata"]["managedFields"] = _managed_fields(max(0, missing) // _OWNED_BYTES)
    return orjson.dumps(item)


def node_json(number: int, version: int = 1, **labels: str) -> bytes:
    """A node with what kubelet, cloud and GPU Feature Discovery say of it."""
    item = node_object(number)
    item["metadata"] |= {
        "uid": str(uuid.UUID(int=number + 1)),
        "resourceVersion": str(version),
        "creationTimestamp": "2026-11-01T10:00:00Z",
        "annotations": {
            "node.alpha.kubernetes.io/ttl": "30",
            "csi.volume.kubernetes.io/nodeid": '{"pd.csi.storage.gke.io":"projects/prod/zones/a"}',
            "volumes.kubernetes.io/controller-managed-attach-detach": "true",
        },
    }
    item["metadata"]["labels"] |= {f"feature.node.kubernetes.io/cpu-{n}": "true" for n in range(30)}
    item["metadata"]["labels"] |= labels
    item["spec"] |= {"podCIDR": f"10.{number % 250}.0.0/24", "providerID": f"gce://prod/{number}"}
    item["status"] |= {
        "capacity": item["status"]["allocatable"],
        "conditions": [
            {
                "type": kind,
                "status": "True" if kind == "Ready" else "False",
                "lastHeartbeatTime": "2026-11-23T15:00:00Z",
                "lastTransitionTime": "2026-11-01T10:00:12Z",
                "reason": f"Kubelet{kind}",
                "message": f"kubelet has its say about {kind}",
            }
            for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
        ],
        "images": [
            {
                "names": [
                    f"nvcr.io/nim/nvidia/model-{image}@sha256:{image:064x}",
                    f"nvcr.io/nim/nvidia/model-{image}:1.{image}",
                ],
                "sizeBytes": 9_000_000_000 + image,
            }
            for image in range(40)
        ],
        "nodeInfo": {
            "kernelVersion": "6.1.0",
            "kubeletVersion": "v1.36.3",
            "architecture": "amd64",
        },
    }
    return _padded(item, NODE_BYTES)


def pod_json(number: int, nodes: int, *, bound: bool = True, phase: str = "Running") -> bytes:
    """The pod of that number, on its node or before that."""
    chance = random.Random(number)
    on = number % nodes
    resources: dict[str, str] = {"cpu": "2", "memory": "8Gi"}
    if number // nodes % GPU_SHARE == 0:
        resources[chance.choice(list(LAYOUTS[on % len(LAYOUTS)]))] = "1"
        kind, owner, digest = "ReplicaSet", f"model-{number % 500}", f"{number % 500:010x}"
    else:
        kind, owner = "DaemonSet", chance.choice(_DAEMONS)
        resources, digest = {"cpu": "100m", "memory": "200Mi"}, "7f9c4d5b68"
    name = f"{owner}-{digest}-{number:05x}"
    item: JSON = {
        "metadata": {
            "name": name,
            "generateName": f"{owner}-{digest}-",
            "namespace": NAMESPACE,
            "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"pod-{number}")),
            "resourceVersion": str(number + 1),
            "creationTimestamp": "2026-11-20T08:15:42Z",
            "labels": {"app": owner, "pod-template-hash": digest},
            "annotations": {"prometheus.io/scrape": "true", "checksum/config": f"{number:064x}"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": kind,
                    "name": f"{owner}-{digest}" if kind == "ReplicaSet" else owner,
                    "uid": str(uuid.UUID(int=number % 500 + 1)),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            **({"nodeName": node_name(on)} if bound else {}),
            "containers": [_container(owner, resources)],
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": owner,
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
            ],
            "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {
            "phase": phase,
            "conditions": [
                {
                    "type": kind,
                    "status": "True",
                    "lastProbeTime": None,
                    "lastTransitionTime": "2026-11-20T08:15:44Z",
                }
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "hostIP": f"10.0.{on // 250}.{on % 250}",
            "podIP": f"10.1.{number // 250 % 250}.{number % 250}",
            "qosClass": "Guaranteed",
        },
    }
    return _padded(item, POD_BYTES)


def _container(name: str, resources: dict[str, str]) -> JSON:
    return {
        "name": name,
        "image": f"registry.example.com/platform/{name}:v1.2.3",
        "args": [f"--flag-{number}=/etc/{name}/value-{number}" for number in range(10)],
        "env": [
            {"name": f"SETTING_{number:02}", "value": f"the-value-of-setting-{number}"}
            for number in range(20)
        ],
        "resources": {"limits": resources, "requests": resources},
        "volumeMounts": [
            {"name": f"volume-{number}", "mountPath": f"/var/lib/{name}/{number}"}
            for number in range(4)
        ],
        "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
    }


def pages(kind: str, items: Iterator[bytes]) -> list[bytes]:
    """The bodies of the pages of a list, in order; each names the next by its number."""
    batches = [list(batch) for batch in iter(lambda: list(itertools.islice(items, PAGE_ITEMS)), [])]
    bodies = []
    for number, batch in enumerate(batches or [[]], start=1):
        meta: dict[str, Any] = {"resourceVersion": "1000000"}
        if number < len(batches):
            meta |= {"continue": str(number), "remainingItemCount": len(batches) - number}
        head = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": meta}
        bodies.append(orjson.dumps(head)[:-1] + b',"items":[' + b",".join(batch) + b"]}\n")
    return bodies


def _event(what: str, kind: str, item: bytes) -> bytes:
    head = f'{{"type":"{what}","object":{{"kind":"{kind}","apiVersion":"v1",'
    return head.encode() + item[1:] + b"}\n"


def pod_events(pods: int, nodes: int) -> list[bytes]:
    """What befalls pods: half change their status, the others come, are bound, run and go.

    The last event leaves things as they were before the first.
    """
    chance = random.Random(22)
    lives = [
        [
            _event("ADDED", "Pod", pod_json(number, nodes, bound=False, phase="Pending")),
            _event("MODIFIED", "Pod", pod_json(number, nodes, phase="Pending")),
            _event("MODIFIED", "Pod", pod_json(number, nodes)),
            _event("DELETED", "Pod", pod_json(number, nodes)),
        ]
        for number in (pods + chance.randrange(pods) for _ in range(300))
    ]
    lives += [
        [_event("MODIFIED", "Pod", pod_json(chance.randrange(pods), nodes))] for _ in range(1200)
    ]
    return _shuffled(lives, chance)


def node_events(nodes: int) -> list[bytes]:
    """What befalls nodes: most report that they live, some get a label and lose it again."""
    chance = random.Random(23)
    lives = [
        [
            _event("MODIFIED", "Node", node_json(number, 2, tenant="research")),
            _event("MODIFIED", "Node", node_json(number, 3)),
        ]
        for number in (chance.randrange(nodes) for _ in range(50))
    ]
    lives += [
        [_event("MODIFIED", "Node", node_json(chance.randrange(nodes), 4))] for _ in range(400)
    ]
    return _shuffled(lives, chance)


def _shuffled(lives: list[list[bytes]], chance: random.Random) -> list[bytes]:
    """All events, those of one object in their order."""
    order = [which for which, events in enumerate(lives) for _ in events]
    chance.shuffle(order)
    left = [iter(events) for events in lives]
    return [next(left[which]) for which in order]
