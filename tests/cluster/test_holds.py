"""Holds as they are written, read by everybody, spoiled by somebody, and come to their end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.holds import CONFIG_MAP, MOST, Hold, Holds, HoldStore, read_hold, rfc3339
from extender.cluster.objects import ConfigMapObject
from extender.core.eligible import not_ours
from extender.core.finding import Cause
from extender.core.policy import Policy
from extender.core.quota import Namespace
from extender.core.reason import Reason
from extender.core.subject import subject_of
from tests.build import Clock, pod, state
from tests.cluster.rewritten_pods import EPOCH_S
from tests.cluster.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = f"/api/v1/namespaces/ours/configmaps/{CONFIG_MAP}"
HOUR_S = 3600.0


def hold(name: str = "asr", **fields: Any) -> Hold:
    """Of a Deployment, for an hour."""
    known: dict[str, Any] = {"why": "it crashes", "since_s": EPOCH_S, "until_s": EPOCH_S + HOUR_S}
    return Hold("speech", "Deployment", name, Cause.CRASHES, **{**known, **fields})


class World:
    """A ConfigMap, and a replica that reads it."""

    def __init__(self) -> None:
        self.shelf, self.clock = Shelf(), Clock()
        self.now_s = EPOCH_S
        self.holds = Holds(lambda: self.now_s, self.clock)
        self.store = HoldStore(self.shelf.client, "ours", self.holds)

    async def write(self, *holds: Hold) -> bool:
        return await self.store.write(holds, "replica-0")

    def read(self, data: Mapping[str, str], version: str = "1") -> None:
        """The watch tells of the ConfigMap."""
        body = {"metadata": {"name": CONFIG_MAP, "resourceVersion": version}, "data": data}
        self.holds.upsert(msgspec.convert(body, ConfigMapObject))

    @property
    def data(self) -> dict[str, str]:
        data: dict[str, str] = self.shelf.objects[PATH]["data"]
        return data


holds = st.builds(
    Hold,
    namespace=st.sampled_from(["speech", "vision"]),
    kind=st.sampled_from(["Deployment", "Job", "Pod"]) | st.text(min_size=1, max_size=300),
    name=st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?", fullmatch=True)
    | st.text(min_size=1, max_size=300),
    cause=st.sampled_from(Cause),
    why=st.text(max_size=400),
    since_s=st.integers(0, 2**33).map(float),
    until_s=st.integers(0, 2**33).map(float),
    deleted_s=st.none() | st.integers(0, 2**33).map(float),
)


@given(holds)
def test_a_hold_is_read_as_it_was_written(one: Hold) -> None:
    read = read_hold(one.written())

    assert read.key == one.key
    assert (read.cause, read.since_s, read.until_s) == (one.cause, one.since_s, one.until_s)
    assert read.deleted_s == one.deleted_s
    assert one.why.startswith(read.why)


@given(holds)
def test_an_entry_is_a_key_that_a_config_map_may_have(one: Hold) -> None:
    assert len(one.entry) <= 253
    assert set(one.entry) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
    )


@given(holds, holds)
def test_no_two_workloads_have_the_same_entry(one: Hold, other: Hold) -> None:
    workloads = {(each.namespace, each.kind, each.name) for each in (one, other)}

    assert len({one.entry, other.entry}) == len(workloads)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Work flow", "asr"), ("Work_flow", "asr")),
        (("Work.flow", "asr"), ("Work", "flow.asr")),
        (("Workflow", "x" * 300 + "1"), ("Workflow", "x" * 300 + "2")),
    ],
)
def test_workloads_whose_names_look_alike_in_a_key_have_entries_of_their_own(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    entries = {replace(hold(), kind=kind, name=name).entry for kind, name in (one, other)}

    assert len(entries) == 2


def test_an_entry_is_named_so_that_a_person_finds_it() -> None:
    assert hold().entry == "speech.Deployment.asr"


async def test_what_one_replica_writes_another_reads() -> None:
    world, other = World(), World()

    await world.write(hold())
    other.read(world.data)

    assert dict(world.holds) == dict(other.holds) == {("speech", "Deployment/asr"): HOUR_S}


def test_a_pod_of_a_workload_held_back_is_left() -> None:
    world = World()
    world.read({"x": hold().written()})
    cluster = state()
    cluster.held = world.holds
    subject = subject_of(pod(), "speech", Namespace(), Policy())

    told = not_ours(subject, cluster.snapshot(), Policy())
    world.now_s += HOUR_S

    assert told == (Reason.BACKED_OFF, "Deployment/asr runs whole for another 60 min")
    assert not_ours(subject, cluster.snapshot(), Policy()) is None


def test_a_hold_ends_by_itself() -> None:
    world = World()
    world.read({"x": hold().written()})
    assert len(world.holds) == 1

    world.now_s += HOUR_S

    assert dict(world.holds) == {}
    assert world.holds.get_hold(hold().key) is None


def test_a_hold_ends_when_its_entry_or_the_whole_config_map_is_taken_away() -> None:
    world = World()
    two = {"x": hold().written(), "y": hold("other").written()}
    world.read(two)
    world.read({"y": two["y"]}, "2")
    assert list(world.holds) == [("speech", "Deployment/other")]

    gone = {"metadata": {"name": CONFIG_MAP, "resourceVersion": "3"}}
    world.holds.remove(msgspec.convert(gone, ConfigMapObject))

    assert dict(world.holds) == {}
    assert world.holds.version is None


def test_a_list_without_the_config_map_says_that_there_is_none() -> None:
    world = World()
    world.read({"x": hold().written()})

    world.holds.listing()
    world.holds.listed()

    assert dict(world.holds) == {}
    assert world.holds.version is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "tomorrow",
        "[]",
        "null",
        "{}",
        '{"namespace": "speech", "kind": "Deployment", "name": "asr"}',
        '{"namespace": "speech", "kind": "Deployment", "name": "asr", "until": "soon"}',
        '{"namespace": "speech", "kind": "Deployment", "name": "asr", "until": "2030-01-01T00:00:00"}',
        '{"namespace": 1, "kind": "Deployment", "name": "asr", "until": "2030-01-01T00:00:00Z"}',
        "[" * 100_000,
    ],
)
def test_of_broken_content_the_good_entries_are_kept_and_the_rest_is_told_in_one_line(
    value: str,
) -> None:
    world = World()

    with structlog.testing.capture_logs() as lines:
        world.read({"good": hold().written(), "bad": value, "worse": value})
        world.read({"good": hold().written(), "bad": value, "worse": value}, "2")

    assert list(world.holds) == [("speech", "Deployment/asr")]
    [line] = lines
    assert (line["entries"], line["first"], line["log_level"]) == (2, "bad", "warning")


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=50), max_size=5))
def test_whatever_it_holds_reading_never_fails(data: dict[str, str]) -> None:
    world = World()

    world.read({**data, "good one": hold().written()})

    assert ("speech", "Deployment/asr") in world.holds


def test_a_hold_that_an_admin_writes_needs_four_fields() -> None:
    hand = '{"namespace": "a", "kind": "Job", "name": "b", "until": "2030-01-01T00:00:00+02:00"}'

    assert read_hold(hand).key == ("a", "Job/b")
    assert rfc3339(read_hold(hand).until_s) == "2029-12-31T22:00:00Z"


@pytest.mark.parametrize("entry", ["a", "z"])
async def test_of_two_entries_for_one_workload_the_longer_counts_and_the_last_deletion(
    entry: str,
) -> None:
    world = World()
    ours = hold(deleted_s=EPOCH_S - 5)
    by_hand = hold(until_s=EPOCH_S + 2 * HOUR_S)

    world.read({"speech.Deployment.asr": ours.written(), entry: by_hand.written()})

    assert world.holds.get_hold(ours.key) == replace(by_hand, deleted_s=EPOCH_S - 5)


async def test_what_was_changed_meanwhile_is_not_written_over() -> None:
    world = World()
    await world.write(hold())
    version = world.shelf.objects[PATH]["metadata"]
    version["resourceVersion"] = "77"

    written = await world.write(hold("other"))

    assert not written
    assert list(world.data) == ["speech.Deployment.asr"]


async def test_of_two_that_make_it_at_once_both_are_kept_but_not_two_about_one_workload() -> None:
    world = World()
    stores = [HoldStore(world.shelf.client, "ours", Holds(lambda: EPOCH_S)) for _ in range(3)]
    asr, llm, other = hold(), hold("llm"), hold(why="another reason")

    written = [
        await store.write([each], each.why)
        for store, each in zip(stores, (asr, llm, other), strict=True)
    ]

    assert written == [True, True, False]
    assert world.data == {asr.entry: asr.written(), llm.entry: llm.written()}


async def test_what_came_after_a_write_is_not_forgotten_when_its_answer_comes() -> None:
    world = World()
    await world.write(hold())

    def lift(_method: str, _path: str, _body: bytes) -> None:
        made = world.shelf.change(PATH, {"data": {hold().entry: None}})
        world.read(made["data"], made["metadata"]["resourceVersion"])

    world.shelf.after = lift
    await world.write(hold("other"))

    assert list(world.holds) == [hold("other").key]


async def test_what_has_ended_is_taken_out_with_the_next_write() -> None:
    world = World()
    await world.write(hold(), hold("longer", until_s=EPOCH_S + 3 * HOUR_S))

    world.now_s += 2 * HOUR_S
    await world.write(hold("new", until_s=EPOCH_S + 3 * HOUR_S))

    assert sorted(world.data) == ["speech.Deployment.longer", "speech.Deployment.new"]


async def test_of_more_than_a_thousand_the_broken_go_first_and_then_the_oldest() -> None:
    world = World()
    late_s = EPOCH_S + 100 * HOUR_S
    await world.write(
        *(hold(f"asr-{n}", since_s=EPOCH_S + n, until_s=late_s) for n in range(MOST - 1))
    )
    world.read({**world.data, "broken": "x"}, world.holds.version or "")
    world.shelf.objects[PATH]["data"]["broken"] = "x"

    new = [hold(f"new-{n}", since_s=EPOCH_S, until_s=late_s) for n in range(3)]
    await world.write(*new)

    assert len(world.data) == MOST
    assert "broken" not in world.data
    assert {each.entry for each in new} <= world.data.keys()
    oldest = {f"speech.Deployment.asr-{n}" for n in range(3)}
    assert oldest - world.data.keys() == {f"speech.Deployment.asr-{n}" for n in range(2)}


async def test_it_never_grows_beyond_what_the_api_server_takes() -> None:
    world = World()
    late_s = EPOCH_S + 100 * HOUR_S
    for number in range(3):
        await world.write(
            *(
                hold(
                    f"{number}-{n}-{'x' * 240}",
                    why="ü" * 400,
                    since_s=EPOCH_S + number,
                    until_s=late_s,
                )
                for n in range(600)
            )
        )

    size = sum(len(entry) + len(value) for entry, value in world.data.items())
    assert 850 * 1024 < size < 1024 * 1024
    assert all(entry.startswith("speech.Deployment.2-") for entry in world.data)


async def test_of_too_many_those_of_bare_pods_go_first() -> None:
    world = World()
    await world.write(hold("old"))

    pods = [
        replace(hold(f"step-{n}", since_s=EPOCH_S + 1), kind="Pod", namespace=f"tenant-{n % 7}")
        for n in range(MOST + 50)
    ]
    await world.write(*pods)

    assert len(world.data) == MOST
    assert hold("old").entry in world.data


async def test_a_namespace_with_very_many_pushes_out_its_own_and_nobody_elses() -> None:
    world = World()
    await world.write(*(hold(f"asr-{n}") for n in range(20)))

    for number in range(2):
        made = (hold(f"{number}-{n}", since_s=EPOCH_S + 1) for n in range(MOST))
        await world.write(*(replace(each, namespace="crowded", kind="Workflow") for each in made))

    assert len(world.data) == MOST
    assert {hold(f"asr-{n}").entry for n in range(20)} <= world.data.keys()
    assert sum(entry.startswith("crowded.Workflow.1-") for entry in world.data) == MOST - 20


async def test_what_does_not_fit_is_left_out_and_nothing_else() -> None:
    world = World()
    await world.write(hold())

    await world.write(hold("x" * 950_000, since_s=EPOCH_S + 1), hold("other"))

    assert sorted(world.data) == ["speech.Deployment.asr", "speech.Deployment.other"]


async def test_since_when_a_hold_is_known_is_told_by_the_own_clock() -> None:
    world = World()
    assert world.holds.known_s(hold().key) == 0
    await world.write(hold())
    world.clock.now_s += 7
    world.read(world.data, "2")

    assert world.holds.known_s(hold().key) == 7
