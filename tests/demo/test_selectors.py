from typing import Any

import pytest

from extender.demo.listing import seen_through
from extender.demo.refusal import Refused
from extender.demo.selectors import selection
from extender.demo.store import PODS, Event, Object, Verb

POD: dict[str, Any] = {
    "metadata": {"name": "a", "labels": {"app": "asr", "tier": "gpu"}},
    "spec": {},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("fields", "labels", "selected"),
    [
        ("", "", True),
        ("status.phase=Running", "", True),
        ("status.phase==Pending", "", False),
        ("status.phase!=Succeeded,status.phase!=Failed", "", True),
        ("spec.nodeName!=", "", False),
        ("spec.nodeName=", "", True),
        ("", "app=asr", True),
        ("", "app=asr,tier!=cpu", True),
        ("", "app", True),
        ("", "!app", False),
        ("", "!other", True),
        ("", "other!=x", True),
        ("status.phase=Running", "app=tts", False),
    ],
)
def test_selectors_select_as_the_api_server_does(fields: str, labels: str, selected: bool) -> None:
    assert selection(fields, labels)(POD) is selected


@pytest.mark.parametrize(("fields", "labels"), [("phase", ""), ("", "app in (a,b)"), ("", "=x")])
def test_a_selector_that_does_not_parse_is_a_400(fields: str, labels: str) -> None:
    with pytest.raises(Refused) as refused:
        selection(fields, labels)
    assert refused.value.code == 400


def event(verb: Verb, before: str | None, after: str) -> Event:
    def item(phase: str) -> Object:
        return {"metadata": {"name": "a"}, "status": {"phase": phase}}

    return Event(verb, PODS, item(after), item(before) if before else None, 1)


@pytest.mark.parametrize(
    ("happened", "seen"),
    [
        (event(Verb.ADDED, None, "Running"), Verb.ADDED),
        (event(Verb.ADDED, None, "Failed"), None),
        (event(Verb.MODIFIED, "Running", "Running"), Verb.MODIFIED),
        (event(Verb.MODIFIED, "Running", "Failed"), Verb.DELETED),
        (event(Verb.MODIFIED, "Failed", "Running"), Verb.ADDED),
        (event(Verb.MODIFIED, "Failed", "Failed"), None),
        (event(Verb.DELETED, "Running", "Running"), Verb.DELETED),
        (event(Verb.DELETED, "Failed", "Failed"), None),
    ],
)
def test_a_watch_with_a_selector_sees_objects_come_and_go(
    happened: Event, seen: Verb | None
) -> None:
    assert seen_through(happened, selection("status.phase!=Failed", "")) is seen
