"""Steps 4 to 7: from wants to MIG resources, on the nodes the pod can reach, with what is free now."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from extender.core import pod as podlib
from extender.core.capacity import Capacity
from extender.core.catalogue import ALL_RESOURCES
from extender.core.consolidate import Option, Placing, prefer, spare
from extender.core.decision import Candidate, Verdict
from extender.core.footprint import Footprint, Want
from extender.core.node import memory_label
from extender.core.offers import OfferSummary, smallest_first
from extender.core.policy import Policy, WhenFull
from extender.core.quantity import format_mib
from extender.core.quota import excess
from extender.core.reach import Nodes
from extender.core.reason import Reason
from extender.core.rewrite import added_selector
from extender.core.snapshot import Snapshot
from extender.core.subject import Subject

LISTED = frozenset(ALL_RESOURCES)

MOST_COMBINATIONS = 1024
"""Pods whose containers want different profiles: how many combinations are tried at the most."""


class Chosen(NamedTuple):
    """The pod is to be rewritten."""

    reason: Reason
    picks: tuple[OfferSummary, ...]
    """One per GPU container, in their order."""
    claims: Mapping[str, int]
    """MIG resource -> count the pod will ask of its node."""
    guards: tuple[tuple[str, int], ...]
    nodes: Nodes
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class NotChosen:
    """The pod is to be left."""

    reason: Reason
    message: str
    candidates: tuple[Candidate, ...] = ()


def fit(
    subject: Subject, wanted: Sequence[Footprint], snapshot: Snapshot, policy: Policy
) -> Chosen | NotChosen:
    """Choose the MIG resource of every GPU container, or say why the pod keeps its GPU."""
    return _Fit(subject, wanted, snapshot, policy).run()


class _Fit:
    """One run of steps 4 to 7, with what its steps share."""

    def __init__(
        self, subject: Subject, wanted: Sequence[Footprint], snapshot: Snapshot, policy: Policy
    ) -> None:
        self.subject = subject
        self.wanted = wanted
        self.snapshot = snapshot
        self.capacity = snapshot.capacity
        self.policy = policy
        self.nodes = self._reach(self.capacity)
        self.pooled = self._reach(snapshot.pools) if snapshot.pools.offers else 0
        self.distinct = sorted({f.want for f in wanted}, key=_hunger)
        """Least hungry first: the order of containers decides nothing."""
        self.offered: Sequence[OfferSummary] = ()
        """What the reachable nodes and pools offer, smallest first."""
        self.verdicts: dict[str, Verdict] = {}
        """MIG resource -> what was found of it, in the order of the offers."""
        self.over = ""
        """What the last quota without room for a slice said."""

    def run(self) -> Chosen | NotChosen:
        self.offered = offered = self._offered()
        if not offered:
            return NotChosen(Reason.NO_REACHABLE_MIG, "no reachable node offers a MIG resource")
        fitting: dict[Want, list[OfferSummary]] = {}
        for want in reversed(self.distinct):
            fitting[want] = found = self._admissible(want, offered)
            if not found:
                return self._none_fits(want)
        tries = self._tries([fitting[want] for want in self.distinct])
        if self.subject.home.quotas:
            tries = iter([chosen for chosen in tries if not self._over_quota(chosen)])
        first = next(tries, None)
        if first is None:
            return NotChosen(Reason.QUOTA, self.over, self._candidates())
        if self._is_free(first):
            return self._settle(first, Reason.FITS, tries)
        return self._when_full(first, list(tries))

    def _reach(self, capacity: Capacity) -> Nodes:
        """Where the pod may land as it will be after injection."""
        inject = self.policy.inject
        return capacity.index.reach(
            self.subject.spec,
            selector=added_selector(self.subject.spec, inject),
            tolerations=inject.tolerations,
        )

    # --- step 5: candidates ----------------------------------------------------------------------

    def _offered(self) -> Sequence[OfferSummary]:
        if not self.pooled:
            return self.capacity.offered(self.nodes)
        grouped = self.capacity.groups(self.nodes)
        for resource, there in self.snapshot.pools.groups(self.pooled).items():
            # Nodes of a pool do not exist yet: they say what fits, and have nothing free.
            grouped.setdefault(resource, []).extend([(offer, 0) for offer, _ in there])
        return smallest_first(grouped)

    def _admissible(self, want: Want, offered: Sequence[OfferSummary]) -> list[OfferSummary]:
        """The offers that would do, fullness apart; the verdict on each is kept."""
        found = []
        for offer in offered:
            objection = self._objection(want, offer)
            if objection is None:
                found.append(offer)
            # What fits one container is a candidate.
            if self.verdicts.get(offer.resource) is not Verdict.FITS:
                self.verdicts[offer.resource] = objection or Verdict.FITS
        return found

    def _candidates(self) -> tuple[Candidate, ...]:
        """What was considered, and what came of it."""
        free = self.capacity.free
        return tuple(
            [
                Candidate(o.resource, o.usable_mib, free(o.resource, o.offering), verdict)
                for o, verdict in zip(self.offered, self.verdicts.values(), strict=True)
            ]
        )

    def _objection(self, want: Want, offer: OfferSummary) -> Verdict | None:
        if want.profile is not None and offer.profile != want.profile:
            return Verdict.NOT_ASKED_FOR
        if offer.shared:
            return Verdict.SHARED
        if offer.special and want.profile is None and not self.policy.allow_special_profiles:
            return Verdict.SPECIAL
        if want.need_mib is not None:
            if offer.usable_mib is None or (offer.uncounted and not offer.guardable):
                return Verdict.MEMORY_UNKNOWN
            if offer.usable_mib < want.need_mib:
                return Verdict.TOO_SMALL
        if offer.compute_slices < want.min_compute:
            return Verdict.TOO_LITTLE_COMPUTE
        if (offer.bandwidth_bytes_s or 0) < want.min_bandwidth_bytes_s:
            return Verdict.TOO_LITTLE_BANDWIDTH
        limited = self.subject.home.limits
        if limited and any(limits.most.get(offer.resource, 1) < 1 for limits in limited):
            return Verdict.LIMIT_RANGE  # asked last: but for the LimitRange it would do
        return None

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

    def _tries(self, lists: Sequence[Sequence[OfferSummary]]) -> Iterator[Chosen]:
        """One offer of each list, in order of the memory the pod would take from its node.

        Of equals, those come first that give less to the less hungry. Of very many combinations
        only those of the smallest few offers each are tried.
        """
        most = max(1, int(MOST_COMBINATIONS ** (1 / len(lists))))
        tries = map(self._try, itertools.product(*(offers[:most] for offers in lists)))
        return tries if len(lists) == 1 else iter(sorted(tries, key=_taken_mib))

    def _try(self, combination: Sequence[OfferSummary]) -> Chosen:
        pick_of = dict(zip(self.distinct, combination, strict=True))
        nodes = self.nodes
        for want, pick in pick_of.items():
            nodes &= pick.offering if want.need_mib is None else pick.nodes
        picks = tuple([pick_of[f.want] for f in self.wanted])
        return Chosen(
            reason=Reason.FITS,
            picks=picks,
            claims=self._claims(picks),
            guards=self._guards(pick_of),
            nodes=nodes,
        )

    def _claims(self, picks: Sequence[OfferSummary]) -> dict[str, int]:
        """What the pod would ask of its node."""
        if len(picks) == 1:  # by far the most frequent
            return {picks[0].resource: 1}
        to = {
            f.container.pointer: pick.resource for f, pick in zip(self.wanted, picks, strict=True)
        }
        return {
            resource: podlib.total(
                [(c.kind, int(to.get(c.pointer) == resource)) for c in self.subject.containers]
            )
            for resource in sorted(set(to.values()))
        }

    def _guards(self, pick_of: Mapping[Want, OfferSummary]) -> tuple[tuple[str, int], ...]:
        """Node labels that kube-scheduler shall check, where we cannot be sure of every node."""
        least: dict[str, int] = {}
        for want, pick in pick_of.items():
            # kube-scheduler asks our filter only about names that its configuration lists: ours does.
            filtered = self.policy.filter and pick.resource in LISTED
            unsure = pick.uncounted or not pick.uniform or not filtered
            if unsure and pick.guardable and want.need_mib is not None:
                label = memory_label(pick.resource)
                least[label] = max(least.get(label, 0), want.need_mib - 1)
        return tuple(sorted(least.items()))

    def _over_quota(self, chosen: Chosen) -> bool:
        """Whether a quota on one of the MIG resources has no room, and remember it."""
        home = self.subject.home
        over = excess(home, self.subject.scope, chosen.claims) if home.quotas else None
        if over is None:
            return False
        self.over = str(over)
        self.verdicts[over.resource] = Verdict.QUOTA
        return True

    def _is_free(self, chosen: Chosen) -> bool:
        taken = self._taken(chosen.claims, chosen.nodes)
        free = self.capacity.room(chosen.claims, self.subject.plain, chosen.nodes, taken)
        if not free:
            self._note(chosen.claims, Verdict.FULL)
        return free

    def _taken(self, claims: Mapping[str, int], nodes: Nodes) -> dict[str, int]:
        return {
            resource: self.capacity.waiting(resource, nodes, self.subject.priority)
            + self.snapshot.reservations.on(resource, nodes)
            for resource in claims
        }

    def _note(self, resources: Iterable[str], verdict: Verdict) -> None:
        for resource in resources:
            self.verdicts[resource] = verdict

    def _take(self, chosen: Chosen, reason: Reason) -> Chosen:
        self._note(chosen.claims, Verdict.CHOSEN)
        return chosen._replace(reason=reason, candidates=self._candidates())

    def _settle(self, found: Chosen, reason: Reason, larger: Iterable[Chosen]) -> Chosen:
        """Take what was found, or with `consolidation.lambda` a larger slice on a GPU in use."""
        weight, ranking = self.policy.consolidation_lambda, self.snapshot.ranking
        if weight <= 0 or ranking is None or sum(found.claims.values()) != 1:
            return self._take(found, reason)
        every = [found, *larger]
        options = [
            Option(chosen.picks[0].resource, chosen.picks[0].memory_slices, chosen.nodes)
            for chosen in every
        ]

        def eligible(position: int) -> bool:
            option, chosen = options[position], every[position]
            taken = self._taken(chosen.claims, chosen.nodes)[option.resource]
            return spare(self.capacity, option, taken) and self._is_free(chosen)

        workload = f"{self.subject.namespace}/{self.subject.workload}"
        spread = self.policy.spread_replicas
        placing = Placing(self.capacity, ranking, self.subject.plain, workload, spread=spread)
        position = prefer(options, weight, placing, eligible)
        return self._take(every[position], Reason.FITS_CONSOLIDATED if position else reason)

    # --- step 7: the smallest is full ------------------------------------------------------------

    def _when_full(self, first: Chosen, larger: Sequence[Chosen]) -> Chosen | NotChosen:
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

    def _could_hold(self, chosen: Chosen) -> bool:
        """Whether some node, were it empty, or some pool's node has all that the pod would ask for."""
        return self.capacity.could_hold(chosen.claims, self.subject.plain, chosen.nodes) or any(
            all(node.gpus.get(name, 0) >= count for name, count in chosen.claims.items())
            for node in self.snapshot.pools.index.members(self.pooled)
        )

    def _whole_now(self) -> bool:
        asked, nodes = self._asked(), self._unchanged()
        return self.capacity.room(asked, self.subject.plain, nodes, self._taken(asked, nodes))

    def _whole_later(self) -> bool:
        if self.capacity.could_hold(self._asked(), self.subject.plain, self._unchanged()):
            return True
        declared = self.policy.autoscaled
        return bool(self.capacity.index.autoscaled) if declared is None else declared


def _hunger(want: Want) -> tuple[int, int, int, str]:
    need = want.need_mib or 0
    return (need, want.min_compute, want.min_bandwidth_bytes_s, want.profile or "")


def _taken_mib(chosen: Chosen) -> int:
    usable = {pick.resource: pick.usable_mib or 0 for pick in chosen.picks}
    return sum(usable[resource] * count for resource, count in chosen.claims.items())
