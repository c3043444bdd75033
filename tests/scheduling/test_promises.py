"""What may be relied on while kube-scheduler waits: nothing is asked of others, nothing is changed."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extender.cluster.state import State
from extender.core.rewrite import NEED_ANNOTATION, REWRITTEN_LABEL
from extender.scheduling.verbs import BadArgs, Scheduling
from tests.build import GPU, JSON, bound, changed, mig, node, pod, state
from tests.cluster.picture import differences, picture
from tests.draw import Dice, clusters, crowds, grown, members

SLICE = mig("2g.20gb")
VERBS = ("filter", "prioritize")
verbs = pytest.mark.parametrize("verb", VERBS)


def serving(cluster: State) -> Scheduling:
    return Scheduling(lambda: cluster.capacity, lambda: cluster.ranking, lambda: cluster.policy)


def asking(resource: str = SLICE, need: str = "18Gi", beside: str = "") -> JSON:
    """A pod that our webhook has rewritten."""
    asked = {resource: "1"} | ({beside: "1"} if beside else {})
    tree = pod({"name": "main", "resources": {"limits": asked, "requests": asked}})
    tree = changed(tree, "metadata", "labels", REWRITTEN_LABEL, to="true")
    return changed(tree, "metadata", "annotations", NEED_ANNOTATION, to=need)


def args(tree: JSON, names: list[str]) -> bytes:
    return orjson.dumps({"Pod": tree, "Nodes": None, "NodeNames": names})


def names_of(cluster: State) -> list[str]:
    return sorted(cluster.capacity.index.slot_of)


# --- never touches anything outside ------------------------------------------------------------------

_heard: list[str] | None = None


def _listen(event: str, _args: Any) -> None:
    if _heard is not None:
        _heard.append(event)


sys.addaudithook(_listen)  # for good: one cannot be taken away


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """What CPython's audit hooks tell meanwhile: sockets, files, programs, threads, imports."""
    global _heard  # noqa: PLW0603  the hook is one for the process
    _heard = []
    try:
        yield _heard
    finally:
        _heard = None


@verbs
def test_a_call_opens_no_socket_no_file_and_starts_nothing(verb: str) -> None:
    poor = node("gpu-b", labels={f"{SLICE}.memory": "17000"})
    cluster = state(node("gpu-a"), poor, pods=[bound("p", "gpu-a", {SLICE: 1})])
    call, body = getattr(serving(cluster), verb), args(asking(), ["gpu-a", "gpu-b", "stranger"])
    call(body)
    with listening() as heard:
        call(body)
    assert heard == []
    with listening() as heard, contextlib.suppress(OSError):
        open("/dev/null").close()  # noqa: PTH123
    assert "open" in heard


# --- changes nothing ---------------------------------------------------------------------------------


@given(clusters(), crowds(), st.sampled_from(VERBS), st.data())
def test_a_call_leaves_the_cluster_as_it_is(
    nodes: list[JSON], crowd: list[JSON], verb: str, data: st.DataObject
) -> None:
    cluster = state(*nodes, pods=crowd)
    before = picture(cluster)
    resource = data.draw(st.sampled_from([SLICE, mig("1g.10gb"), GPU]))
    names = data.draw(st.lists(st.sampled_from([*names_of(cluster), "stranger"])))
    call, body = getattr(serving(cluster), verb), args(asking(resource), names)
    once = call(body)
    assert differences(picture(cluster), before) == []
    assert call(body) == once


# --- grows only with the names -----------------------------------------------------------------------

SIBLINGS = "speech/ReplicaSet/asr-5d4f8c7b9d"


def large(count: int) -> State:
    """Nodes of which all kinds of things can be said: small slices, reconfiguration, pods."""
    nodes = [
        node(
            f"n{number:05}",
            labels={
                f"{SLICE}.memory": "17000" if number % 3 else "19968",
                "nvidia.com/mig.config.state": "pending" if number % 5 == 1 else "success",
            },
        )
        for number in range(count)
    ]
    held = [
        bound(f"p{number}", f"n{number:05}", {SLICE: 1 + number % 2}) for number in range(count)
    ]
    return state(*nodes, pods=held)


def steps(call: Callable[[bytes], bytes], body: bytes) -> int:
    """Instructions of Python that a call takes."""
    counted = 0

    def trace(frame: Any, event: str, _arg: Any) -> Any:
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    call(body)  # what has changed since the last question is paid for
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(body)
    finally:
        sys.settrace(before)
    return counted


@verbs
@pytest.mark.parametrize("tree", [asking(), asking(beside=GPU), pod()], ids=["one", "two", "whole"])
@pytest.mark.parametrize("first", [0, -30], ids=["best", "worst"])
def test_the_work_for_a_call_does_not_grow_with_nodes_it_does_not_name(
    verb: str, tree: JSON, first: int
) -> None:
    taken = []
    for count in (200, 2000):
        cluster = large(count)
        names = names_of(cluster)[first:][:30]
        taken.append(steps(getattr(serving(cluster), verb), args(tree, names)))
    assert taken[1] <= 1.1 * taken[0]


@verbs
def test_the_work_for_a_call_grows_no_faster_than_its_names(verb: str) -> None:
    cluster = large(1000)
    call, names = getattr(serving(cluster), verb), names_of(cluster)
    few, many = (steps(call, args(asking(), names[-count:])) for count in (100, 400))
    assert few < many < 5 * few


# --- survives anything -------------------------------------------------------------------------------

WHOLE = [asking(), asking(beside=GPU), pod()]
BODIES: list[JSON] = [
    *({"Pod": tree, "Nodes": None, "NodeNames": ["gpu-0", "gpu-1", "x"]} for tree in WHOLE),
    *(
        {"Pod": tree, "Nodes": {"metadata": {}, "items": [node("gpu-0"), node("gpu-1")]}}
        for tree in WHOLE
    ),
]


JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    0.5,
    "",
    "1",
    "x" * 300,
    "\n",
    "é",
    [],
    [None],
    [[]],
    {},
    {"": {}},
)


def odd(dice: Dice) -> JSON:
    """A request with something else in place of some of its members."""
    tree: JSON = dice.choice(BODIES)
    for _ in range(dice.randint(1, 3)):
        if every := members(tree):
            tree = changed(tree, *dice.choice(every), to=dice.choice(JUNK))
    return tree


def answered(verb: str, tree: JSON) -> Any:
    """The answer, or in one line why there is none."""
    try:
        return orjson.loads(getattr(served_by_all(), verb)(orjson.dumps(tree)))
    except BadArgs as refused:
        return str(refused)


@settings(max_examples=5000)
@given(grown(odd), st.sampled_from(VERBS))
def test_five_thousand_odd_requests_are_each_answered_or_refused_in_one_line(
    tree: JSON, verb: str
) -> None:
    answer = answered(verb, tree)
    if isinstance(answer, str):
        assert answer
        assert "\n" not in answer
    elif verb == "prioritize":
        assert all(set(each) == {"Host", "Score"} for each in answer)
        assert all(type(each["Score"]) is int and 1 <= each["Score"] <= 10 for each in answer)
    else:
        assert isinstance(answer["NodeNames"], list)
        assert answer["Error"] == ""


_served: list[Scheduling] = []


def served_by_all() -> Scheduling:
    """One cluster for all of them."""
    if not _served:
        busy = node("gpu-1", labels={"nvidia.com/mig.config.state": "pending"})
        _served.append(serving(state(node("gpu-0"), busy)))
    return _served[0]
