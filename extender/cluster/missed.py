"""GPU pods that nobody decided on: the webhook was out of reach when they were created."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nsmallest

import msgspec

from extender.cluster.objects import PodObject, PodSpec
from extender.cluster.statuses import whose
from extender.core.eligible import not_ours
from extender.core.finding import Whose
from extender.core.policy import Policy
from extender.core.quota import Namespace
from extender.core.rewrite import DECISION_ANNOTATION, MOST_ANNOTATION_BYTES
from extender.core.snapshot import Snapshot
from extender.core.subject import subject_of

BATCH = 20
"""Pods judged at a time: about two milliseconds."""
SLACK = timedelta(seconds=5)
"""Between the clocks of several API servers, and while other webhooks are asked. Pods so close to
the change from one holder of the Lease to the next may be told twice, rather than not at all."""
_LONGEST_DECISION_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class MissedPod:
    """One of them."""

    pod: Whose
    created: str
    """RFC 3339, by the API server's clock."""


class Missed:
    """Told of pods with devices (`state.DevicePods`); keeps those without a decision until judged."""

    def __init__(self) -> None:
        self._unjudged: dict[str, PodObject] = {}
        self._judged: set[str] = set()
        self._missed: dict[str, MissedPod] = {}
        self._latest = ""

    def seen(self, uid: str, item: PodObject) -> None:
        """See `DevicePods`."""
        if DECISION_ANNOTATION not in (item.metadata.annotations or ()) and uid not in self._judged:
            self._unjudged[uid] = item

    def gone(self, uid: str) -> None:
        """See `DevicePods`."""
        self._unjudged.pop(uid, None)
        self._judged.discard(uid)
        self._missed.pop(uid, None)

    def judge(self, snapshot: Snapshot, policy: Policy) -> bool:
        """Judge the oldest, by the configuration of now: of another one nobody knows any more.

        Returns:
            Whether there are more to judge.
        """
        for uid, item in nsmallest(BATCH, self._unjudged.items(), key=lambda i: _created(i[1])):
            del self._unjudged[uid]
            self._judged.add(uid)
            self._latest = max(self._latest, _created(item))
            if _is_missed(item, snapshot, policy):
                self._missed[uid] = MissedPod(whose(item.metadata), _created(item))
        return bool(self._unjudged)

    def take(self, since: str, most: int) -> Iterator[MissedPod]:
        """Those created since then, oldest first, each once; older ones were told by another."""
        for uid, missed in sorted(self._missed.items(), key=lambda each: each[1].created):
            if missed.created < since:
                del self._missed[uid]
            elif most > 0:
                most -= 1
                del self._missed[uid]
                yield missed

    @property
    def judged_until(self) -> str:
        """Pods created before are all judged and told; empty while some are not."""
        return "" if self._unjudged or self._missed else self._latest


def since(installed: str, judged_until: str) -> str:
    """From when on missed pods are to be told.

    Args:
        installed: when the Lease was made: whatever is older was there before us.
        judged_until: what whoever held the Lease before has judged; empty for nothing.
    """
    try:
        mark = datetime.fromisoformat(judged_until) - SLACK
    except (OverflowError, ValueError):
        return installed
    return max(installed, mark.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _created(item: PodObject) -> str:
    return item.metadata.creation_timestamp or ""


def _is_missed(item: PodObject, snapshot: Snapshot, policy: Policy) -> bool:
    """Whether it passes step 1, as far as can be told now: it may have been bound since."""
    annotations = item.metadata.annotations or {}
    size = sum(len(key) + len(value) for key, value in annotations.items())
    if size > MOST_ANNOTATION_BYTES - _LONGEST_DECISION_BYTES:
        return False  # there may have been no room to say what was decided
    pod = msgspec.to_builtins(msgspec.structs.replace(item, spec=_unbound(item)))
    namespace = item.metadata.namespace
    home = snapshot.namespaces.get(namespace, Namespace())
    subject = subject_of(pod, namespace, home, policy)
    return not_ours(subject, snapshot, policy) is None


def _unbound(item: PodObject) -> PodSpec:
    return msgspec.structs.replace(item.spec, node_name="")
