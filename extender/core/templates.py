"""Pods inside of what people deploy: the template of a Deployment, a CronJob and the like."""

from collections.abc import Iterator, Mapping
from typing import Any

from extender.core.pod import mapping, metadata, objects, text

TEMPLATE_AT = {
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Kind -> where its pod template stands."""


def pods_in(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods a manifest stands for, one each; a List is looked into; other kinds have none.

    A pod of a template is named and owned as its controller would do it, so that it is decided on
    as the pod that will be created.
    """
    kind = text(manifest.get("kind"))
    if kind == "Pod":
        yield dict(manifest)
    elif kind.endswith("List"):
        for item in objects(manifest.get("items")):
            yield from pods_in(item)
    elif kind in TEMPLATE_AT:
        template: Mapping[str, Any] = manifest
        for member in TEMPLATE_AT[kind]:
            template = mapping(template.get(member))
        name = text(metadata(manifest).get("name"))
        meta = {
            **mapping(template.get("metadata")),
            "generateName": f"{name}-",
            "ownerReferences": [{"kind": kind, "name": name, "controller": True}],
        }
        if namespace := text(metadata(manifest).get("namespace")):
            meta["namespace"] = namespace
        yield {"apiVersion": "v1", "kind": "Pod", **template, "metadata": meta}
