"""What a decision takes from pod, namespace and configuration, whatever the cluster is like just now.

All that depends on the cluster is no part of this, and decided on anew each time.
"""

from typing import NamedTuple

from extender.core.eligible import Refusal, never_ours, not_for_a_slice
from extender.core.footprint import Footprint, Undeclared, footprints
from extender.core.pod import Pod
from extender.core.policy import Policy
from extender.core.quota import Namespace
from extender.core.subject import Subject, subject_of


class Reading(NamedTuple):
    """A pod, read."""

    subject: Subject
    never: Refusal | None
    """Why it is none of our business."""
    unfit: Refusal | None
    """Why a slice would not do."""
    declared: tuple[Footprint, ...] | Undeclared
    """What it needs by its own word or the admin's; nothing was asked where one of the above is given."""


def read(pod: Pod, namespace: str, home: Namespace, policy: Policy) -> Reading:
    """Read a pod. Of `home` labels, quotas and limits are looked at, and the tally is not."""
    subject = subject_of(pod, namespace, home, policy)
    never = never_ours(subject, policy)
    unfit = None if never is not None else not_for_a_slice(subject, policy)
    refused = never is not None or unfit is not None
    return Reading(subject, never, unfit, () if refused else footprints(subject, policy))
