"""The chart: the same objects as kustomize makes, under the names and with the fields users expect."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from extender.config import load
from tests.deploy.chart import KUSTOMIZE, OVERLAYS, kustomized, named, rendered
from tests.deploy.manifests import JSON, NAMESPACE, base

if TYPE_CHECKING:
    from collections.abc import Iterable

HELM_ONLY = {"app.kubernetes.io/managed-by", "helm.sh/chart", "checksum/configuration"}


def comparable(items: Iterable[JSON]) -> dict[tuple[str, str], JSON]:
    """Without the marks that Helm leaves; configurations as they are understood."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            kept = {key: plain(item) for key, item in value.items() if key not in HELM_ONLY}
            return {key: item for key, item in kept.items() if item != {}}
        return [plain(item) for item in value] if isinstance(value, list) else value

    found = named(deepcopy(list(items)))
    data = found["ConfigMap", "migfit-config"]["data"]
    data["config.yaml"] = replace(load(data["config.yaml"]), revision="")
    found.pop(("Namespace", NAMESPACE), None)  # helm makes it itself
    return {key: plain(item) for key, item in found.items()}  # type: ignore[misc]


def same(ours: Iterable[JSON], theirs: Iterable[JSON]) -> None:
    """One by one, so that a failure shows the one object."""
    made, wanted = comparable(ours), comparable(theirs)
    assert made.keys() == wanted.keys()
    for key, item in made.items():
        assert item == wanted[key]


def test_by_default_it_is_what_the_base_is_but_for_the_namespace_that_helm_makes() -> None:
    same(rendered(), base())


NOT_IN_THE_CHART = "agent"
"""Has a namespace of its own, which a release does not make."""
FOR_OPERATORS = "monitoring"
"""A component without an overlay: its kinds are the Prometheus operator's, which not everybody has."""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_the_values_of_an_overlay_it_is_what_the_overlay_is(overlay: str) -> None:
    same(rendered(OVERLAYS[overlay]), kustomized(KUSTOMIZE / "overlays" / overlay))


def test_there_are_values_for_every_overlay() -> None:
    covered = {*OVERLAYS, NOT_IN_THE_CHART}
    assert {folder.name for folder in (KUSTOMIZE / "overlays").iterdir()} == covered
    assert {folder.name for folder in (KUSTOMIZE / "components").iterdir()} == {
        *covered,
        FOR_OPERATORS,
    }
