"""A cluster, a configuration and any number of random pods, so mixed that nearly every reason turns up."""

from __future__ import annotations

import random
from typing import Any

JSON = dict[str, Any]

CONFIG = """\
apiVersion: migfit.io/v1alpha1
kind: MigfitConfiguration
namespaces: {exclude: [kube-*]}
schedulers: [volcano]
models:
  - {name: parakeet, gpuMemory: 9.6G, images: ["*/parakeet*"]}
  - {name: two-slices, gpuMemory: 4G, minCompute: 2}
rules:
  - {name: notebooks, match: {namespaces: [notebooks]}, gpuMemory: 6Gi, headroom: 0, mode: DryRun}
  - {name: off, match: {labels: {team: off}}, mode: Disabled}
"""


def cluster() -> list[JSON]:
    """Some A100, an H100, one in strategy single, one under reconfiguration; quotas; some use."""
    a100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/mig.strategy": "mixed"}
    return [
        _node(
            "a100-0",
            {"nvidia.com/gpu": 2, "mig-1g.10gb": 3, "mig-2g.20gb": 2},
            a100 | {"zone": "a"},
        ),
        _node("a100-1", {"mig-2g.20gb": 1, "mig-3g.40gb": 1}, a100 | {"zone": "b"}),
        _node("full", {"mig-1g.10gb": 1}, a100 | {"zone": "full"}),
        _node(
            "h100",
            {"mig-1g.10gb": 7, "mig-1g.10gb.me": 1},
            {
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                "nvidia.com/mig.strategy": "mixed",
                "nvidia.com/mig-1g.10gb.memory": "9984",
            },
            [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        ),
        _node("single", {"nvidia.com/gpu": 4}, {"nvidia.com/mig.strategy": "single", "zone": "c"}),
        _node(
            "busy",
            {"mig-2g.20gb": 3},
            a100 | {"nvidia.com/mig.config.state": "pending", "zone": "c"},
        ),
        _held("on-full", "full", "nvidia.com/mig-1g.10gb"),
        _held("on-0", "a100-0", "nvidia.com/mig-2g.20gb"),
        {
            "kind": "Namespace",
            "metadata": {"name": "quiet", "labels": {"migfit.io/mode": "ignore"}},
        },
        {
            "kind": "ResourceQuota",
            "metadata": {"name": "gpus", "namespace": "none"},
            "spec": {"hard": {"requests.nvidia.com/gpu": "0"}},
        },
        {
            "kind": "ResourceQuota",
            "metadata": {"name": "gpus", "namespace": "poor"},
            "spec": {"hard": {"requests.nvidia.com/gpu": "1"}},
        },
        _held("on-quota", "elsewhere", "nvidia.com/mig-2g.20gb", "poor"),
        {
            "kind": "ResourceQuota",
            "metadata": {"name": "slices", "namespace": "no-slices"},
            "spec": {
                "hard": {
                    f"requests.nvidia.com/mig-{name}": "0"
                    for name in ("1g.10gb", "2g.20gb", "3g.40gb", "1g.10gb.me")
                }
            },
        },
        {
            "kind": "LimitRange",
            "metadata": {"name": "whole", "namespace": "whole-only"},
            "spec": {"limits": [{"type": "Container", "min": {"nvidia.com/gpu": "1"}}]},
        },
    ]


def _node(
    name: str, gpus: dict[str, int], labels: dict[str, str], taints: list[JSON] | None = None
) -> JSON:
    full = {f"nvidia.com/{k.removeprefix('nvidia.com/')}": str(count) for k, count in gpus.items()}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "spec": {"taints": taints or []},
        "status": {"allocatable": {"cpu": "8", "memory": "64Gi", "pods": "20", **full}},
    }


def _held(name: str, node: str, resource: str, namespace: str = "default") -> JSON:
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": name,
            "labels": {"migfit.io/rewritten": "true"},
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "resources": {"limits": {resource: "1"}}}],
        },
        "status": {"phase": "Running"},
    }


def pods(count: int, seed: int = 0) -> list[JSON]:
    """That many pods as people might write them, some of them badly."""
    dice = random.Random(seed)
    return [_pod(dice, number) for number in range(count)]


def _maybe(dice: random.Random, chance: float, *values: Any) -> Any:
    return dice.choice(values) if dice.random() < chance else None


def _without_none(members: JSON) -> JSON:
    return {key: value for key, value in members.items() if value is not None}


def _pod(dice: random.Random, number: int) -> JSON:
    size = _maybe(
        dice, 0.6, "9.6G", "6Gi", "17G", "30G", "73.2G", "100Mi", "9.6", "9.6GB", "-1", ""
    )
    annotations = _without_none(
        {
            "migfit.io/gpu-memory": size,
            "gpu-memory.migfit.io/main": _maybe(dice, 0.05, "8G", "1Ti", "x"),
            "gpu-memory.migfit.io/other": _maybe(dice, 0.02, "8G"),
            "migfit.io/model": _maybe(dice, 0.1, "parakeet", "two-slices", "unheard-of"),
            "migfit.io/headroom": _maybe(dice, 0.1, "30%", "0", "0.5", "much"),
            "migfit.io/min-compute": _maybe(dice, 0.1, "2", "7", "9"),
            "migfit.io/min-bandwidth": _maybe(dice, 0.05, "400G", "3T"),
            "migfit.io/profile": _maybe(dice, 0.1, "1g.10gb", "1g.10gb+me", "2g.35gb", "half"),
            "migfit.io/decision": _maybe(dice, 0.05, "{}", "not json", '{"id": "x"}'),
            "kubernetes.io/config.mirror": _maybe(dice, 0.02, "x"),
        }
    )
    labels = _without_none(
        {
            "migfit.io/mode": _maybe(dice, 0.08, "ignore", "dry-run", "enforce"),
            "team": _maybe(dice, 0.05, "off"),
            "kueue.x-k8s.io/queue-name": _maybe(dice, 0.03, "q"),
            "training.kubeflow.org/job-name": _maybe(dice, 0.03, "j"),
        }
    )
    owner = _maybe(dice, 0.3, "ReplicaSet", "StatefulSet", "Job", "DaemonSet", "PyTorchJob")
    spec = _without_none(
        {
            "containers": [_container(dice, "main")]
            + [_container(dice, f"c{i}") for i in range(dice.choice((0, 0, 0, 1, 2)))],
            "initContainers": [_container(dice, "init")] if dice.random() < 0.1 else None,
            "nodeSelector": _maybe(dice, 0.3, {"zone": "a"}, {"zone": "full"}, {"zone": "c"}),
            "tolerations": _maybe(dice, 0.5, [{"operator": "Exists"}]),
            "schedulerName": _maybe(dice, 0.08, "volcano", "other", "default-scheduler"),
            "nodeName": _maybe(dice, 0.02, "a100-0"),
            "schedulingGates": _maybe(dice, 0.02, [{"name": "later"}]),
            "resourceClaims": _maybe(dice, 0.02, [{"name": "gpu"}]),
        }
    )
    metadata = _without_none(
        {
            "name": f"pod-{number}",
            "namespace": _maybe(
                dice,
                0.45,
                "notebooks",
                "quiet",
                "poor",
                "none",
                "no-slices",
                "whole-only",
                "kube-system",
            ),
            "annotations": annotations or None,
            "labels": labels or None,
            "ownerReferences": owner
            and [{"kind": owner, "name": f"{owner.lower()}-7d9f", "controller": True}],
        }
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _container(dice: random.Random, name: str) -> JSON:
    gpus = dice.choice((1, "1", "1", "1", 2, 0, None, None)) if name != "main" else "1"
    if name == "main":
        gpus = dice.choice((1, "1", "1", "1", "1", "1", "1", 2, 0, "1k", None))
    limits = _without_none(
        {
            "nvidia.com/gpu": gpus,
            "nvidia.com/mig-1g.10gb": _maybe(dice, 0.03, "1"),
            "cpu": _maybe(dice, 0.2, "500m", "9"),
        }
    )
    return _without_none(
        {
            "name": name,
            "image": _maybe(dice, 0.9, "reg/parakeet:1", "reg/llm:2", "reg/notebook"),
            "args": _maybe(dice, 0.05, ["--gpu-memory-utilization=0.3"]),
            "env": _maybe(
                dice,
                0.08,
                [{"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "video,compute"}],
                [{"name": "WORLD_SIZE", "value": "4"}],
            ),
            "resources": {"limits": limits} if limits else None,
        }
    )
