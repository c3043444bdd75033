"""What lies under deploy/, read as it is."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from extender.cli.serve import serve
from extender.server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

JSON: TypeAlias = dict[str, Any]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kustomize" / "base"
SCHEDULERS = DEPLOY / "scheduler"
NAMESPACE = "migfit-system"


def documents(file: Path) -> list[JSON]:
    """The YAML documents of one file."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


@cache
def base() -> tuple[JSON, ...]:
    """The objects of the base, in the order in which it lists them."""
    (kustomization,) = documents(BASE / "kustomization.yaml")
    return tuple(item for name in kustomization["resources"] for item in documents(BASE / name))


def one(kind: str, name: str = "") -> JSON:
    """The only object of that kind, or of that kind and name, in the base."""
    (found,) = [
        item for item in base() if item["kind"] == kind and name in ("", item["metadata"]["name"])
    ]
    return found


def pod_template() -> JSON:
    """The pod template of the Deployment."""
    template: JSON = one("Deployment")["spec"]["template"]
    return template


def container() -> JSON:
    """The only container of the Deployment."""
    (only,) = pod_template()["spec"]["containers"]
    return dict(only)


def served_by(args: Sequence[str]) -> Settings:
    """What `migfit serve` makes of a command line without `migfit`; click.UsageError if nothing."""
    command, *flags = args
    assert command == "serve"
    told = serve.make_context("serve", flags).params
    return Settings(**{field.name: told[field.name] for field in fields(Settings)})


def project() -> JSON:
    """The table `project` of pyproject.toml."""
    table: JSON = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table
