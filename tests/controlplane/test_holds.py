"""The list of workloads held back, written to a real API server with the rights of the manifests."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from extender.cluster.client import connect
from extender.cluster.holds import CONFIG_MAP, MOST, MOST_BYTES, Hold, Holds, HoldStore
from extender.core.finding import Cause
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.objects import new_namespace
from tests.controlplane.test_reconciler import granted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

EPOCH_S = 1_800_000_000.0


def batched(names: list[str], count: int) -> list[list[str]]:
    return [names[begin : begin + count] for begin in range(0, len(names), count)]


def hold(name: str, kind: str = "Deployment", why: str = "it crashes") -> Hold:
    """A hold for an hour."""
    return Hold("speech", kind, name, Cause.CRASHES, why, EPOCH_S, EPOCH_S + 3600)


class Replicas:
    """Two that may write, each by what it has seen itself: a watch has told them nothing."""

    def __init__(self, plane: ControlPlane, stores: list[HoldStore]) -> None:
        self._plane = plane
        self._stores = stores

    async def write(self, which: int, *holds: Hold) -> bool:
        return await self._stores[which].write(holds, f"replica-{which}")

    @property
    def entries(self) -> dict[str, str]:
        data = self._plane.client.get("ConfigMap", CONFIG_MAP, SYSTEM_NAMESPACE)["data"]
        return {str(entry): str(value) for entry, value in data.items()}


@pytest.fixture
async def replicas(plane: ControlPlane) -> AsyncIterator[Replicas]:
    new_namespace(plane.client, name=SYSTEM_NAMESPACE)
    account = granted(plane)
    async with connect(account.kubeconfig) as client:
        yield Replicas(
            plane,
            [HoldStore(client, SYSTEM_NAMESPACE, Holds(lambda: EPOCH_S)) for _ in range(2)],
        )


async def test_of_two_that_make_the_list_at_once_the_holds_of_both_are_kept(
    replicas: Replicas,
) -> None:
    assert await replicas.write(0, hold("asr"))
    assert await replicas.write(1, hold("llm"))

    assert replicas.entries.keys() == {hold("asr").entry, hold("llm").entry}


async def test_of_two_that_hold_one_workload_back_at_once_the_later_is_refused(
    replicas: Replicas,
) -> None:
    assert await replicas.write(0, hold("asr", why="the first"))
    assert not await replicas.write(1, hold("llm"), hold("asr", why="the second"))

    assert replicas.entries == {hold("asr").entry: hold("asr", why="the first").written()}


async def test_what_is_based_on_an_old_version_of_the_list_is_refused(replicas: Replicas) -> None:
    assert await replicas.write(0, hold("asr"))
    assert await replicas.write(1, hold("llm"))

    assert not await replicas.write(0, hold("bert"))
    assert await replicas.write(1, hold("bert"))
    assert len(replicas.entries) == 3


async def test_a_workload_of_any_name_can_be_held_back(replicas: Replicas) -> None:
    odd = [" ", "a b/ü", "..", "../..", "x" * 253, "\n\t\x00", "😀" * 253, "ß", "a,b=c", "${x}"]
    holds = [hold(name, kind) for kind, name in itertools.product(odd, odd)]

    for each in holds:
        assert await replicas.write(0, each)

    assert replicas.entries == {each.entry: each.written() for each in holds}


async def test_as_many_as_there_may_be_are_taken_by_the_api_server(replicas: Replicas) -> None:
    names = [f"{number:04}{'x' * 240}" for number in range(MOST)]

    for why in ("y" * 300, "ü" * 300):
        for some in batched(names, 250):
            assert await replicas.write(0, *(hold(name, why=why) for name in some))

    size = sum(len(entry) + len(value) for entry, value in replicas.entries.items())
    assert 0.99 * MOST_BYTES < size <= MOST_BYTES
