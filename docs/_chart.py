"""The chart's schema and README, from its values.yaml and what is known of the configuration."""  # noqa: INP001  pages, no package

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from docs._deploy import DEPLOY
from docs._markdown import NOTE, code, table
from extender.config.schema import json_schema

JSON: TypeAlias = dict[str, Any]

CHART = DEPLOY / "chart"
MAPS = {"nodeSelector", "podLabels", "podAnnotations", "labels"}
"""Values whose keys are the user's own."""

_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}
_NAMES = {"type": "array", "items": _NAME, "uniqueItems": True}
_COUNT = {"type": "integer", "minimum": 1, "maximum": 100}
_QUANTITY = {"type": ["string", "number"], "pattern": "^[0-9]+(\\.[0-9]+)?(m|[kMGT]i?)?$"}
_RESOURCES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"cpu": _QUANTITY, "memory": _QUANTITY},
}
_TOLERATION = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "key": {"type": "string"},
        "operator": {"enum": ["Exists", "Equal"]},
        "value": {"type": "string"},
        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        "tolerationSeconds": {"type": "integer"},
    },
}
RULES: Mapping[str, JSON] = {
    "packing": {"enum": ["None", "WebhookOnly", "SecondScheduler", "DefaultScheduler"]},
    "certificate.from": {"enum": ["SelfManaged", "CertManager"]},
    "replicas": _COUNT,
    "repository": {"minLength": 1},
    "tag": {"pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"},
    "digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "pullSecrets": _NAMES,
    "clientsSecret": _NAME,
    "runtimeClassName": {"pattern": "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"},
    "requests": _RESOURCES,
    "limits": _RESOURCES,
    "endpoint": {"pattern": "^(https?://[][A-Za-z0-9._:/%-]+)?$"},
    "callers": {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]+$"}},
    "scrapers": _NAMES,
    "tolerations": {"type": "array", "items": _TOLERATION},
}
"""What a value may be, beyond the type of its default: by path, or by the last word of it."""


@dataclass(frozen=True, slots=True)
class Value:
    """One entry of values.yaml.

    Attributes:
        path: `image.tag`.
        default: what stands there; None for a section.
        text: the comment above it or beside it.
    """

    path: str
    default: object
    text: str


def values() -> list[Value]:
    """All entries, sections included, in their order."""
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    document = yaml.safe_load("\n".join(lines))
    found: list[Value] = []
    stack: list[str] = []
    above: list[str] = []
    for line in lines:
        entry = re.fullmatch(r"( *)(\w+):(?: +([^#]*?))?(?: *# (.*))?", line)
        if comment := re.fullmatch(r" *# (.*)", line):
            above.append(comment[1])
        elif entry:
            stack[len(entry[1]) // 2 :] = [entry[2]]
            default = document
            for key in stack:
                default = default[key]
            text = " ".join([*above, *filter(None, [entry[4]])])
            found.append(Value(".".join(stack), default if entry[3] else None, text))
            above = []
        else:
            above = []
    return found


# --- schema --------------------------------------------------------------------------------------


def values_schema() -> JSON:
    """deploy/chart/values.schema.json: draft 7, which Helm 3 and 4 know."""
    document = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    document.pop("config")
    texts = {value.path: value.text for value in values()}
    schema = _schema("", document, texts)
    config, definitions = _configuration()
    schema["properties"]["config"] = config | {"description": texts["config"]}
    # Helm hands these to every chart.
    schema["properties"]["global"] = {"type": "object", "description": "Not used."}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart migfit",
        **schema,
        "definitions": definitions,
    }


def _schema(path: str, default: object, texts: Mapping[str, str]) -> JSON:
    name = path.rpartition(".")[2]
    text = {"description": texts[path]} if texts.get(path) else {}
    rule = RULES.get(path, RULES.get(name, {}))
    if name in MAPS:
        return {"type": "object", **text, "additionalProperties": {"type": "string"}}
    if isinstance(default, dict) and not rule:
        properties = {
            key: _schema(f"{path}.{key}".lstrip("."), item, texts) for key, item in default.items()
        }
        return {"type": "object", **text, "additionalProperties": False, "properties": properties}
    kind = {} if "enum" in rule else {"type": _type(default)}
    return kind | rule | text | {"default": default}


def _type(default: object) -> str:
    kinds = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    return kinds[type(default)]


def _configuration() -> tuple[JSON, JSON]:
    """The schema of `config`, and what it refers to: as of the configuration, but for what we set."""
    definitions = _portable(json_schema()["$defs"])
    config = definitions.pop("MigfitConfiguration")
    for key in ("apiVersion", "kind"):
        del config["properties"][key]
    config.pop("required")
    config.pop("title")
    config["properties"]["mode"] = {
        "enum": [*definitions.pop("Mode")["enum"], ""],
        "description": "Empty: as `firstSteps` says.",
        "default": "",
    }
    # Its own pattern is one of those that Helm cannot read, and it is part of an expression of ours.
    config["properties"]["gpuResource"]["pattern"] = "^[a-z0-9.-]+/[A-Za-z0-9_.-]+$"
    definitions["Mode"] = {"enum": [mode for mode in config["properties"]["mode"]["enum"] if mode]}
    return config, definitions


def _portable(schema: Any) -> Any:
    """For Helm: its regular expressions have no look-ahead; the loader sees to what those forbid."""
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    portable = {key: _portable(item) for key, item in schema.items()}
    if isinstance(portable.get("pattern"), str) and re.search(r"\(\?[=!<]", portable["pattern"]):
        del portable["pattern"]
    if isinstance(portable.get("$ref"), str):
        portable["$ref"] = portable["$ref"].replace("#/$defs/", "#/definitions/")
    return portable


# --- Chart.yaml -----------------------------------------------------------------------------------


def chart_yaml() -> str:
    """deploy/chart/Chart.yaml, with the newest part of the changelog as Artifact Hub wants it."""
    text = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    changes = "".join(
        f"    - kind: {kind}\n      description: {json.dumps(said, ensure_ascii=False)}\n"
        for kind, said in newest_changes()
    )
    pattern = r"(?<=  artifacthub\.io/changes: \|\n)(?:    .*\n)*"
    return re.sub(pattern, lambda _: changes, text)


def newest_changes() -> list[tuple[str, str]]:
    """Kind (`added`) and text of each entry in the newest section of the changelog."""
    log = (DEPLOY.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.split(r"^## ", log, flags=re.MULTILINE)[1]
    found: list[tuple[str, str]] = []
    for part in re.split(r"^### ", newest, flags=re.MULTILINE)[1:]:
        kind, _, entries = part.partition("\n")
        said = re.split(r"^- ", entries, flags=re.MULTILINE)[1:]
        found += [(kind.strip().lower(), " ".join(entry.split())) for entry in said]
    return found


# --- README --------------------------------------------------------------------------------------


def chart_readme() -> str:
    """deploy/chart/README.md."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    rows = [
        [code(value.path), code(json.dumps(value.default)), _meaning(value)]
        for value in values()
        if value.default is not None
    ]
    return (
        f"{NOTE}# The chart {about['name']}\n\n{about['description']}. Kubernetes "
        f"{about['kubeVersion'].removeprefix('>=').removesuffix('.0-0')} or newer, Helm 3 or 4.\n\n"
        "```console\n"
        "$ helm install migfit deploy/chart --namespace migfit-system --create-namespace\n"
        "```\n\n"
        "* [In ten minutes](../../docs/tutorial/first-slice.md).\n"
        "* [Install](../../docs/how-to/install.md).\n"
        "* [Which of three ways to schedule](../../docs/how-to/schedule.md): the value `packing`.\n"
        "* [Upgrade](../../docs/how-to/upgrade.md), [remove](../../docs/how-to/remove.md).\n\n"
        "## Values\n\n"
        "A value that is not in this table, or not of its kind, is refused with its path.\n\n"
        f"{table(['value', 'default', 'meaning'], rows)}"
    )


def _meaning(value: Value) -> str:
    """Its comment, or that of the section it stands in."""
    if value.text:
        return value.text
    sections = {each.path: each.text for each in values()}
    return next(text for path in _above(value.path) if (text := sections.get(path)))


def _above(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path
