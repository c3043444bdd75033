"""The reference page of the kind GpuNode, made from its CustomResourceDefinition."""  # noqa: INP001  pages, no package

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from docs._markdown import NOTE, code, table

DEPLOY = Path(__file__).parents[1] / "deploy"
CRD = DEPLOY / "kustomize/components/agent/crd.yaml"
"""What the API server is told; the page says the same."""

_HEAD = ["field", "type", "meaning"]


def definition() -> Mapping[str, Any]:
    """The CustomResourceDefinition."""
    found: Mapping[str, Any] = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    return found


def chart_copy() -> dict[Path, str]:
    """For the chart, which cannot read the folder of kustomize."""
    return {DEPLOY / "chart/files/gpunodes.yaml": CRD.read_text(encoding="utf-8")}


def gpu_node() -> str:
    """docs/reference/gpunode.md."""
    spec = definition()["spec"]
    [version] = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    columns = [
        [each["name"], code(each["jsonPath"]), each.get("description", "")]
        for each in version["additionalPrinterColumns"]
    ]
    names = spec["names"]
    return (
        f"{NOTE}# GpuNode\n\n"
        f"`{spec['group']}/{version['name']}`, kind `{names['kind']}`, cluster-scoped, "
        f"`kubectl get {names['plural']}` or `{names['shortNames'][0]}`. Written by\n"
        "[the node agent](../explanation/agent.md), each its own, by server-side apply; read by migfit.\n\n"
        f"{schema['description']}\n\n"
        f"## Columns\n\n{table(['column', 'from', 'meaning'], columns)}\n"
        "Columns from `Driver` to `Holders` with `-o wide`.\n\n"
        f"## Fields\n\n{table(_HEAD, list(_rows(schema['properties']['status'], '.status')))}"
    )


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[list[str]]:
    for name, field in schema.get("properties", {}).items():
        at, kind, inner = f"{path}.{name}", field["type"], field
        if kind == "array":
            inner = field["items"]
            at, kind = f"{at}[]", f"list of {inner['type']}"
        told = field.get("description", "")
        if values := inner.get("enum"):
            told += f" One of {', '.join(map(code, values))}."
        yield [code(at), field.get("format", kind), told]
        yield from _rows(inner, at)


def paths() -> list[str]:
    """Every field there is, as the page names it."""
    [version] = definition()["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    return [row[0].strip("`") for row in _rows(status, ".status")]
