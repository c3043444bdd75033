"""Small nodes and pods as they come decoded from a watch."""

from typing import Any, TypeVar

import msgspec

from extender.cluster.objects import (
    NodeObject,
    PodObject,
)
from extender.core.rewrite import DECISION_ANNOTATION

T = TypeVar("T")

SMALL, LARGE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"
PRODUCT = "NVIDIA-A100-SXM4-80GB"


def convert(kind: type[T], **fields: Any) -> T:
    return msgspec.convert(fields, kind)


def node(name: str, **more: Any) -> NodeObject:
    fields = {
        "labels": {"nvidia.com/gpu.product": PRODUCT},
        "allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110", SMALL: "4", LARGE: "1"},
        **more,
    }
    return convert(
        NodeObject,
        metadata={"name": name, "labels": fields["labels"]},
        spec={k: v for k, v in fields.items() if k in ("taints", "unschedulable")},
        status={"allocatable": fields["allocatable"]},
    )


def pod(
    name: str,
    resource: str = SMALL,
    count: int = 1,
    *,
    on: str = "",
    namespace: str = "default",
    decision: str = "",
    phase: str = "Pending",
    **spec: Any,
) -> PodObject:
    mark = {"annotations": {DECISION_ANNOTATION: decision}} if decision else {}
    asked = {"cpu": "500m", resource: str(count)} if resource else {"cpu": "500m"}
    container = {"name": "main", "resources": {"limits": asked, "requests": asked}}
    return convert(
        PodObject,
        metadata={"name": name, "namespace": namespace, "uid": f"uid-{name}", **mark},
        spec={"containers": [container], "nodeName": on, **spec},
        status={"phase": phase},
    )
