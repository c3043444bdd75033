"""Pods of one template: what was found out about one need not be found out again about the next.

A burst of pods is one of replicas, as a ReplicaSet or a Job makes them. They differ in what the API server
writes into each before it asks us: when which field was written, and a volume with a name drawn at
random. No decision depends on either, so `strip` takes both away, and nothing in `core` ever sees them.
All the rest is the key, to the last byte: what a decision will look at some day is in there already.

Remembered is what follows from the pod, its namespace and the configuration alone: how the pod reads, and
which operations carry a decision out. The decision itself is made anew for each, on the cluster as it is.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from extender.core.decision import Decision
from extender.core.pod import Pod
from extender.core.policy import Inject, Policy
from extender.core.quota import Namespace
from extender.core.reading import Reading, read
from extender.core.rewrite import Carried, Patch, apply, carried, patch_for, retold

MOST_TEMPLATES = 256
MOST_BYTES = 1024 * 1024
"""Of the templates remembered, as JSON. As objects of Python they take ten times that, thirty at worst."""
LARGEST_BYTES = 64 * 1024
"""Of one of them."""
MOST_PATCHES = 16
"""Of one template."""
MOST_MET = 4096
"""Pods that came once: numbers, no more."""


def strip(pod: dict[str, Any]) -> None:
    """Take managed fields, volumes and mounts away; everything else stays where it stands."""
    if isinstance(meta := pod.get("metadata"), dict):
        meta.pop("managedFields", None)
    if isinstance(spec := pod.get("spec"), dict):
        spec.pop("volumes", None)
        for member in ("containers", "initContainers"):
            if isinstance(listed := spec.get(member), list):
                for container in listed:
                    if isinstance(container, dict):
                        container.pop("volumeMounts", None)


class Template:
    """What is known of pods that are alike, under one configuration."""

    __slots__ = ("_patches", "_reading")

    def __init__(self) -> None:
        self._reading: Reading | None = None
        self._patches: dict[tuple[Carried, int, tuple[str, ...]], tuple[Inject, Patch]] = {}

    def read(self, pod: Pod, namespace: str, home: Namespace, policy: Policy) -> Reading:
        """As `read` does."""
        known = self._reading
        if known is None or known.subject.home is not home:  # or the namespace has changed
            known = self._reading = read(pod, namespace, home, policy)
        return known

    def patch(
        self,
        decision: Decision,
        pod: Pod,
        *,
        inject: Inject,
        annotation: str | None,
        prefer: Sequence[str] = (),
    ) -> Patch:
        """As `patch_for` does; and the patch has been tried.

        Raises:
            PatchError: it does not apply to the pod.
        """
        size = -1 if annotation is None else len(annotation.encode())
        key = (carried(decision), size, tuple(prefer))
        known = self._patches.get(key)
        if known is not None and known[0] == inject:
            return retold(known[1], annotation)
        patch = patch_for(decision, pod, inject=inject, annotation=annotation, prefer=prefer)
        apply(patch, pod)
        if len(self._patches) >= MOST_PATCHES:
            self._patches.clear()
        self._patches[key] = inject, patch
        return patch


class Replicas:
    """Templates of the latest pods, as long as the configuration stays.

    Args:
        most: how many.
        most_bytes: how many bytes of JSON they may be together.
    """

    def __init__(self, most: int = MOST_TEMPLATES, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._policy: Policy | None = None
        self._templates: dict[tuple[bytes, str], Template] = {}
        self._bytes = 0
        self._met: set[int] = set()
        """Hashes of pods that came once. Only of those that come again anything is kept: trees of objects
        that live for a while and are then forgotten are work for the garbage collector, more than reading
        a pod is."""

    def __len__(self) -> int:
        return len(self._templates)

    def template(self, pod: Pod, namespace: str, policy: Policy) -> Template:
        """What is known of pods like this one, if anything; it learns more by being asked."""
        if policy is not self._policy:
            self._policy = policy
            self._templates.clear()
            self._bytes = 0
        try:
            told = orjson.dumps(pod)
        except orjson.JSONEncodeError:  # it reads what is nested more deeply than it writes
            return Template()
        if len(told) > LARGEST_BYTES:
            return Template()
        key = (told, namespace)
        known = self._templates.get(key)
        if known is None:
            known = Template()
            if hash(key) in self._met:
                self._remember(key, known)
            else:
                if len(self._met) >= MOST_MET:
                    self._met.clear()
                self._met.add(hash(key))
        return known

    def _remember(self, key: tuple[bytes, str], template: Template) -> None:
        self._templates[key] = template
        self._bytes += len(key[0])
        while len(self._templates) > self._most or self._bytes > self._most_bytes:
            oldest = next(iter(self._templates))
            del self._templates[oldest]
            self._bytes -= len(oldest[0])
