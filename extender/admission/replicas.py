"""Pods of one template: what was found out about one need not be found out again about the next.

Remembered is what follows from the pod, its namespace, the configuration and the nodes: how the pod reads,
what would hold it, and which operations carry a decision out. What is free, promised, waited for or
held back is looked at anew for each, and so the decision is.
"""

from collections.abc import Sequence

from extender.admission.envelope import read_json
from extender.core.decision import Decision
from extender.core.footprint import Footprint
from extender.core.pod import Pod
from extender.core.policy import Inject, Policy
from extender.core.quota import Namespace
from extender.core.reading import Reading, read
from extender.core.rewrite import Carried, Patch, apply, carried, patch_for, retold
from extender.core.shortlist import Shortlist
from extender.core.snapshot import Snapshot
from extender.core.subject import Subject

MOST_TEMPLATES = 256
MOST_BYTES = 1024 * 1024
"""Of the templates remembered, as JSON. As objects of Python they take ten times that, thirty at worst."""
LARGEST_BYTES = 64 * 1024
"""Of one of them."""
MOST_PATCHES = 16
"""Of one template."""
MOST_MET = 4096
"""Pods that came once: numbers, no more."""


class Template:
    """What is known of pods that are alike, under one configuration."""

    __slots__ = ("_patches", "_reading", "_shortlist", "pod")

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self._reading: Reading | None = None
        self._shortlist: Shortlist | None = None
        self._patches: dict[tuple[Carried, int, tuple[str, ...]], tuple[Inject, Patch]] = {}

    def read(self, pod: Pod, namespace: str, home: Namespace, policy: Policy) -> Reading:
        """As `read` does."""
        known = self._reading
        if known is None or known.subject.home is not home:  # or the namespace has changed
            known = self._reading = read(pod, namespace, home, policy)
            self._shortlist = None
        return known

    def shortlist(
        self, subject: Subject, wanted: Sequence[Footprint], snapshot: Snapshot, policy: Policy
    ) -> Shortlist:
        """As `Shortlist` does; made again when nodes have changed, or more was observed to be needed."""
        known = self._shortlist
        if known is None or known.wanted != wanted or not known.holds(snapshot):
            known = self._shortlist = Shortlist(subject, wanted, snapshot, policy)
        return known

    def patch(
        self,
        decision: Decision,
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
        patch = patch_for(decision, self.pod, inject=inject, annotation=annotation, prefer=prefer)
        apply(patch, self.pod)
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

    def template(self, told: bytes, namespace: str, policy: Policy) -> Template:
        """What is known of a pod of which this is told, if anything; it learns more by being asked.

        Raises:
            BadReview: what is told is not JSON.
        """
        if policy is not self._policy:
            self._policy = policy
            self._templates.clear()
            self._bytes = 0
        key = (told, namespace)
        known = self._templates.get(key)
        if known is None:
            known = Template(read_json(told))
            if _bytes(key) > LARGEST_BYTES:
                return known
            if hash(key) in self._met:
                self._remember(key, known)
            else:
                if len(self._met) >= MOST_MET:
                    self._met.clear()
                self._met.add(hash(key))
        return known

    def _remember(self, key: tuple[bytes, str], template: Template) -> None:
        self._templates[key] = template
        self._bytes += _bytes(key)
        while len(self._templates) > self._most or self._bytes > self._most_bytes:
            oldest = next(iter(self._templates))
            del self._templates[oldest]
            self._bytes -= _bytes(oldest)


def _bytes(key: tuple[bytes, str]) -> int:
    """What is told of a pod, and the name of its namespace, which nobody has checked."""
    told, namespace = key
    return len(told) + len(namespace)
