"""Everything a decision can ask of a `State`, by name: equal for states that answer alike.

Slots, the order of events and how often something was asked leave no trace in it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from extender.cluster.state import State
from extender.core.capacity import Capacity
from extender.core.pod import Ask
from extender.core.reach import NodeIndex, Nodes, slots

SPECS: tuple[Mapping[str, Any], ...] = (
    {},
    {"nodeSelector": {"zone": "a"}},
    {"tolerations": [{"operator": "Exists"}]},
    {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "zone", "operator": "NotIn", "values": ["a"]}
                            ]
                        },
                        {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["3"]}]},
                    ]
                }
            }
        }
    },
)
PRIORITIES = (0, 100)
PLAIN = Ask(cpu_milli=1500, memory_bytes=1 << 30)


def names(index: NodeIndex, nodes: Nodes) -> frozenset[str]:
    """The nodes in a set."""
    found = [index.nodes[slot] for slot in slots(nodes)]
    assert None not in found
    return frozenset(node.name for node in found if node is not None)


def picture(state: State) -> dict[str, Any]:
    """What the state answers, in a form that can be compared."""
    return {
        "capacity": _capacity(state.capacity),
        "pools": _capacity(state.pools),
        "namespaces": dict(state.tenants.by_name),
        "ranking": _ranking(state),
        "observed": {
            workload: dict(found)
            for workload in state.seen_pods._pods
            if (found := state.seen_pods.of(workload))
        },
    }


class _Any:
    """All node names, those that are not there any more included."""

    def __contains__(self, _name: object) -> bool:
        return True


def _ranking(state: State) -> dict[str, Any]:
    resources = sorted(state.capacity.present)
    asks = [(r,) for r in resources] + [tuple(resources)]
    workloads = ["", *sorted(state.capacity.where)]
    return {
        f"{ask} {workload}": state.ranking.scores(_Any(), ask, workload)
        for ask in asks
        for workload in workloads
    }


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two pictures differ, each place in one line."""
    if isinstance(one, dict) and isinstance(other, dict):
        below = [
            differences(one.get(key), other.get(key), f"{path}/{key}") for key in {**one, **other}
        ]
        return [line for lines in below for line in lines]
    return [] if one == other else [f"{path}: {one!r} is not {other!r}"]


def _capacity(capacity: Capacity) -> dict[str, Any]:
    index = capacity.index
    one = {name: 1 << slot for name, slot in index.slot_of.items()}
    resources = sorted(capacity.present)
    return {
        "nodes": {name: index.get(name) for name in one},
        "all": names(index, index.all),
        "cordoned": names(index, index.cordoned),
        "autoscaled": names(index, index.autoscaled),
        "usage": {name: asdict(capacity.usage(name)) for name in {*one, *capacity._orphans}},
        "where": capacity.where,
        "present": {r: names(index, nodes) for r, nodes in capacity.present.items()},
        "offers": {
            resource: {offer: names(index, nodes) for offer, nodes in by_offer.items()}
            for resource, by_offer in capacity.offers.items()
        },
        "free": {r: {n: capacity.free(r, bit) for n, bit in one.items()} for r in resources},
        "free in all": {r: capacity.free(r, index.all) for r in resources},
        "with free": {r: names(index, capacity.with_free(r, index.all)) for r in resources},
        "waiting": {
            (r, name, priority): capacity.waiting(r, bit, priority)
            for r in _asked(capacity)
            for name, bit in one.items()
            for priority in PRIORITIES
        },
        "reach": [names(index, index.reach(spec)) for spec in SPECS],
        "room": {
            (r, count, name)
            for r in resources
            for count in (1, 2)
            for name, bit in one.items()
            if capacity.room({r: count}, PLAIN, bit, {r: 0})
        },
    }


def _asked(capacity: Capacity) -> set[str]:
    return {resource for queue in capacity._queues.values() for resource, _ in queue.asked}
