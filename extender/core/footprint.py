"""Step 3: how much GPU memory each container needs, and who says so."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from extender.core.catalogue import profile_name, shape
from extender.core.observed import Peak
from extender.core.pod import Container
from extender.core.policy import Model, Policy
from extender.core.quantity import (
    QuantityError,
    bandwidth_bytes_s,
    footprint_bytes,
    fraction,
    need_mib,
)
from extender.core.reason import Reason
from extender.core.subject import MODE_LABEL, MODE_WISHES, Subject, image_matches

FOOTPRINT_ANNOTATION = "migfit.io/gpu-memory"
MODEL_ANNOTATION = "migfit.io/model"
HEADROOM_ANNOTATION = "migfit.io/headroom"
MIN_COMPUTE_ANNOTATION = "migfit.io/min-compute"
MIN_BANDWIDTH_ANNOTATION = "migfit.io/min-bandwidth"
PROFILE_ANNOTATION = "migfit.io/profile"
CONTAINER_PREFIX = "gpu-memory.migfit.io/"

_MODELS_TOLD = 3
_LONGEST_PROFILE = 63
"""Characters of a label value, and so of anything that a node could offer."""


def container_annotation(container: str) -> str:
    """The annotation with the footprint of one container."""
    return CONTAINER_PREFIX + container


class Want(NamedTuple):
    """What one GPU container needs of a slice."""

    need_mib: int | None
    """None with an explicit profile and no footprint."""
    profile: str | None
    """The only profile the pod accepts."""
    min_compute: int
    min_bandwidth_bytes_s: int


class Footprint(NamedTuple):
    """A container's want, and where its footprint came from."""

    container: Container
    want: Want
    footprint_bytes: int | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Undeclared:
    """Why no want could be made of the pod."""

    reason: Reason
    message: str


class _AnnotationError(ValueError):
    """An annotation or label of ours that cannot be used; the message names the key and a good value."""

    def __init__(self, message: str, reason: Reason = Reason.BAD_ANNOTATION) -> None:
        super().__init__(message)
        self.reason = reason


_NOTHING: Mapping[str, Peak] = {}


def footprints(
    subject: Subject, policy: Policy, observed: Mapping[str, Peak] = _NOTHING
) -> tuple[Footprint, ...] | Undeclared:
    """The want of every GPU container, or why there is none.

    Args:
        subject: the pod.
        policy: the configuration.
        observed: container -> what pods of the workload were seen to use, where that may raise a
            declared footprint.
    """
    try:
        return _read(subject, policy, observed)
    except _AnnotationError as bad:
        return Undeclared(bad.reason, str(bad))


def _read(
    subject: Subject, policy: Policy, observed: Mapping[str, Peak]
) -> tuple[Footprint, ...] | Undeclared:
    for of, labels in (("", subject.labels), (" of the namespace", subject.home.labels)):
        if (wish := labels.get(MODE_LABEL, "")) not in MODE_WISHES:
            message = f"label {MODE_LABEL}{of}: {wish!r:.60} is no mode; write ignore or dry-run"
            raise _AnnotationError(message)
    for key in subject.annotations:
        if key.startswith(CONTAINER_PREFIX):
            named = key.removeprefix(CONTAINER_PREFIX)
            if named not in [c.name for c in subject.containers]:
                instead = container_annotation(subject.gpu[0].name)
                message = f"{key}: the pod has no such container; write {instead:.100}"
                raise _AnnotationError(message)
    rule = subject.rule
    profile = _annotated(subject, PROFILE_ANNOTATION, _profile)
    headroom = _annotated(subject, HEADROOM_ANNOTATION, fraction)
    if headroom is None:
        headroom = (
            rule.headroom if rule is not None and rule.headroom is not None else policy.headroom
        )
    compute = _annotated(subject, MIN_COMPUTE_ANNOTATION, _compute)
    bandwidth = _annotated(subject, MIN_BANDWIDTH_ANNOTATION, bandwidth_bytes_s) or 0
    found: list[Footprint] = []
    for container in subject.gpu:
        size, source, said_by = _size(subject, policy, container)
        if size is None and profile is None:
            return Undeclared(
                Reason.NO_FOOTPRINT,
                f"nothing says how much memory container {container.name} needs",
            )
        if size is not None and container.name in observed:
            raised = observed[container.name].footprint_bytes() or 0
            size, source = (raised, "observed") if raised > size else (size, source)
        want = Want(
            need_mib=None if size is None else need_mib(size, headroom),
            profile=profile,
            min_compute=_first(
                compute,
                said_by.min_compute if said_by is not None else None,
                rule.min_compute if rule is not None else None,
                policy.min_compute,
            ),
            min_bandwidth_bytes_s=bandwidth,
        )
        found.append(Footprint(container, want, size, source))
    return tuple(found)


def _size(
    subject: Subject, policy: Policy, container: Container
) -> tuple[int | None, str | None, Model | None]:
    """Footprint in bytes, its source, and the model that gave it; in the documented precedence."""
    for key in (container_annotation(container.name), FOOTPRINT_ANNOTATION):
        if (size := _annotated(subject, key, _footprint)) is not None:
            return size, "annotation", None
    if (named := subject.annotations.get(MODEL_ANNOTATION)) is not None:
        model = next((m for m in policy.models if m.name == named), None)
        if model is None:
            raise _AnnotationError(_no_model(named, policy), Reason.UNKNOWN_MODEL)
        return model.footprint_bytes, f"model:{model.name}", model
    rule = subject.rule
    if rule is not None and rule.footprint_bytes is not None:
        return rule.footprint_bytes, f"rule:{rule.name}", None
    for listed in policy.models:
        if listed.images and image_matches(listed.images, container):
            return listed.footprint_bytes, f"image:{listed.name}", listed
    if policy.when_unknown_bytes is not None:
        return policy.when_unknown_bytes, "whenUnknown", None
    return None, None, None


def _no_model(named: str, policy: Policy) -> str:
    """That a model is not listed, and some that are: those first that begin like it."""
    said = f"{MODEL_ANNOTATION}: no model {named!r:.60}"
    names = sorted(
        (model.name for model in policy.models),
        key=lambda name: name[:4].casefold() != named[:4].casefold(),
    )
    if not names:
        return f"{said}, nor any other; write {FOOTPRINT_ANNOTATION}: 9.6G or the like instead"
    more = " …" if len(names) > _MODELS_TOLD else ""
    return f"{said}; write {', '.join(names[:_MODELS_TOLD])}{more}"


# A deployment's replicas, and most deployments of one model, say the same.
_footprint = lru_cache(maxsize=1024)(footprint_bytes)


def _annotated(subject: Subject, key: str, parse: Callable[[str], Any]) -> Any:
    value = subject.annotations.get(key)
    if value is None:
        return None
    try:
        return parse(value)
    except QuantityError as error:
        raise _AnnotationError(f"{key}: {error}") from None


def _compute(value: str) -> int:
    if not re.fullmatch("[1-7]", value):
        raise QuantityError(f"{value!r:.40} is no number of compute slices; write 1 to 7")
    return int(value)


def _profile(value: str) -> str:
    # Names of profiles are remembered: never a long one, which any pod may carry.
    name = profile_name(value) if len(value) <= _LONGEST_PROFILE else ""
    if shape(name) is None:
        raise QuantityError(
            f"{value!r:.40} is no MIG profile; write 2g.20gb, 1g.10gb+me or the like"
        )
    return name


def _first(*values: int | None) -> int:
    return next((v for v in values if v is not None), 1)
