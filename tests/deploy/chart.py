"""What helm makes of the chart, and kubectl of the folders for kustomize."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING

import yaml

from tests.deploy.helm import find
from tests.deploy.manifests import DEPLOY, JSON, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CHART = DEPLOY / "chart"
KUSTOMIZE = DEPLOY / "kustomize"
RELEASE = "migfit"
KUBERNETES = "v1.36.3"
"""What the cluster is taken for, where there is none."""
OVERLAYS: Mapping[str, JSON] = {
    "cert-manager": {"certificate": {"from": "CertManager"}},
    "webhook-only": {"packing": "WebhookOnly"},
    "second-scheduler": {"packing": "SecondScheduler"},
    "default-scheduler": {"packing": "DefaultScheduler"},
    "agent": {"agent": {"enabled": True}},
}
"""Overlay -> the values that say the same to the chart."""
MONITORING: JSON = {
    "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "dashboard": {"enabled": True},
}
"""The values that say the same as the component `monitoring`, which has no overlay."""
FOREIGN = ("cert-manager.io/v1", "monitoring.coreos.com/v1")
"""Kinds that kubernetes-validate does not know: cert-manager's and the Prometheus operator's."""


class RefusedError(Exception):
    """What helm said on stderr."""


def helm(*args: str | Path, values: JSON | None = None) -> str:
    """Runs helm with these values on its stdin; its stdout.

    Raises:
        RefusedError: it failed.
    """
    if values is not None:
        args = (*args, "--values", "-")
    done = subprocess.run(
        [find("helm"), *args],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise RefusedError(done.stderr)
    return done.stdout


def rendered(values: JSON | None = None, *, namespace: str = NAMESPACE) -> list[JSON]:
    """The objects that an installation with these values consists of."""
    flags = ("--namespace", namespace, "--kube-version", KUBERNETES)
    text = helm("template", RELEASE, CHART, *flags, values=values or {})
    return [item for item in yaml.load_all(text, yaml.CSafeLoader) if item]


def notes(folder: Path, values: JSON | None = None) -> str:
    """What is told after an installation with these values, as `helm template` does not show it.

    Args:
        folder: an empty one.
        values: of the installation.
    """
    copy = folder / "chart"
    shutil.copytree(CHART, copy, dirs_exist_ok=True)
    shutil.copy(CHART / "templates" / "NOTES.txt", copy / "files" / "NOTES.txt")
    text = '{{ dict "kind" "Told" "text" (tpl (.Files.Get "files/NOTES.txt") .) | toYaml }}'
    (copy / "templates" / "told.yaml").write_text(text)
    flags = ("--namespace", NAMESPACE, "--show-only", "templates/told.yaml")
    told = yaml.safe_load(helm("template", RELEASE, copy, *flags, values=values or {}))
    return str(told["text"])


@cache
def kustomized(folder: Path) -> tuple[JSON, ...]:
    """The objects of a folder for kustomize."""
    text = subprocess.check_output([find("kubectl"), "kustomize", folder], text=True)
    return tuple(yaml.load_all(text, yaml.CSafeLoader))


def named(items: Iterable[JSON]) -> dict[tuple[str, str], JSON]:
    """Kind and name -> object; no two have the same."""
    pairs = [((item["kind"], item["metadata"]["name"]), item) for item in items]
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found
