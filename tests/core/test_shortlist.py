"""What would hold a pod: how long that is true, and how much is tried for the strangest of pods."""

from typing import Any

import msgspec

from extender.cluster.objects import NodeObject, PodObject
from extender.cluster.state import State
from extender.core.footprint import footprints
from extender.core.policy import Policy, Pool
from extender.core.quota import Namespace
from extender.core.shortlist import MOST_CONTAINERS_LOOKED_AT, Shortlist
from extender.core.subject import subject_of
from tests.build import JSON, bound, container, mig, node, pod, state

SLICES = {"1g.10gb": 2, "2g.20gb": 2, "3g.40gb": 2, "7g.80gb": 1}


def shortlist(tree: JSON, cluster: State) -> Shortlist:
    subject = subject_of(tree, "speech", Namespace(), cluster.policy)
    wanted = footprints(subject, cluster.policy)
    assert isinstance(wanted, tuple)
    return Shortlist(subject, wanted, cluster.snapshot(), cluster.policy)


def wanting(*footprints_gb: int) -> JSON:
    """A pod with an init container for each, and one container without a GPU."""
    names = [f"c{number}" for number in range(len(footprints_gb))]
    tree: JSON = pod(container("main", gpu=None), initContainers=[container(n) for n in names])
    for name, size in zip(names, footprints_gb, strict=True):
        tree["metadata"]["annotations"][f"gpu-memory.migfit.io/{name}"] = f"{size}G"
    return tree


def test_it_holds_until_nodes_or_pools_change_whatever_pods_do() -> None:
    cluster = state(node(slices=SLICES))

    found = shortlist(pod(), cluster)
    cluster.pods.upsert(msgspec.convert(bound("asr-1", "gpu-a", {mig("2g.20gb"): 1}), PodObject))
    assert found.holds(cluster.snapshot())

    cluster.nodes.upsert(msgspec.convert(node("gpu-b", slices=SLICES), NodeObject))
    assert not found.holds(cluster.snapshot())

    found = shortlist(pod(), cluster)
    cluster.set_policy(Policy(pools=(Pool(name="mig", slices={mig("2g.20gb"): 4}),)))
    assert not found.holds(cluster.snapshot())


def test_what_is_larger_comes_after_the_first_each_once() -> None:
    found = shortlist(pod(), state(node(slices=SLICES)))
    assert found.first is not None
    profiles = [choice.pick.profile for choice in (found.first, *found.larger())]
    assert profiles == ["2g.20gb", "3g.40gb", "7g.80gb"]


def test_of_several_wants_the_choices_come_by_the_memory_that_they_take() -> None:
    found = shortlist(wanting(5, 12), state(node(slices=SLICES)))
    choices = [found.first, *found.larger()]
    assert len(choices) == 4 * 3
    taken: list[Any] = [
        sum((pick.usable_mib or 0) * choice.claims[pick.resource] for pick in set(choice.picks))
        for choice in choices
        if choice is not None
    ]
    assert taken == sorted(taken)


def test_the_more_containers_a_pod_has_the_fewer_choices_are_tried() -> None:
    sizes = [(4, 8, 12, 16, 20)[number % 5] for number in range(1000)]
    found = shortlist(wanting(*sizes), state(node(slices=SLICES)))
    assert found.first is not None
    tried = 1 + len(list(found.larger()))
    assert tried * len(sizes) <= MOST_CONTAINERS_LOOKED_AT
    assert found.first.pick.profile == "3g.40gb"
