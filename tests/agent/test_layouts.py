"""From NVML to the score: every layout a card can have, as the agent tells it and the server ranks it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest

from extender.agent.nvml import Nvml
from extender.agent.sampler import Sampler
from extender.cluster.objects import GpuNodeObject, NodeObject
from extender.cluster.state import State
from extender.core.capacity import Holding
from extender.core.catalogue import layouts, resource_name
from extender.core.pod import Ask
from extender.core.policy import Policy
from tests.agent.fakes import Clock, SayingKubelet
from tests.agent.stub import A30, A100, partitioned
from tests.build import GPU
from tests.build import node as node_json

if TYPE_CHECKING:
    from extender.core.catalogue import Layout, Product
    from tests.agent.stub import FakeGpu, Stub

LABELS = {A100.name: "NVIDIA-A100-SXM4-80GB", A30.name: "NVIDIA-A30"}


async def told(
    stub: Stub, clock: Clock, cards: list[FakeGpu], holders: dict[str, list[str]]
) -> GpuNodeObject:
    stub.set_up(*cards)
    kubelet = SayingKubelet(holders)
    sampler = Sampler(Nvml(), kubelet, version="0", clock=clock, wall=clock)
    await sampler.sample()
    sampler.close()
    object_ = {"metadata": {"name": "a"}, "status": sampler.latest}
    return msgspec.convert(object_, GpuNodeObject)


def node(product: Product, layout: Layout) -> NodeObject:
    """A node with two such cards, by its totals."""
    slices = {name: 2 * count for name, count in layout.counts.items()}
    labels = {
        "nvidia.com/gpu.product": LABELS[product.name],
        "nvidia.com/gpu.memory": str(product.nominal_gb * 1024),
        "nvidia.com/gpu.count": "2",
    }
    return msgspec.convert(node_json("a", slices=slices, whole=0, labels=labels), NodeObject)


@pytest.mark.parametrize("product", [A100, A30], ids=lambda product: product.name)
async def test_every_layout_scores_by_where_its_free_slices_are(
    stub: Stub, product: Product
) -> None:
    """Two cards of each layout, one slice of the first held: the others by hand against the ranking."""
    clock, compared = Clock(), 0
    for layout in layouts(product, special=True):
        cards = [partitioned(product, layout.placements) for _ in range(2)]
        for number, (held, _) in enumerate(layout.placements):
            uuid = cards[0].slices[number].uuid
            state = State(Policy(), clock, clock)
            state.nodes.upsert(node(product, layout))
            state.capacity.hold(Holding("a", Ask(), ((resource_name(held), 1),), "ml/Pod/x"))
            state.gpu_nodes.held.upsert(await told(stub, clock, cards, {"x": [uuid]}))

            on_used = Counter(layout.counts) - Counter([held])
            for profile, on_idle in layout.counts.items():
                beside = on_used[profile]
                of_gpu = (beside / 2 + on_idle) / (beside + on_idle)
                asked = resource_name(profile)
                state.ranking.scores({"a"}, {asked})
                cost, _, _ = state.ranking._keys["a"][asked]
                assert cost == pytest.approx(1 / 2 + of_gpu), (layout, held, profile)
                compared += 1
    assert compared > 10


async def test_whole_cards_beside_cut_ones_are_no_slices(stub: Stub) -> None:
    clock = Clock()
    cut, whole = partitioned(A100, [("3g.40gb", 4)]), partitioned(A100, [])
    whole.mig = False
    state = State(Policy(), clock, clock)
    labels = {"nvidia.com/gpu.count": "2"}
    slices = {"3g.40gb": 1}
    state.nodes.upsert(
        msgspec.convert(node_json("a", slices=slices, whole=1, labels=labels), NodeObject)
    )
    state.capacity.hold(Holding("a", Ask(), ((GPU, 1),), "ml/Pod/x"))
    state.gpu_nodes.held.upsert(await told(stub, clock, [cut, whole], {"x": [whole.uuid]}))

    state.ranking.scores({"a"}, {resource_name("3g.40gb")})

    # The pod's card would be the idle one, and the node stays in use half a lifetime longer.
    assert state.ranking._keys["a"][resource_name("3g.40gb")][0] == 1.5
    assert state.ranking._keys["a"].keys() == {resource_name("3g.40gb"), GPU}
