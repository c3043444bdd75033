"""What to do about rewritten pods that do not get going. Pure: whoever holds the Lease carries it out."""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from extender.cluster.holds import LONGEST_NAME, Hold, Holds, Key
from extender.cluster.rewritten import Rewritten, Trouble, Watched
from extender.core.policy import BackoffAction, Mode, Policy
from extender.core.snapshot import Snapshot
from extender.core.unchanged import could_start_whole

SETTLE_S = 10.0
"""From a hold written to the first deletion: by then every replica has read it."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """A pod to delete, and the version in which it was found not to run."""

    watched: Watched
    version: str
    hold: Hold

    def as_seen(self) -> bool:
        """Whether the pod has not changed since: `Watched` goes on with every event."""
        return self.watched.version == self.version


def new_holds(
    troubles: Sequence[Trouble], holds: Holds, policy: Policy, wall_s: float
) -> list[tuple[Trouble, Hold]]:
    """A hold for each workload in trouble that is not held back yet, and the pod that shows it."""
    found: dict[tuple[str, str], tuple[Trouble, Hold]] = {}
    for trouble in troubles:
        pod = trouble.watched.pod
        if pod.key not in holds and pod.key not in found:
            ended = holds.ended(pod.key)
            found[pod.key] = (
                trouble,
                Hold(
                    pod.namespace,
                    pod.workload.kind,
                    pod.workload.name,
                    trouble.cause,
                    trouble.message,
                    since_s=wall_s,
                    until_s=wall_s + policy.backoff.hold_s,
                    deleted_s=None if ended is None else ended.deleted_s,
                ),
            )
    return list(found.values())


def can_be_held(trouble: Trouble) -> bool:
    """Whether its workload is one that there can be: an ownerReference may name anything."""
    workload = trouble.watched.pod.workload
    return max(len(workload.kind), len(workload.name)) <= LONGEST_NAME


def known(troubles: Sequence[Trouble], holds: Holds) -> list[Trouble]:
    """Those whose workload is held back: their evidence has had its effect."""
    return [trouble for trouble in troubles if trouble.watched.pod.key in holds]


def to_delete(
    rewritten: Rewritten,
    holds: Holds,
    snapshot: Snapshot,
    policy: Policy,
    *,
    wall_s: float,
    since_s: Mapping[Key, float],
    begun: Container[str],
) -> Iterator[Doomed]:
    """Pods to delete, so that their controllers make them whole; at most one of each workload.

    Only such as do not run now, of workloads held back for long enough that every replica knows.

    Args:
        rewritten: the pods.
        holds: in force.
        snapshot: of now.
        policy: of now.
        wall_s: seconds since the epoch.
        since_s: by workload, how long ago this process has written a deletion down, by its own clock:
            the other one may be stepped.
        begun: uids of pods whose deletion is the last written down of their workload, and not done.
    """
    if policy.backoff.action is not BackoffAction.RECREATE or policy.mode is Mode.DISABLED:
        return
    done = set()
    for watched in rewritten.stuck():
        pod = watched.pod
        hold = holds.get_hold(pod.key)
        if (
            hold is None
            or pod.key in done
            or not pod.controller.recreates
            or policy.exclude.match(pod.namespace)
            or (policy.include and not policy.include.match(pod.namespace))
            or holds.known_s(pod.key) < SETTLE_S
        ):
            continue
        written_s = math.inf if hold.deleted_s is None else wall_s - hold.deleted_s
        lately = min(written_s, since_s.get(pod.key, math.inf)) < policy.backoff.window_s
        if lately and pod.uid not in begun:
            continue
        if watched.waiting is None or could_start_whole(watched.waiting, snapshot, policy):
            done.add(pod.key)
            yield Doomed(watched, watched.version, hold)
