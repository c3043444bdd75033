"""A cluster of A100 nodes, as large as wanted and half in use. Invented, and the same on every run."""

import random
import uuid
from typing import Any

import msgspec

from extender.cluster.objects import NamespaceObject, NodeObject, PodObject
from extender.cluster.state import State

JSON = dict[str, Any]

NAMESPACE = "speech"
DEPLOYMENT = "parakeet-asr"
HASH = "7c9d5bfb6d"

ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")
POOLS = 20

CONFIG = """
apiVersion: migfit.io/v1alpha1
kind: MigfitConfiguration
models:
  - {name: parakeet-1.1b, gpuMemory: 9.6G, images: ["nvcr.io/nim/nvidia/parakeet-*"]}
  - {name: magpie-tts, gpuMemory: 13.4G, images: ["nvcr.io/nim/nvidia/magpie-*"]}
  - {name: bge-m3, gpuMemory: 4Gi, images: ["*/text-embeddings-inference"]}
rules:
  - {name: notebooks, match: {namespaces: ["ds-*"], images: ["*/jupyter-*"]}, gpuMemory: 6Gi}
  - {name: batch, match: {kinds: [CronJob]}, mode: DryRun}
"""

LAYOUTS: tuple[dict[str, int], ...] = (
    {"nvidia.com/gpu": 8},
    {"nvidia.com/gpu": 4, "nvidia.com/mig-1g.10gb": 14, "nvidia.com/mig-2g.20gb": 6},
    {"nvidia.com/mig-2g.20gb": 16, "nvidia.com/mig-3g.40gb": 8},
    {"nvidia.com/mig-1g.10gb": 7, "nvidia.com/mig-2g.20gb": 21},
)
_USABLE_MIB = {"1g.10gb": 9728, "2g.20gb": 19968, "3g.40gb": 40192}


def node_name(number: int) -> str:
    """As long and as alike as a cloud makes them."""
    digest = uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex
    return f"gke-prod-a100-80g-pool-{number % POOLS:02}-{digest[:8]}-{digest[8:12]}"


def pool(number: int) -> str:
    return f"a100-80g-pool-{number % POOLS:02}"


def zone(number: int) -> str:
    return ZONES[number // POOLS % len(ZONES)]


def node_object(number: int) -> JSON:
    gpus = LAYOUTS[number % len(LAYOUTS)]
    sizes = {
        f"nvidia.com/mig-{profile}.memory": str(mib)
        for profile, mib in _USABLE_MIB.items()
        if f"nvidia.com/mig-{profile}" in gpus
    }
    labels = {
        "beta.kubernetes.io/arch": "amd64",
        "cloud.google.com/gke-nodepool": pool(number),
        "kubernetes.io/hostname": node_name(number),
        "node.kubernetes.io/instance-type": "a2-ultragpu-8g",
        "topology.kubernetes.io/region": "eu-west-1",
        "topology.kubernetes.io/zone": zone(number),
        "nvidia.com/cuda.driver.major": "580",
        "nvidia.com/gpu.count": "8",
        "nvidia.com/gpu.family": "ampere",
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        "nvidia.com/mig.capable": "true",
        "nvidia.com/mig.config.state": "success",
        "nvidia.com/mig.strategy": "mixed",
        **sizes,
    }
    room = {"cpu": "96", "memory": "1360Gi", "ephemeral-storage": "3Ti", "pods": "110"}
    return {
        "metadata": {"name": node_name(number), "labels": labels},
        "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
        "status": {"allocatable": {**room, **{name: str(gpus[name]) for name in gpus}}},
    }


def _bound(number: int, node: int, resource: str, owner: str) -> JSON:
    return {
        "metadata": {
            "name": f"{owner}-{number}",
            "namespace": NAMESPACE,
            "uid": f"bound-{node}-{number}",
            "labels": {"pod-template-hash": HASH},
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": f"{owner}-{HASH}", "controller": True}
            ],
        },
        "spec": {
            "nodeName": node_name(node),
            "containers": [
                {"resources": {"requests": {"cpu": "2", "memory": "8Gi", resource: "1"}}}
            ],
        },
        "status": {"phase": "Running"},
    }


def fill(state: State, nodes: int, changing: int = 0) -> None:
    """Put that many nodes into a state, every other one in use, three by replicas of our pod.

    Args:
        state: what is filled.
        nodes: how many.
        changing: how many of them are being cut anew.
    """
    chance = random.Random(20)
    pods: list[JSON] = []
    for node in range(0, nodes, 2):
        for resource, count in LAYOUTS[node % len(LAYOUTS)].items():
            for number in range(chance.randint(0, count // 2)):
                owner = DEPLOYMENT if node < 6 and not number else f"model-{chance.randrange(500)}"
                pods.append(_bound(len(pods), node, resource, owner))
    objects = [node_object(number) for number in range(nodes)]
    for each in objects[:changing]:
        each["metadata"]["labels"]["nvidia.com/mig.config.state"] = "pending"
    state.fill(
        nodes=msgspec.convert(objects, list[NodeObject]),
        pods=msgspec.convert(pods, list[PodObject]),
        namespaces=msgspec.convert([{"metadata": {"name": NAMESPACE}}], list[NamespaceObject]),
    )
