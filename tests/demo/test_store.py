import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.demo.pods import identified
from extender.demo.refusal import Refused
from extender.demo.store import PODS, Event, Store, Verb, key_of


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return identified({"metadata": {"name": name}, "spec": spec}, "default")


STEPS = st.lists(
    st.tuples(st.sampled_from(["create", "replace", "delete"]), st.sampled_from("abcd")),
    max_size=40,
)


def play(store: Store, steps: list[tuple[str, str]]) -> None:
    for number, (step, name) in enumerate(steps):
        with contextlib.suppress(Refused):  # created twice, changed or deleted while not there
            if step == "create":
                store.create(PODS, pod(name))
            elif step == "replace":
                before = store.get(PODS, ("default", name))
                store.replace(PODS, key_of(before), {**before, "spec": {"n": number}})
            else:
                store.delete(PODS, ("default", name))


async def drained(store: Store, since: int | None) -> list[Event]:
    watch = store.watch(PODS, since)
    watch.close()
    events = []
    while event := await watch.next():
        events.append(event)
    return events


@given(STEPS, STEPS)
async def test_a_list_and_the_watch_from_its_version_give_what_is_there(
    first: list[tuple[str, str]], then: list[tuple[str, str]]
) -> None:
    store = Store()
    play(store, first)
    view = {key_of(item): item for item in store.objects(PODS)}
    version = store.version
    play(store, then)
    for event in await drained(store, version):
        assert event.version > version
        version = event.version
        if event.verb is Verb.DELETED:
            del view[key_of(event.object)]
        else:
            view[key_of(event.object)] = event.object
    assert view == {key_of(item): item for item in store.objects(PODS)}


async def test_a_watch_without_a_version_begins_with_what_is_there() -> None:
    store = Store()
    store.create(PODS, pod("a"))
    (event,) = await drained(store, None)
    assert (event.verb, event.object["metadata"]["name"]) == (Verb.ADDED, "a")


def test_a_watch_from_before_the_compaction_is_refused_with_410() -> None:
    store = Store()
    version = store.version
    store.create(PODS, pod("a"))
    store.compact()
    with pytest.raises(Refused) as refused:
        store.watch(PODS, version)
    assert refused.value.code == 410
    store.watch(PODS, store.version).close()


def test_history_is_bounded_and_what_fell_out_of_it_is_410() -> None:
    store = Store(history=2)
    for name in "abc":
        store.create(PODS, pod(name))
    with pytest.raises(Refused, match="too old resource version"):
        store.watch(PODS, 1)
    store.watch(PODS, 2).close()


def test_a_replacement_of_another_version_is_a_conflict() -> None:
    store = Store()
    stored = store.create(PODS, pod("a"))
    store.replace(PODS, ("default", "a"), {**stored, "spec": {"n": 1}})
    with pytest.raises(Refused) as refused:
        store.replace(PODS, ("default", "a"), {**stored, "spec": {"n": 2}})
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")


def test_a_replacement_keeps_the_identity_of_the_object() -> None:
    store = Store()
    stored = store.create(PODS, pod("a"))
    changed = store.replace(
        PODS, ("default", "a"), {"metadata": {"name": "b", "uid": "other"}, "spec": {}}
    )
    assert changed["metadata"]["uid"] == stored["metadata"]["uid"]
    assert changed["metadata"]["name"] == "a"


def test_a_replacement_that_changes_nothing_makes_no_event() -> None:
    store = Store()
    stored = store.create(PODS, pod("a"))
    version = store.version
    assert store.replace(PODS, ("default", "a"), dict(stored)) is stored
    assert store.version == version


@pytest.mark.parametrize("precondition", [{"uid": "other"}, {"version": "999"}])
def test_a_deletion_with_a_precondition_that_does_not_hold_is_refused(
    precondition: dict[str, str],
) -> None:
    store = Store()
    store.create(PODS, pod("a"))
    with pytest.raises(Refused) as refused:
        store.delete(PODS, ("default", "a"), **precondition)
    assert refused.value.code == 409
    assert store.objects(PODS)
