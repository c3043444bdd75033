"""Requests of the real kube-scheduler, and answers that its decoder takes.

The requests were written down by tests/controlplane/capture.py and are compared there with what the
scheduler asks today. `extender/v1` in Go has no JSON tags: keys are sent by their Go names; unknown
keys are ignored, letter case is not looked at, a number with a decimal point does not fit an int64.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.state import State
from extender.scheduling.verbs import RECONFIGURING, SLICE_TOO_SMALL, Scheduling
from tests.build import JSON, node, state
from tests.draw import clusters, crowds

REQUESTS = {
    file.stem: json.loads(file.read_text("utf-8"))
    for file in sorted((Path(__file__).parent / "requests").glob("*.json"))
}
FILTERS = [name for name in REQUESTS if name.startswith("filter")]
PRIORITIZES = [name for name in REQUESTS if name.startswith("prioritize")]
MOST_WORDS = 6


class FilterResult(msgspec.Struct, forbid_unknown_fields=True):
    """`ExtenderFilterResult`; a null where Go would see nothing is an error here."""

    NodeNames: list[str]
    FailedNodes: dict[str, str]
    FailedAndUnresolvableNodes: dict[str, str]
    Error: str
    Nodes: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class HostPriority(msgspec.Struct, forbid_unknown_fields=True):
    """One of a `HostPriorityList`."""

    Host: str
    Score: int


def scheduling(cluster: State) -> Scheduling:
    return Scheduling(lambda: cluster.capacity, lambda: cluster.ranking, lambda: cluster.policy)


def two_nodes(labels: Mapping[str, str] | None = None) -> State:
    """The nodes of the captured cluster as migfit may know them; `gpu-b` with these labels too."""
    slices = {"2g.20gb": 3}
    return state(node("gpu-a", slices=slices), node("gpu-b", slices=slices, labels=labels))


def body(name: str) -> bytes:
    """What the scheduler sent."""
    return orjson.dumps(REQUESTS[name]["body"])


def names(name: str) -> list[str]:
    """The nodes it asked about."""
    sent = REQUESTS[name]["body"]
    items = (sent["Nodes"] or {"items": []})["items"]
    return sent["NodeNames"] or [item["metadata"]["name"] for item in items]


def check_filter(name: str, cluster: State) -> FilterResult:
    """The answer, which holds what the decoder and the scheduler ask of it."""
    found = msgspec.json.decode(scheduling(cluster).filter(body(name)), type=FilterResult)
    asked, refused = names(name), found.FailedAndUnresolvableNodes
    assert found.Error == ""
    assert sorted([*found.NodeNames, *refused]) == sorted(asked), "each name once, no other"
    assert found.FailedNodes == {}, "nothing that an eviction could mend"
    assert set(refused.values()) <= {RECONFIGURING, SLICE_TOO_SMALL}
    if REQUESTS[name]["body"]["Nodes"] is not None:
        assert found.Nodes is not msgspec.UNSET
        items = REQUESTS[name]["body"]["Nodes"]["items"]
        kept = [item for item in items if item["metadata"]["name"] in found.NodeNames]
        assert found.Nodes["items"] == kept
    return found


def _no_int64(text: str) -> None:
    raise AssertionError(f"{text} is no int64")


def check_prioritize(name: str, cluster: State) -> dict[str, int]:
    """The scores, in the range that the scheduler adds up without looking."""
    answer = scheduling(cluster).prioritize(body(name))
    json.loads(answer, parse_float=_no_int64)
    found = msgspec.json.decode(answer, type=list[HostPriority])
    scores = {each.Host: each.Score for each in found}
    assert len(scores) == len(found)
    assert set(scores) <= set(names(name))
    assert all(1 <= score <= 10 for score in scores.values())
    return scores


def test_there_is_a_request_of_each_verb_with_names_with_whole_nodes_and_with_one_name() -> None:
    assert {*REQUESTS} == {
        "filter-names", "filter-nodes", "filter-one-name", "prioritize-names", "prioritize-nodes",
    }  # fmt: skip
    assert names("filter-one-name") == ["gpu-b"]
    for name, request in REQUESTS.items():
        assert request["path"] == f"/scheduler/{name.partition('-')[0]}"
        assert set(request["body"]) == {"Pod", "Nodes", "NodeNames"}
        assert (request["body"]["Nodes"] is None) is ("nodes" not in name)


@pytest.mark.parametrize("name", FILTERS)
def test_nodes_that_will_do_all_come_back(name: str) -> None:
    assert check_filter(name, two_nodes()).NodeNames == names(name)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("label", "value", "reason"),
    [
        ("nvidia.com/mig.config.state", "pending", RECONFIGURING),
        ("nvidia.com/mig-2g.20gb.memory", "17000", SLICE_TOO_SMALL),
    ],
)
def test_a_node_turned_down_comes_back_with_a_reason(
    name: str, label: str, value: str, reason: str
) -> None:
    found = check_filter(name, two_nodes({label: value}))
    assert found.FailedAndUnresolvableNodes == {"gpu-b": reason}


@pytest.mark.parametrize("name", FILTERS)
def test_nodes_nobody_has_told_us_of_all_come_back(name: str) -> None:
    assert check_filter(name, state(node("stranger"))).NodeNames == names(name)


@pytest.mark.parametrize("name", PRIORITIZES)
def test_scores_are_ranks_of_the_nodes_asked_about(name: str) -> None:
    assert check_prioritize(name, two_nodes()) == {"gpu-a": 10, "gpu-b": 9}
    assert check_prioritize(name, state(node("stranger"))) == {}


@given(st.sampled_from([*REQUESTS]), clusters(), crowds())
def test_whatever_the_cluster_looks_like_the_scheduler_can_read_the_answer(
    name: str, nodes: list[JSON], crowd: list[JSON]
) -> None:
    renamed = dict(zip(("gpu-a", "gpu-b"), nodes, strict=False))
    for known, each in renamed.items():
        each["metadata"]["name"] = known
    check = check_filter if name in FILTERS else check_prioritize
    check(name, state(*renamed.values(), pods=crowd))


@pytest.mark.parametrize("reason", [RECONFIGURING, SLICE_TOO_SMALL])
def test_reasons_can_be_counted_in_an_event_because_they_name_nothing(reason: str) -> None:
    assert len(reason.split()) <= MOST_WORDS
    assert not any(character.isdigit() for character in reason)
