"""The few paths of a Pod that matter here, read from plain JSON.

Every accessor is total: whatever JSON stands where a map, a list or a string is expected, it answers
with an empty one. The API server validates pods only after us, so nothing may be taken for granted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from extender.core.catalogue import is_mig_resource
from extender.core.quantity import QuantityError, milli, parse, whole

Pod = Mapping[str, Any]
"""A Pod as decoded from JSON."""

_NOTHING: Mapping[str, Any] = {}


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def objects(value: object) -> Sequence[Mapping[str, Any]]:
    """The JSON objects of a list; anything else is passed over."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else ()


def text(value: object) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> Mapping[str, str]:
    """The members of a JSON object that are strings."""
    return {key: item for key, item in mapping(value).items() if isinstance(item, str)}


def metadata(pod: Pod) -> Mapping[str, Any]:
    """The pod's metadata."""
    return mapping(pod.get("metadata"))


def labels(pod: Pod) -> Mapping[str, str]:
    """The pod's labels."""
    return texts(metadata(pod).get("labels"))


def annotations(pod: Pod) -> Mapping[str, str]:
    """The pod's annotations."""
    return texts(metadata(pod).get("annotations"))


def annotation_of(pod: Pod, key: str) -> str | None:
    """One of the pod's annotations."""
    value = mapping(metadata(pod).get("annotations")).get(key)
    return value if isinstance(value, str) else None


def spec(pod: Pod) -> Mapping[str, Any]:
    """The pod's spec."""
    return mapping(pod.get("spec"))


class ContainerKind(StrEnum):
    """How a container counts in what a pod asks of a node."""

    INIT = "init"
    SIDECAR = "sidecar"
    """An init container with `restartPolicy: Always`: it runs as long as the pod."""
    REGULAR = "regular"


@dataclass(frozen=True, slots=True)
class Container:
    """One container that may hold resources, and where it stands in the pod."""

    name: str
    kind: ContainerKind
    pointer: str
    """JSON pointer to the container: `/spec/containers/0`."""
    raw: Mapping[str, Any]
    limits: Mapping[str, Any]
    requests: Mapping[str, Any]
    """As written; the API server copies limits into requests that are missing."""

    def count(self, resource: str) -> int:
        """How many of an extended resource the container asks for.

        0 for none, for nonsense, and for what the API server refuses (a part of one, a request that
        is not the limit): a rewrite must not make of that what it takes.
        """
        asked = self.limits.get(resource, self.requests.get(resource))
        if asked is None:
            return 0
        request = self.requests.get(resource, asked)
        if asked == request == "1":  # by far the most frequent
            return 1
        try:
            count = parse(asked)
            refused = count.denominator > 1 or count != parse(request)
        except QuantityError:
            return 0
        return 0 if refused else int(count)

    def mig_counts(self) -> dict[str, int]:
        """MIG resource name -> count, of those asked for."""
        return {
            name: count
            for name in {**self.requests, **self.limits}
            if is_mig_resource(name) and (count := self.count(name)) > 0
        }


def containers(pod: Pod) -> list[Container]:
    """Regular and init containers, in the order of the pod. Ephemeral ones cannot ask for resources."""
    body = spec(pod)
    found: list[Container] = []
    for key in ("initContainers", "containers"):
        listed = body.get(key)
        if not isinstance(listed, list):
            continue
        for position, raw in enumerate(listed):
            if not isinstance(raw, dict):
                continue
            if key == "containers":
                kind = ContainerKind.REGULAR
            elif raw.get("restartPolicy") == "Always":
                kind = ContainerKind.SIDECAR
            else:
                kind = ContainerKind.INIT
            resources = mapping(raw.get("resources"))
            found.append(
                Container(
                    name=text(raw.get("name")),
                    kind=kind,
                    pointer=f"/spec/{key}/{position}",
                    raw=raw,
                    limits=mapping(resources.get("limits")),
                    requests=mapping(resources.get("requests")),
                )
            )
    return found


def total(per_container: Sequence[tuple[ContainerKind, int]]) -> int:
    """What a pod asks of a node, from what its containers ask, in order.

    kube-scheduler's own formula (`resource.PodRequests`): regular containers and sidecars add up;
    an init container needs its own plus the sidecars started before it, for a while.
    """
    running = peak = 0
    for kind, amount in per_container:
        if kind is ContainerKind.INIT:
            peak = max(peak, running + amount)
        else:
            running += amount
    return max(running, peak)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a pod asks of its node beside GPUs: everything else that kube-scheduler counts."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    others: tuple[tuple[str, int], ...] = ()
    """Devices of other kinds and huge pages: resource name, amount."""


def _amount(parse_quantity: Any, value: object) -> int:
    if value is None:
        return 0
    try:
        return max(0, int(parse_quantity(value)))
    except QuantityError:
        return 0


_PLAIN = (("cpu", milli), ("memory", whole), ("ephemeral-storage", whole))
_COUNTED = frozenset({name for name, _ in _PLAIN})


def is_other(resource: str, gpu_resource: str) -> bool:
    """Whether a resource is none of the plain ones, and no GPU or slice: `rdma/ib`, huge pages."""
    if "/" not in resource:
        return resource.startswith("hugepages-")
    return resource != gpu_resource and not is_mig_resource(resource)


def other_ask(held: Sequence[Container], gpu_resource: str) -> tuple[tuple[str, int], ...]:
    """Devices of other kinds and huge pages that the pod asks of its node."""
    names: set[str] = set()
    for container in held:
        names.update(container.requests, container.limits)
    names = {name for name in names - _COUNTED if is_other(name, gpu_resource)}
    if not names:
        return ()
    asked = ((name, total([(c.kind, _other(c, name)) for c in held])) for name in sorted(names))
    return tuple([(name, amount) for name, amount in asked if amount > 0])


def _other(container: Container, resource: str) -> int:
    return _amount(whole, container.requests.get(resource, container.limits.get(resource)))


def _of_pod_level(pod_level: Mapping[str, Any], name: str, parse_quantity: Any) -> int | None:
    for part in ("requests", "limits"):
        asked = mapping(pod_level.get(part)).get(name)
        if asked is not None:
            return _amount(parse_quantity, asked)
    return None


def plain_ask(pod: Pod, held: Sequence[Container], gpu_resource: str) -> Ask:
    """What the pod asks beside GPUs: containers, pod-level resources, overhead."""
    body = spec(pod)
    pod_level = mapping(body.get("resources"))
    over = mapping(body.get("overhead"))
    amounts = []
    for name, parse_quantity in _PLAIN:
        amount = _of_pod_level(pod_level, name, parse_quantity) if pod_level else None
        if amount is None and len(held) == 1:  # by far the most frequent
            amount = _amount(parse_quantity, held[0].requests.get(name, held[0].limits.get(name)))
        elif amount is None:
            amount = total(
                [
                    (c.kind, _amount(parse_quantity, c.requests.get(name, c.limits.get(name))))
                    for c in held
                ]
            )
        amounts.append(amount + _amount(parse_quantity, over.get(name)) if over else amount)
    cpu_milli, memory_bytes, ephemeral_bytes = amounts
    return Ask(cpu_milli, memory_bytes, ephemeral_bytes, other_ask(held, gpu_resource))


def extended_ask(held: Sequence[Container], resource: str) -> int:
    """How many of one extended resource the pod asks of its node."""
    return total([(c.kind, c.count(resource)) for c in held])


def gpu_ask(held: Sequence[Container], gpu_resource: str) -> dict[str, int]:
    """GPU and MIG resources the pod asks of its node, by name."""
    names = {name for c in held for name in c.mig_counts()}
    names.add(gpu_resource)
    return {name: count for name in sorted(names) if (count := extended_ask(held, name)) > 0}


@dataclass(frozen=True, slots=True)
class Workload:
    """What a person deployed, as far as the pod itself tells."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


# A CronJob names its Jobs `<cronjob>-<scheduled time in minutes>` (batch/cronjob/utils.go).
_CRON_JOB = re.compile(r"(?P<name>.+)-\d{8,11}")


def owner(pod: Pod) -> Mapping[str, Any]:
    """The owner reference of the pod's controller, or an empty one."""
    for reference in objects(metadata(pod).get("ownerReferences")):
        if reference.get("controller") is True:
            return reference
    return _NOTHING


def workload(pod: Pod) -> Workload:
    """The Deployment, StatefulSet, CronJob … behind a pod; the pod itself if it has no controller."""
    controller = owner(pod)
    return workload_of(
        text(controller.get("kind")),
        text(controller.get("name")),
        text(mapping(metadata(pod).get("labels")).get("pod-template-hash")),
        display_name(pod),
    )


def workload_of(kind: str, name: str, template_hash: str, pod_name: str) -> Workload:
    """Resolve a controller to the workload: ReplicaSet to Deployment, a CronJob's Job to it."""
    if not kind:
        return Workload("Pod", pod_name)
    if kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
        return Workload("Deployment", name[: -len(template_hash) - 1])
    if kind == "Job" and (cron := _CRON_JOB.fullmatch(name)):
        return Workload("CronJob", cron["name"])
    return Workload(kind, name)


def display_name(pod: Pod) -> str:
    """The name, or generateName while the API server has not made a name of it."""
    meta = metadata(pod)
    return text(meta.get("name")) or text(meta.get("generateName"))


def environment(container: Container) -> Iterator[tuple[str, str]]:
    """Plain environment variables of a container; references are not followed."""
    for variable in objects(container.raw.get("env")):
        yield text(variable.get("name")), text(variable.get("value"))


def priority(pod: Pod) -> int:
    """The priority the API server resolved from the class; 0 when there is none."""
    value = spec(pod).get("priority")
    return value if isinstance(value, int) else 0
