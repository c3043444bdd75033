"""NVIDIA's device plugin, as far as its DaemonSet tells."""

import re
from collections.abc import Iterator
from itertools import pairwise

from extender.core.doctor.evidence import JSON, Evidence, name_of, namespace_of
from extender.core.doctor.finding import Finding, Id
from extender.core.node import STRATEGY_LABEL
from extender.core.pod import containers, labels, mapping, text

IMAGE = re.compile(r"(?:^|/)(?:k8s|nvidia)-device-plugin(?=[:@]|$)")
"""What its image is called, by NVIDIA and by those who build their own."""
GFD = re.compile(r"gpu-feature-discovery|config-manager|mps-control")
"""Other programs in the same image."""
ANCHORED_SINCE = (0, 20)
"""The first release whose patterns for resource names are anchored (NVIDIA/k8s-device-plugin #1807)."""

_TAG = re.compile(r":v?(\d{1,6})\.(\d{1,6})")
_MIXED_UP = re.compile(r"nvidia\.com/(mig-[0-9.g]+b)(?:-me|\.gfx|\.me\.all)\.count")


def is_plugin(item: JSON) -> bool:
    """Whether a DaemonSet runs the device plugin."""
    return next(_containers(item), None) is not None


def check(evidence: Evidence) -> Iterator[Finding]:
    """Strategy and policy it was told, and what its release is known for."""
    for item in evidence.plugins:
        about = (f"DaemonSet {namespace_of(item)}/{name_of(item)}",)
        for image, settings in _containers(item):
            yield from _strategy(about, settings.get("MIG_STRATEGY"), evidence)
            policy = settings.get("SHARED_DEVICES_ALLOCATION_POLICY")
            if policy == "packed":
                yield Finding(Id.PLUGIN_POLICY, about, "sharedDevicesAllocationPolicy is packed.")
            yield from _profiles(about, image, evidence)


def _containers(item: JSON) -> Iterator[tuple[str, dict[str, str]]]:
    """Image and settings of each container that is the plugin; flags win over the environment."""
    template = mapping(mapping(item.get("spec")).get("template"))
    for container in containers(template):
        image = text(container.raw.get("image"))
        told = _words(container.raw)
        if not IMAGE.search(image) or GFD.search(container.name + " ".join(told)):
            continue
        yield image, {**_environment(container.raw), **_flags(told)}


def _words(raw: JSON) -> list[str]:
    return [
        text(word)
        for part in ("command", "args")
        if isinstance(listed := raw.get(part), list)
        for word in listed
    ]


def _environment(raw: JSON) -> dict[str, str]:
    listed = raw.get("env")
    return {
        text(each.get("name")): text(each.get("value"))
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict)
    }


def _flags(words: list[str]) -> dict[str, str]:
    """`--mig-strategy=mixed` or `--mig-strategy mixed`, under the name of its variable."""
    found: dict[str, str] = {}
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            found[flag[2:].replace("-", "_").upper()] = value if equals else following
    return found


def _strategy(
    about: tuple[str, ...], strategy: str | None, evidence: Evidence
) -> Iterator[Finding]:
    if strategy not in {"none", "single"}:  # not told here: by its configuration file, or mixed
        return
    mixed = sum(labels(node).get(STRATEGY_LABEL) == "mixed" for node in evidence.nodes)
    if mixed:
        what = f"It was told MIG strategy {strategy}; {mixed} nodes are labelled mixed."
        yield Finding(Id.PLUGIN_STRATEGY, about, what)


def _profiles(about: tuple[str, ...], image: str, evidence: Evidence) -> Iterator[Finding]:
    tag = _TAG.search(image)
    if tag is None or (int(tag[1]), int(tag[2])) >= ANCHORED_SINCE:
        return
    named = sorted(
        {
            label.removesuffix(".count")
            for node in evidence.nodes
            for label in labels(node)
            if _MIXED_UP.fullmatch(label)
        }
    )
    if named:
        what = f"{image.rpartition('/')[2]:.60}; nodes have {', '.join(named)}."
        yield Finding(Id.PLUGIN_PROFILES, about, what)
