"""Rewritten pods, watched after they were created: do they get going?

Pure: events and the time in, what is wrong with whom out. Nothing is kept of pods that run well but
how often they have restarted.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest

import msgspec

from extender.cluster import statuses
from extender.cluster.held import Held
from extender.cluster.reading import ENDED
from extender.cluster.statuses import RewrittenPod
from extender.core import pod as podlib
from extender.core.catalogue import ALL_RESOURCES, profile_name
from extender.core.finding import Cause, Whose
from extender.core.pod import Ask, Pod
from extender.core.policy import Policy
from extender.core.rewrite import REWRITTEN_LABEL
from extender.core.snapshot import Snapshot
from extender.core.unchanged import could_start_whole

SELECTOR = {"labelSelector": f"{REWRITTEN_LABEL}=true"}
"""Ended pods included: of a Job's failed pod there is nothing else to see."""
UNMET_AFTER_S = 30.0
"""A pod waits a moment for any slice; this long, or `backoff.pending` if that is shorter."""
BATCH = 50
"""Waiting pods looked at in one round, those first that were not for longest."""
OTHER = "other"
"""Stands for profiles that no product has: names that come from pods must not become labels."""

MOST_RESTARTS = 1000
"""As many as `backoff.restarts` can be."""

_PROFILES = {resource: profile_name(resource) for resource in ALL_RESOURCES}


@dataclass(slots=True)
class Watched:
    """A rewritten pod, as far as it matters whether it gets going. Times are by our own clock."""

    pod: Whose
    version: str
    """resourceVersion, for deletion."""
    slices: tuple[tuple[str, int], ...]
    """MIG resource, count."""
    restarts: int = 0
    """Of the containers with a slice, in all."""
    forgiven: int = 0
    """How many of them a hold has been made for."""
    restarted_s: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_RESTARTS))
    """When we saw them, but for those forgiven."""
    span_s: float | None = None
    """From the start of the pod to the last end of a container, as the kubelet tells it."""
    stopped: bool = False
    """A container with a slice has restarted before and does not run now."""
    leaving: bool = False
    """It is being deleted, or has ended."""
    failed_s: float | None = None
    """When it failed, or would have been seen to."""
    waits_since_s: float | None = None
    """When we first saw it without a node."""
    waiting: Pod | None = None
    """The pod, while it has no node."""
    looked_s: float = 0.0
    unmet: bool = False
    """No node in its reach has the slices free."""
    whole: bool = False
    """It has waited for `backoff.pending`, and a whole GPU is free for it."""
    told: bool = False
    """That it is unmet."""
    blamed: Cause | None = None
    """A hold is in force because of it, or of another like it."""
    blamed_s: float = 0.0

    @property
    def profiles(self) -> tuple[str, ...]:
        """NVML names, out of the closed list of those that there are, and `OTHER`."""
        return tuple(_PROFILES.get(resource, OTHER) for resource, _ in self.slices)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A rewritten pod that does not get going."""

    watched: Watched
    cause: Cause
    message: str
    """One line for people."""


class Rewritten:
    """All rewritten pods there are.

    Args:
        clock: seconds, monotonic.
        wall: seconds since the epoch; only to tell what failed long before we first listed.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock, self._wall = clock, wall
        self.pods: Held[RewrittenPod] = Held(self._put, self._drop, lambda item: item.metadata.uid)
        self._watched: dict[str, Watched] = {}
        self._waiting: set[str] = set()
        self._restarting: set[str] = set()
        self._failed: set[str] = set()

    def __len__(self) -> int:
        return len(self._watched)

    def __contains__(self, uid: str) -> bool:
        return uid in self._watched

    # --- events ----------------------------------------------------------------------------------

    def _put(self, item: RewrittenPod) -> None:
        uid, now_s = item.metadata.uid, self._clock()
        slices = statuses.slices(item)
        if not slices:  # anybody can write the label
            self._drop(uid)
            return
        known = self._watched.get(uid)
        restarts = sum(status.restart_count for _, status in statuses.statuses(item))
        if known is None:
            known = Watched(statuses.whose(item.metadata), "", slices, restarts)
            self._watched[uid] = known
            known.failed_s = now_s - max(0.0, self._wall() - statuses.ended_s(item))
        elif not known.leaving:
            known.failed_s = now_s
        known.version = item.metadata.resource_version
        new = restarts - known.restarts
        known.restarts, known.forgiven = restarts, min(known.forgiven, restarts)
        known.restarted_s.extend([now_s] * min(max(0, new), MOST_RESTARTS))
        known.span_s = statuses.span_s(item)
        known.stopped = any(
            statuses.stopped(kind, status) for kind, status in statuses.statuses(item)
        )
        ended = item.status.phase in ENDED
        known.leaving = ended or item.metadata.deletion_timestamp is not None
        self._wait(uid, known, item)
        _keep(self._restarting, uid, not known.leaving and bool(known.restarted_s or known.stopped))
        failed = item.status.phase == "Failed" and known.blamed is not Cause.FAILS
        ours = item.metadata.deletion_timestamp is None and not statuses.disrupted(item)
        _keep(self._failed, uid, failed and ours)

    def _wait(self, uid: str, known: Watched, item: RewrittenPod) -> None:
        waits = not (known.leaving or item.spec.node_name or item.spec.scheduling_gates)
        _keep(self._waiting, uid, waits)
        if not waits:
            known.waits_since_s = known.waiting = None
            known.unmet = known.whole = False
        elif known.waiting is None:
            known.waits_since_s = self._clock()
            known.waiting = msgspec.to_builtins(item)

    def _drop(self, uid: str) -> None:
        self._watched.pop(uid, None)
        for uids in (self._waiting, self._restarting, self._failed):
            uids.discard(uid)

    # --- rounds ----------------------------------------------------------------------------------

    def to_look_at(self) -> list[Watched]:
        """Waiting pods to `look` at in this round: those that were not for longest."""
        waiting = (self._watched[uid] for uid in self._waiting)
        return nsmallest(BATCH, waiting, key=lambda watched: watched.looked_s)

    def look(self, watched: Watched, snapshot: Snapshot, policy: Policy) -> None:
        """See what a waiting pod could have. In a large cluster that takes a millisecond or more."""
        now_s, rule = self._clock(), policy.backoff
        watched.looked_s = now_s
        pod, since_s = watched.waiting, watched.waits_since_s
        if pod is None or since_s is None:
            return
        waited_s = now_s - since_s
        long = waited_s >= min(UNMET_AFTER_S, rule.pending_s)
        watched.unmet = long and _lacks(watched, pod, snapshot)
        watched.whole = waited_s >= rule.pending_s and could_start_whole(pod, snapshot, policy)

    def troubles(self, policy: Policy) -> list[Trouble]:
        """What gives reason to hold a workload back, and has not been `blame`d for that yet."""
        return [*self._crashing(policy), *self._failing(policy), *self._pending(policy)]

    def blame(self, trouble: Trouble) -> None:
        """A hold is in force for it: the same evidence is reason for no other."""
        watched = trouble.watched
        watched.blamed, watched.blamed_s = trouble.cause, self._clock()
        watched.forgiven = watched.restarts
        watched.restarted_s.clear()
        self._failed.discard(watched.pod.uid)

    def stuck(self) -> Iterator[Watched]:
        """Pods that were blamed and do not run now: nothing is lost with them."""
        for uid in (*self._restarting, *self._waiting):
            watched = self._watched[uid]
            crashes = watched.blamed is Cause.CRASHES and watched.stopped
            if crashes or (watched.blamed is Cause.PENDS and watched.whole):
                yield watched

    def unmet(self) -> list[Watched]:
        """Pods that wait because no slice is free."""
        return [watched for uid in self._waiting if (watched := self._watched[uid]).unmet]

    def _crashing(self, policy: Policy) -> Iterator[Trouble]:
        rule, now_s = policy.backoff, self._clock()
        for uid in list(self._restarting):
            watched = self._watched[uid]
            seen = watched.restarted_s
            while seen and now_s - seen[0] > rule.window_s:
                seen.popleft()
            by_itself = (
                watched.stopped
                and watched.span_s is not None
                and watched.span_s <= rule.window_s
                and watched.restarts - watched.forgiven >= rule.restarts
            )
            if len(seen) >= rule.restarts or by_itself:
                times = watched.restarts - watched.forgiven if by_itself else len(seen)
                message = f"restarted {times} times within {_duration(rule.window_s)}"
                yield _trouble(watched, Cause.CRASHES, message)
            elif not seen and not watched.stopped:
                self._restarting.discard(uid)

    def _failing(self, policy: Policy) -> Iterator[Trouble]:
        """A Job has few attempts and each failed pod takes one, so the first failure counts.

        A ReplicaSet or StatefulSet makes pods without end: there as many must fail as may restart.
        """
        rule, now_s = policy.backoff, self._clock()
        of_workload: dict[tuple[str, str], list[Watched]] = {}
        for uid in list(self._failed):
            watched = self._watched[uid]
            if watched.failed_s is None or now_s - watched.failed_s > rule.window_s:
                self._failed.discard(uid)
            elif watched.pod.controller.recreates:
                of_workload.setdefault(watched.pod.key, []).append(watched)
            else:
                yield _trouble(watched, Cause.FAILS, "failed")
        for failed in of_workload.values():
            if len(failed) >= rule.restarts:
                message = (
                    f"and others, {len(failed)} in all, failed within {_duration(rule.window_s)}"
                )
                for watched in failed:
                    yield _trouble(watched, Cause.FAILS, message)

    def _pending(self, policy: Policy) -> Iterator[Trouble]:
        now_s = self._clock()
        for uid in self._waiting:
            watched = self._watched[uid]
            waited_s = now_s - max(watched.waits_since_s or 0.0, watched.blamed_s)
            if watched.whole and waited_s >= policy.backoff.pending_s:
                message = f"not bound for {_duration(waited_s)}, and a whole GPU is free for it"
                yield _trouble(watched, Cause.PENDS, message)


def _trouble(watched: Watched, cause: Cause, what: str) -> Trouble:
    return Trouble(
        watched, cause, f"pod {watched.pod.name} on {', '.join(watched.profiles)} {what}"
    )


def _keep(uids: set[str], uid: str, here: bool) -> None:
    if here:
        uids.add(uid)
    else:
        uids.discard(uid)


def _lacks(watched: Watched, pod: Pod, snapshot: Snapshot) -> bool:
    nodes = snapshot.capacity.index.reach(podlib.spec(pod))
    return not snapshot.capacity.room(dict(watched.slices), Ask(), nodes, {})


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 2 * 60 else f"{seconds / 60:.0f} min"
