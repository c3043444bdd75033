"""Steps 6 and 7: of what would hold a pod, the smallest that is free now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from extender.core import pod as podlib
from extender.core.consolidate import Option, Placing, prefer, spare
from extender.core.decision import Candidate, Verdict
from extender.core.footprint import Want
from extender.core.policy import Policy, WhenFull
from extender.core.quantity import format_mib
from extender.core.quota import excess
from extender.core.reach import Nodes
from extender.core.reason import Reason
from extender.core.shortlist import Choice, Shortlist
from extender.core.snapshot import Snapshot
from extender.core.subject import Subject


class Chosen(NamedTuple):
    """The pod is to be rewritten."""

    reason: Reason
    choice: Choice
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class NotChosen:
    """The pod is to be left."""

    reason: Reason
    message: str
    candidates: tuple[Candidate, ...] = ()


def fit(
    subject: Subject, shortlist: Shortlist, snapshot: Snapshot, policy: Policy
) -> Chosen | NotChosen:
    """Choose the MIG resource of every GPU container, or say why the pod keeps its GPU."""
    return _Fit(subject, shortlist, snapshot, policy).run()


class _Fit:
    """One run of steps 6 and 7, with what its steps share."""

    def __init__(
        self, subject: Subject, shortlist: Shortlist, snapshot: Snapshot, policy: Policy
    ) -> None:
        self.subject = subject
        self.shortlist = shortlist
        self.snapshot = snapshot
        self.capacity = snapshot.capacity
        self.policy = policy
        self.found: dict[str, Verdict] = {}
        """MIG resource -> what was found of it since the shortlist was made."""
        self.over = ""
        """What the last quota without room for a slice said."""

    def run(self) -> Chosen | NotChosen:
        if not self.shortlist.offered:
            return NotChosen(Reason.NO_REACHABLE_MIG, "no reachable node offers a MIG resource")
        if self.shortlist.misfit is not None:
            return self._none_fits(self.shortlist.misfit)
        first, larger = self.shortlist.first, self.shortlist.larger()
        if self.subject.home.quotas:
            every = chain(() if first is None else (first,), larger)
            larger = iter([choice for choice in every if not self._over_quota(choice)])
            first = next(larger, None)
        if first is None:
            return NotChosen(Reason.QUOTA, self.over, self._candidates())
        if self._is_free(first):
            return self._settle(first, Reason.FITS, larger)
        return self._when_full(first, list(larger))

    def _candidates(self) -> tuple[Candidate, ...]:
        """What was considered, and what came of it."""
        free, found = self.capacity.free, self.found
        return tuple(
            [
                Candidate(
                    offer.resource,
                    offer.usable_mib,
                    free(offer.resource, offer.offering),
                    found.get(offer.resource, verdict),
                )
                for offer, verdict in zip(
                    self.shortlist.offered, self.shortlist.verdicts, strict=True
                )
            ]
        )

    def _none_fits(self, want: Want) -> NotChosen:
        listed = self._candidates()
        need = "" if want.need_mib is None else f"need {format_mib(want.need_mib)}; "
        if want.profile is not None:
            named = next((c for c in listed if c.verdict is not Verdict.NOT_ASKED_FOR), None)
            if named is None:
                message = f"no reachable node offers profile {want.profile}"
                return NotChosen(Reason.NO_REACHABLE_MIG, message, listed)
            if named.verdict is Verdict.TOO_SMALL:
                usable = format_mib(named.usable_mib or 0)
                message = f"{need}profile {want.profile} has {usable} usable"
                return NotChosen(Reason.PROFILE_TOO_SMALL, message, listed)
        if any(c.verdict is Verdict.LIMIT_RANGE for c in listed):
            message = "a LimitRange of the namespace forbids every slice that would fit"
            return NotChosen(Reason.LIMIT_RANGE, message, listed)
        unusable = {Verdict.SHARED, Verdict.SPECIAL, Verdict.MEMORY_UNKNOWN, Verdict.NOT_ASKED_FOR}
        if all(c.verdict in unusable for c in listed):
            message = "reachable MIG resources are shared, special or of unknown memory"
            return NotChosen(Reason.NO_REACHABLE_MIG, message, listed)
        largest = max(c.usable_mib or 0 for c in listed if c.verdict not in unusable)
        if largest < (want.need_mib or 0):
            message = f"{need}the largest slice in reach has {format_mib(largest)}"
        else:
            message = f"{need}no slice in reach has the memory, compute and bandwidth together"
        return NotChosen(Reason.TOO_LARGE, message, listed)

    # --- step 6: what is free --------------------------------------------------------------------

    def _over_quota(self, choice: Choice) -> bool:
        """Whether a quota on one of the MIG resources has no room, and remember it."""
        home = self.subject.home
        over = excess(home, self.subject.scope, choice.claims) if home.quotas else None
        if over is None:
            return False
        self.over = str(over)
        self.found[over.resource] = Verdict.QUOTA
        return True

    def _is_free(self, choice: Choice) -> bool:
        free = self._room(choice.claims, choice.nodes)
        if not free:
            self._note(choice.claims, Verdict.FULL)
        return free

    def _room(self, claims: Mapping[str, int], nodes: Nodes) -> bool:
        """Whether the pod could start now with more left than others have a claim on."""
        plain, reservations = self.subject.plain, self.snapshot.reservations
        waiting = {
            resource: self.capacity.waiting(resource, nodes, self.subject.priority)
            for resource in claims
        }
        # Mostly there is enough for all that is promised anywhere: then where need not be looked up.
        most = {name: count + reservations.anywhere(name) for name, count in waiting.items()}
        if self.capacity.room(claims, plain, nodes, most):
            return True
        taken = {name: count + reservations.on(name, nodes) for name, count in waiting.items()}
        return taken != most and self.capacity.room(claims, plain, nodes, taken)

    def _taken(self, resource: str, nodes: Nodes) -> int:
        """Units that others have a claim on: they wait, or it was promised to them."""
        waiting = self.capacity.waiting(resource, nodes, self.subject.priority)
        return waiting + self.snapshot.reservations.on(resource, nodes)

    def _note(self, resources: Iterable[str], verdict: Verdict) -> None:
        for resource in resources:
            self.found[resource] = verdict

    def _take(self, choice: Choice, reason: Reason) -> Chosen:
        self._note(choice.claims, Verdict.CHOSEN)
        return Chosen(reason, choice, self._candidates())

    def _settle(self, found: Choice, reason: Reason, larger: Iterable[Choice]) -> Chosen:
        """Take what was found, or with `consolidation.lambda` a larger slice on a GPU in use."""
        weight, ranking = self.policy.consolidation_lambda, self.snapshot.ranking
        if weight <= 0 or ranking is None or sum(found.claims.values()) != 1:
            return self._take(found, reason)
        every = [found, *larger]
        options = [
            Option(choice.picks[0].resource, choice.picks[0].memory_slices, choice.nodes)
            for choice in every
        ]

        def eligible(position: int) -> bool:
            option, choice = options[position], every[position]
            taken = self._taken(option.resource, choice.nodes)
            return spare(self.capacity, option, taken) and self._is_free(choice)

        workload = f"{self.subject.namespace}/{self.subject.workload}"
        spread = self.policy.spread_replicas
        placing = Placing(self.capacity, ranking, self.subject.plain, workload, spread=spread)
        position = prefer(options, weight, placing, eligible)
        return self._take(every[position], Reason.FITS_CONSOLIDATED if position else reason)

    # --- step 7: the smallest is full ------------------------------------------------------------

    def _when_full(self, first: Choice, larger: Sequence[Choice]) -> Chosen | NotChosen:
        names = ", ".join(resource.removeprefix("nvidia.com/") for resource in first.claims)
        for entry in self.policy.when_full:
            if entry is WhenFull.NEXT_LARGER:
                found = next(filter(self._is_free, larger), None)
                if found is not None:
                    rest = larger[larger.index(found) + 1 :]
                    return self._settle(found, Reason.FITS_LARGER, rest)
            elif entry is WhenFull.WAIT:
                found = next(filter(self._could_hold, (first, *larger)), None)
                if found is not None:
                    return self._take(found, Reason.WAITS)
            elif entry is WhenFull.WHOLE_NOW:
                if self._whole_now():
                    return self._left(f"no free {names}; a whole GPU is free now")
            elif self._whole_later():
                return self._left(f"no free {names}; a whole GPU can serve the pod later")
        return self._left(f"no free {names}")

    def _left(self, message: str) -> NotChosen:
        return NotChosen(Reason.NO_FREE_SLICE, message, self._candidates())

    def _unchanged(self) -> Nodes:
        """Where the pod may land as it came, before injection."""
        return self.capacity.index.reach(self.subject.spec)

    def _asked(self) -> dict[str, int]:
        resource = self.policy.gpu_resource
        return {resource: podlib.extended_ask(self.subject.containers, resource)}

    def _could_hold(self, choice: Choice) -> bool:
        """Whether some node, were it empty, or some pool's node has all that the pod would ask for."""
        return self.capacity.could_hold(choice.claims, self.subject.plain, choice.nodes) or any(
            all(node.gpus.get(name, 0) >= count for name, count in choice.claims.items())
            for node in self.snapshot.pools.index.members(self.shortlist.pooled)
        )

    def _whole_now(self) -> bool:
        return self._room(self._asked(), self._unchanged())

    def _whole_later(self) -> bool:
        if self.capacity.could_hold(self._asked(), self.subject.plain, self._unchanged()):
            return True
        declared = self.policy.autoscaled
        return bool(self.capacity.index.autoscaled) if declared is None else declared
