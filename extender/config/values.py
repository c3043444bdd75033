"""The single values a configuration is made of: for each its pattern, its check and its error text.

Each is an annotated type, so that the JSON Schema takes the pattern from the place where the
loader takes its check. A check gets a value of the right JSON type and says what is wrong with it.
Patterns are written in what Python's and ECMA 262's regular expressions have in common.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from extender.config.problem import shown
from extender.core.quantity import (
    MAX_FOOTPRINT,
    MAX_HEADROOM,
    MIB,
    QuantityError,
    footprint_bytes,
    fraction,
)

LEAVE = "Leave"
"""`whenUnknown`: a pod without a footprint stays as it is."""
MIG_PREFIX = "nvidia.com/mig-"
"""The device plugin's resource names under strategy `mixed`: this and the profile, `+` as `.`."""

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_KEY = rf"((?=[^/]{{1,253}}/){_SUBDOMAIN}/)?{_NAME}"
_SLICE = r"[1-7]g\.[1-9][0-9]{0,3}gb"
_DURATION = re.compile(r"(?:([0-9]{1,5})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,9})s)?")
_NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)"
_QUANTITY = rf"\+?(?=[0-9.]*[1-9]){_NUMBER}(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]+)?"
_AMOUNT = {"maxLength": 64, "minimum": MIB, "maximum": MAX_FOOTPRINT}
"""Bounds of a quantity in the JSON Schema; `minimum` and `maximum` are for bare numbers, bytes."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a value is written; stands in `Meta.extra["spelling"]`."""

    say: str
    """What to do about a value that is written otherwise: the end of an error line."""
    example: str
    check: Callable[[Any], str | None]
    """What is wrong with a value of the right JSON type, or None."""


def spelled(pattern: str, *, say: str, example: str, longest: int = 253) -> Meta:
    """Text that matches the pattern as a whole."""
    compiled = re.compile(pattern)

    def check(value: str) -> str | None:
        good = len(value) <= longest and compiled.fullmatch(value)
        return None if good else f"{shown(value)}: {say}"

    return Meta(
        extra={"spelling": Spelling(say, example, check)},
        extra_json_schema={"pattern": f"^({pattern})$", "maxLength": longest},
    )


def computed(parse: Callable[[Any], object], *, say: str, example: str, **schema: object) -> Meta:
    """Text or a number that `parse` takes; its ValueError is the whole message."""

    def check(value: str | float) -> str | None:
        try:
            parse(value)
        except ValueError as error:
            return str(error)
        return None

    return Meta(extra={"spelling": Spelling(say, example, check)}, extra_json_schema=schema)


def usable_mib(value: str | float) -> int:
    """Usable memory of a slice, from a quantity, in MiB rounded down: never more than there is."""
    return footprint_bytes(value) // MIB


def when_unknown_bytes(value: str | float) -> int | None:
    """Footprint to assume, in bytes; None for `Leave`.

    Raises:
        QuantityError: neither `Leave` nor a quantity.
    """
    if value == LEAVE:
        return None
    try:
        return footprint_bytes(value)
    except QuantityError as error:
        raise QuantityError(f"{error}, or {LEAVE}") from None


def seconds(text: str) -> float:
    """`1h30m` in seconds.

    Raises:
        ValueError: not a duration.
    """
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{shown(text)}: not a duration: write it as in 3m, 30s, 24h or 1h30m")
    hours, minutes, rest = (int(group or 0) for group in found.groups())
    return float(hours * 3600 + minutes * 60 + rest)


def resource_name(name: str) -> str:
    """The MIG resource of a profile (`1g.10gb+me`); a resource name stays as it is."""
    return name if name.startswith(MIG_PREFIX) else MIG_PREFIX + name.replace("+", ".")


Footprint = Annotated[
    str | int | float,
    computed(
        footprint_bytes,
        say="write a quantity such as 9.6G, 13400Mi or 12Gi",
        example="9.6G",
        pattern=f"^{_QUANTITY}$",
        **_AMOUNT,
    ),
]
UsableMemory = Annotated[
    str | int | float,
    computed(
        footprint_bytes,
        say="write a quantity such as 20992Mi",
        example="20992Mi",
        pattern=f"^{_QUANTITY}$",
        **_AMOUNT,
    ),
]
WhenUnknown = Annotated[
    str | int | float,
    computed(
        when_unknown_bytes,
        say="write Leave, or the footprint to assume such as 12Gi",
        example="Leave",
        pattern=f"^({LEAVE}|{_QUANTITY})$",
        **_AMOUNT,
    ),
]
Headroom = Annotated[
    str | int | float,
    computed(
        fraction,
        say="write a percentage such as 20%, or a fraction such as 0.2",
        example="20%",
        pattern=f"^{_NUMBER}%?$",
        maxLength=64,
        minimum=0,
        maximum=MAX_HEADROOM,
    ),
]
Duration = Annotated[
    str,
    spelled(
        rf"(?=.*[1-9]){_DURATION.pattern}",
        say="write a duration above zero such as 3m, 30s, 24h or 1h30m",
        example="3m",
    ),
]
EntryName = Annotated[
    str,
    spelled(
        r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*",
        say="a name is letters, digits and . _ : / @ + -, a letter or digit first",
        example="parakeet-1.1b",
    ),
]
GpuResource = Annotated[
    str,
    spelled(
        rf"(?!requests\.)(?!nvidia\.com/mig-)(?!.*kubernetes\.io/)(?=[^/]{{1,244}}/){_SUBDOMAIN}/{_NAME}",
        say="write the extended resource of a whole GPU, as in nvidia.com/gpu",
        example="nvidia.com/gpu",
        longest=308,
    ),
]
SchedulerName = Annotated[
    str,
    spelled(
        _SUBDOMAIN,
        say="a scheduler's name is lower-case letters, digits, - and .",
        example="volcano",
    ),
]
InjectedScheduler = Annotated[
    str,
    spelled(
        rf"({_SUBDOMAIN})?",
        say="a scheduler's name is lower-case letters, digits, - and .; empty for none",
        example="migfit-scheduler",
    ),
]
NamespaceGlob = Annotated[
    str,
    spelled(
        r"[a-z0-9*?!\[\]-]+",
        say="namespaces are lower-case letters, digits and -, with the wildcards * ? [a-z] [!a-z]",
        example="team-*",
    ),
]
ImageGlob = Annotated[
    str,
    spelled(
        r"[!-~]+",
        say="write an image without spaces, as in nvcr.io/nim/nvidia/parakeet-*",
        example="nvcr.io/nim/nvidia/parakeet-*",
        longest=1024,
    ),
]
Kind = Annotated[
    str,
    spelled(
        r"[A-Z][A-Za-z0-9]{0,62}",
        say="write a kind as Kubernetes does, as in Deployment, StatefulSet or Job",
        example="Deployment",
    ),
]
LabelKey = Annotated[
    str,
    spelled(
        _LABEL_KEY,
        say="not a label key of Kubernetes: write as in app or example.com/team",
        example="example.com/team",
        longest=317,
    ),
]
LabelValue = Annotated[
    str,
    spelled(
        rf"({_NAME})?",
        say="not a label value of Kubernetes: at most 63 letters, digits and - _ .",
        example="speech",
        longest=63,
    ),
]
TolerationKey = Annotated[
    str,
    spelled(
        rf"({_LABEL_KEY})?",
        say="not a taint key of Kubernetes: write as in nvidia.com/gpu",
        example="nvidia.com/gpu",
        longest=317,
    ),
]
Product = Annotated[
    str,
    spelled(
        _NAME,
        say="write the node label nvidia.com/gpu.product, as in NVIDIA-B200",
        example="NVIDIA-B200",
        longest=63,
    ),
]
Profile = Annotated[
    str,
    spelled(
        rf"{_SLICE}([+-][a-z]{{1,8}}(\.[a-z]{{1,8}})?)?",
        say="write a MIG profile as NVML does, as in 1g.23gb or 1g.10gb+me",
        example="1g.23gb",
        longest=63,
    ),
]
SliceName = Annotated[
    str,
    spelled(
        rf"{_SLICE}([+-][a-z]{{1,8}}(\.[a-z]{{1,8}})?)?"
        rf"|nvidia\.com/mig-{_SLICE}([.-][a-z]{{1,8}}(\.[a-z]{{1,8}})?)?",
        say="write a MIG profile or MIG resource, as in 1g.10gb+me or nvidia.com/mig-1g.10gb.me",
        example="nvidia.com/mig-1g.10gb",
        longest=63,
    ),
]
