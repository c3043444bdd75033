"""The ConfigMap: every setting with its default, and examples that would be taken."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import yaml

from extender.config import DEFAULT_DOCUMENT, load
from extender.config.types import MigfitConfiguration
from extender.core.policy import Mode
from extender.server.configuration import KEY
from tests.deploy.manifests import one

EXAMPLES = "# Examples, in place of what is above:\n"


def text() -> str:
    data = one("ConfigMap")["data"]
    assert list(data) == [KEY]
    return str(data[KEY])


def test_a_first_install_only_looks_and_all_else_is_the_default() -> None:
    policy = load(text())

    assert policy.mode is Mode.DRY_RUN
    assert replace(policy, mode=Mode.ENFORCE) == replace(
        load(DEFAULT_DOCUMENT), revision=policy.revision
    )


def test_every_setting_is_there_to_be_changed() -> None:
    def keys(value: object, path: str = "") -> set[str]:
        if not isinstance(value, dict):
            return {path}
        return set().union({path}, *(keys(item, f"{path}.{key}") for key, item in value.items()))

    written = yaml.safe_load(text())
    defaults = msgspec.to_builtins(msgspec.convert(written, MigfitConfiguration))

    assert keys(written) == keys(defaults)


def test_each_setting_is_explained() -> None:
    plain = text().partition(EXAMPLES)[0].splitlines()
    settings = [number for number, line in enumerate(plain) if line and line[0] not in " #"]

    unexplained = [
        plain[number]
        for number in settings
        if not plain[number - 1].startswith("#") and "#" not in plain[number]
    ]

    assert unexplained == ["apiVersion: migfit.io/v1alpha1", "kind: MigfitConfiguration"]


def test_the_examples_are_good_in_place_of_the_defaults() -> None:
    commented = text().partition(EXAMPLES)[2].splitlines()
    assert all(line.startswith("#") for line in commented)
    examples = yaml.safe_load("\n".join(line[2:] for line in commented))

    policy = load(yaml.safe_dump(yaml.safe_load(text()) | examples))

    assert examples.keys() == {"usable", "pools", "models", "rules"}
    assert policy.usable_mib
    assert policy.pools
    assert policy.models
    assert policy.rules
