from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.state import State
from extender.core.policy import Policy
from extender.core.rewrite import NEED_ANNOTATION, REWRITTEN_LABEL
from extender.scheduling.verbs import RECONFIGURING, SLICE_TOO_SMALL, BadArgs, Scheduling, read_args
from tests.build import GPU, JSON, bound, changed, container, mig, node, pod, state
from tests.draw import anything, clusters, crowds, mangled

MIDDLE = mig("2g.20gb")
MEMORY = f"{MIDDLE}.memory"


def scheduling(cluster: State) -> Scheduling:
    return Scheduling(
        capacity=lambda: cluster.capacity,
        ranking=lambda: cluster.ranking,
        policy=lambda: cluster.policy,
    )


def rewritten(*slices: str, need: str | None = "10987Mi") -> JSON:
    """A pod as it comes out of our webhook, with a container for each slice."""
    held = [
        {"name": f"c{n}", "resources": {"limits": {mig(p): "1"}, "requests": {mig(p): "1"}}}
        for n, p in enumerate(slices or ("2g.20gb",))
    ]
    tree = changed(pod(*held), "metadata", "labels", REWRITTEN_LABEL, to="true")
    return changed(tree, "metadata", "annotations", NEED_ANNOTATION, to=need) if need else tree


def args(tree: JSON, *names: str) -> bytes:
    """ExtenderArgs as kube-scheduler sends them with `nodeCacheCapable: true`."""
    return orjson.dumps({"Pod": tree, "Nodes": None, "NodeNames": list(names)})


def filtered(tree: JSON, cluster: State, *names: str) -> JSON:
    found: JSON = orjson.loads(scheduling(cluster).filter(args(tree, *names)))
    return found


def prioritized(tree: JSON, cluster: State, *names: str) -> dict[str, int]:
    """Host -> score."""
    found: list[JSON] = orjson.loads(scheduling(cluster).prioritize(args(tree, *names)))
    assert all(set(each) == {"Host", "Score"} for each in found)
    return {each["Host"]: each["Score"] for each in found}


# --- the wire --------------------------------------------------------------------------------------


def body(**fields: Any) -> bytes:
    return orjson.dumps({"Pod": rewritten(), "NodeNames": ["gpu-a"], **fields})


@pytest.mark.parametrize("change", [str, str.lower, str.upper, str.swapcase, str.title])
def test_keys_are_taken_in_any_letter_case(change: Any) -> None:
    read = read_args(orjson.dumps({change("Pod"): pod(), change("NodeNames"): ["a", "b"]}))
    assert (read.pod, read.names, read.nodes) == (pod(), ["a", "b"], None)


def test_camel_case_is_taken_too() -> None:
    assert read_args(orjson.dumps({"pod": pod(), "nodeNames": ["a"]})).names == ["a"]
    assert read_args(orjson.dumps({"Pod": pod(), "nodeNames": ["a"]})).names == ["a"]


def test_names_or_whole_nodes_may_be_null_but_not_both() -> None:
    assert read_args(body(Nodes=None)).names == ["gpu-a"]
    whole = read_args(body(NodeNames=None, Nodes={"metadata": {}, "items": [node("b")]}))
    assert whole.names == ["b"]
    with pytest.raises(BadArgs, match="neither NodeNames nor Nodes"):
        read_args(body(NodeNames=None, Nodes=None))


@pytest.mark.parametrize("items", [None, []])
def test_a_list_of_no_nodes_is_answered_with_one(items: object) -> None:
    served = scheduling(state())
    answer = orjson.loads(served.filter(body(NodeNames=None, Nodes={"items": items})))
    assert (answer["NodeNames"], answer["Nodes"]["items"]) == ([], [])


@pytest.mark.parametrize(
    ("junk", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"Pod":' + b"[" * 10_000, "not JSON"),
        (body().replace(b"gpu-a", b"\xff"), "not JSON"),
        (body().replace(b"asr", b"\xff"), "not JSON"),
        (b"[]", "not ExtenderArgs"),
        (b"7", "not ExtenderArgs"),
        (b"{}", "no Pod"),
        (body(Pod=None), "no Pod"),
        (body(Pod=[]), "no Pod"),
        (body(NodeNames="gpu-a"), "neither NodeNames nor Nodes"),
        (body(NodeNames={}), "neither NodeNames nor Nodes"),
        (body(NodeNames=None, Nodes=[]), "neither NodeNames nor Nodes"),
    ],
)
def test_what_is_no_extender_args_is_refused_with_why(junk: bytes, why: str) -> None:
    served = scheduling(state())
    for verb in (served.filter, served.prioritize):
        with pytest.raises(BadArgs, match=why):
            verb(junk)


@given(
    mangled(st.sampled_from([orjson.loads(body()), orjson.loads(body(Nodes={"items": [node()]}))]))
)
def test_whatever_comes_is_answered_or_refused_in_one_line(tree: JSON) -> None:
    reconfiguring = node("gpu-b", labels={"nvidia.com/mig.config.state": "pending"})
    served = scheduling(state(node(), reconfiguring))
    for verb in (served.filter, served.prioritize):
        try:
            answer = verb(orjson.dumps(tree))
        except BadArgs as refused:
            line = str(refused)
        else:
            line = "answered"
            assert orjson.loads(answer) is not None
        assert line
        assert "\n" not in line


@given(anything)
def test_names_may_be_any_json(junk: Any) -> None:
    reconfiguring = node(labels={"nvidia.com/mig.config.state": "pending"})
    served = scheduling(state(reconfiguring))
    for verb in (served.filter, served.prioritize):
        try:
            answer = orjson.loads(verb(body(NodeNames=[junk, "gpu-a"])))
        except BadArgs as refused:
            answer = str(refused)
        assert answer == "NodeNames holds something else than names" or isinstance(
            answer, dict | list
        )


def test_nodes_too_deep_to_be_sent_back_are_refused() -> None:
    deep = b'{"Pod":{},"Nodes":{"items":[' + b"[" * 400 + b"]" * 400 + b',{"a":'
    deep += b"[" * 400 + b"]" * 400 + b"}]}}"
    with pytest.raises(BadArgs, match="cannot be sent back"):
        scheduling(state()).filter(deep)


# --- filter ----------------------------------------------------------------------------------------

PENDING = {"nvidia.com/mig.config.state": "pending"}
POOR = {MEMORY: "17000"}


def test_nodes_that_will_do_pass_and_no_key_is_left_out() -> None:
    assert filtered(rewritten(), state(node("a"), node("b")), "a", "b") == {
        "NodeNames": ["a", "b"],
        "FailedNodes": {},
        "FailedAndUnresolvableNodes": {},
        "Error": "",
    }


@pytest.mark.parametrize("value", ["pending", "rebooting"])
def test_a_node_under_reconfiguration_is_turned_down_for_good(value: str) -> None:
    busy = node("b", labels={"nvidia.com/mig.config.state": value})
    answer = filtered(rewritten(), state(node("a"), busy), "a", "b")
    assert answer["NodeNames"] == ["a"]
    assert answer["FailedAndUnresolvableNodes"] == {"b": RECONFIGURING}
    assert answer["FailedNodes"] == {}


def test_a_node_whose_slice_is_too_small_for_the_need_is_turned_down_for_good() -> None:
    cluster = state(node("a"), node("b", labels=POOR))
    answer = filtered(rewritten(need="18Gi"), cluster, "a", "b")
    assert answer["NodeNames"] == ["a"]
    assert answer["FailedAndUnresolvableNodes"] == {"b": SLICE_TOO_SMALL}
    assert filtered(rewritten(need="17000Mi"), cluster, "a", "b")["NodeNames"] == ["a", "b"]


def test_of_several_slices_the_largest_has_to_hold_the_need() -> None:
    tree = rewritten("1g.10gb", "2g.20gb", need="18Gi")
    cluster = state(node("a"), node("b", labels=POOR))
    assert filtered(tree, cluster, "a", "b")["NodeNames"] == ["a"]


@pytest.mark.parametrize("labels", [{MEMORY: "0"}, {"nvidia.com/mig.strategy": "single"}])
def test_a_node_of_which_nothing_is_known_passes(labels: dict[str, str]) -> None:
    unknown = state(node(labels=labels))
    assert filtered(rewritten(need="60Gi"), unknown, "gpu-a")["NodeNames"] == ["gpu-a"]


def test_names_we_do_not_know_pass() -> None:
    answer = filtered(rewritten(), state(node(labels=PENDING)), "new-node", "gpu-a")
    assert answer["NodeNames"] == ["new-node"]


def test_every_node_turned_down_is_an_empty_list_never_null() -> None:
    answer = filtered(rewritten(), state(node(labels=PENDING)), "gpu-a")
    assert answer["NodeNames"] == []


def test_it_is_told_when_no_node_is_left_so_that_the_caller_may_look_again() -> None:
    cluster = state(node("a", labels=PENDING), node("b"))
    verbs = scheduling(cluster)
    assert verbs.filtered(args(rewritten(), "a")).leaves_no_node
    assert not verbs.filtered(args(rewritten(), "a", "b")).leaves_no_node
    assert not verbs.filtered(args(rewritten())).leaves_no_node


@pytest.mark.parametrize("need", [None, "", "much", "-5"])
def test_a_need_that_says_nothing_turns_no_node_down(need: str | None) -> None:
    tree = rewritten(need=None)
    if need is not None:
        tree = changed(tree, "metadata", "annotations", NEED_ANNOTATION, to=need)
    answer = filtered(tree, state(node(labels=POOR)), "gpu-a")
    assert answer["NodeNames"] == ["gpu-a"]


@pytest.mark.parametrize(
    "tree",
    [
        changed(rewritten(need="60Gi"), "metadata", "labels", to={}),
        changed(rewritten(need="60Gi"), "metadata", "labels", REWRITTEN_LABEL, to="false"),
        changed(pod(), "metadata", "labels", REWRITTEN_LABEL, to="true"),
        changed(pod(container(gpu=None)), "metadata", "labels", REWRITTEN_LABEL, to="true"),
    ],
)
def test_pods_we_did_not_rewrite_see_every_node(tree: JSON) -> None:
    cluster = state(node("a", labels=PENDING), node("b", labels=POOR))
    answer = filtered(tree, cluster, "a", "b")
    assert (answer["NodeNames"], answer["FailedAndUnresolvableNodes"]) == (["a", "b"], {})


def test_the_filter_can_be_switched_off() -> None:
    cluster = state(node(labels=PENDING), policy=Policy(filter=False))
    assert filtered(rewritten(), cluster, "gpu-a")["NodeNames"] == ["gpu-a"]


def test_whole_nodes_come_back_whole() -> None:
    sent = {"metadata": {}, "items": [node("a"), node("b", labels=PENDING)]}
    cluster = state(node("a"), node("b", labels=PENDING))
    found = scheduling(cluster).filter(body(NodeNames=None, Nodes=sent))
    answer = orjson.loads(found)
    assert answer["Nodes"] == {"metadata": {}, "items": [node("a")]}
    assert answer["NodeNames"] == ["a"]
    assert answer["FailedAndUnresolvableNodes"] == {"b": RECONFIGURING}


@given(clusters(), st.sampled_from(["8Gi", "9600Mi", "18Gi", None]), st.data())
def test_a_node_is_turned_down_exactly_when_eviction_could_not_help(
    nodes: list[JSON], need: str | None, data: st.DataObject
) -> None:
    cluster = state(*nodes)
    tree = rewritten(data.draw(st.sampled_from(["1g.10gb", "2g.20gb"])), need=need)
    asked = next(iter(tree["spec"]["containers"][0]["resources"]["limits"]))
    names = [each["metadata"]["name"] for each in nodes]
    need_mib = {"8Gi": 8192, "9600Mi": 9600, "18Gi": 18432, None: 0}[need]
    expected = {}
    for each in nodes:
        known = cluster.capacity.index.get(each["metadata"]["name"])
        assert known is not None
        offer = known.offers.get(asked)
        if known.reconfiguring:
            expected[known.name] = RECONFIGURING
        elif offer is not None and offer.usable_mib is not None and offer.usable_mib < need_mib:
            expected[known.name] = SLICE_TOO_SMALL
    answer = filtered(tree, cluster, *names)
    assert answer["FailedAndUnresolvableNodes"] == expected
    assert answer["NodeNames"] == [name for name in names if name not in expected]


# --- prioritize ------------------------------------------------------------------------------------


def owned(tree: JSON, workload: str) -> JSON:
    """A pod of a StatefulSet."""
    owner = {"kind": "StatefulSet", "name": workload, "controller": True}
    return changed(tree, "metadata", "ownerReferences", to=[owner])


def packed(*pods_on: int, workloads: str = "x") -> State:
    """Nodes `n0`, `n1` ... with so many pods on each, all of one workload for each node."""
    held = [
        owned(
            bound(f"p-{n}-{k}", f"n{n}", {MIDDLE: 1}),
            workloads[min(n, len(workloads) - 1)],
        )
        for n, count in enumerate(pods_on)
        for k in range(count)
    ]
    names = [f"n{n}" for n in range(len(pods_on))]
    return state(*(node(name, slices={"2g.20gb": 15}) for name in names), pods=held)


@pytest.mark.parametrize("tree", [rewritten(), pod(), pod(container(gpu="4"))])
def test_pods_with_gpus_or_slices_go_where_most_gpu_pods_are(tree: JSON) -> None:
    assert prioritized(tree, packed(1, 3, 0), "n0", "n1", "n2") == {"n1": 10, "n0": 9, "n2": 8}


def test_pods_without_gpus_get_no_scores() -> None:
    assert scheduling(packed(1)).prioritize(args(pod(container(gpu=None)), "n0")) == b"[]"


def test_scores_are_ranks_and_from_the_eleventh_node_on_there_are_none() -> None:
    names = [f"n{n}" for n in range(12)]
    scores = prioritized(rewritten(), packed(*range(12)), *names)
    assert list(scores.values()) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert list(scores)[:3] == ["n11", "n10", "n9"]
    assert "n1" not in scores


def test_scores_are_sent_as_integers() -> None:
    found = scheduling(packed(1)).prioritize(args(rewritten(), "n0"))
    assert found == b'[{"Host":"n0","Score":10}]'


def test_ties_are_in_a_fixed_order_whatever_order_the_names_come_in() -> None:
    cluster = packed(0, 0, 0)
    assert prioritized(rewritten(), cluster, "n2", "n0", "n1") == {"n0": 10, "n1": 9, "n2": 8}


def test_unknown_names_get_no_score_and_no_names_an_empty_list() -> None:
    assert prioritized(rewritten(), packed(1), "n0", "stranger") == {"n0": 10}
    assert scheduling(packed(1)).prioritize(args(rewritten())) == b"[]"


def test_whole_nodes_are_scored_by_their_names() -> None:
    sent = {"items": [node("n0"), node("n1")]}
    found = scheduling(packed(1, 2)).prioritize(body(NodeNames=None, Nodes=sent))
    assert orjson.loads(found) == [{"Host": "n1", "Score": 10}, {"Host": "n0", "Score": 9}]


def test_replicas_are_spread_over_used_nodes_but_not_onto_idle_ones() -> None:
    cluster, names = packed(3, 1, 0, workloads="xyz"), ("n0", "n1", "n2")
    assert list(prioritized(owned(rewritten(), "x"), cluster, *names)) == ["n1", "n0", "n2"]
    assert list(prioritized(owned(rewritten(), "y"), cluster, *names)) == ["n0", "n1", "n2"]
    cluster.set_policy(Policy(spread_replicas=False))
    assert list(prioritized(owned(rewritten(), "x"), cluster, *names)) == ["n0", "n1", "n2"]


def test_neither_verb_changes_anything() -> None:
    cluster = packed(1, 2)
    served = scheduling(cluster)
    before = prioritized(pod(), cluster, "n0", "n1")
    for _ in range(3):
        served.filter(args(rewritten(), "n0", "n1"))
        served.prioritize(args(rewritten(), "n0", "n1"))
    assert prioritized(pod(), cluster, "n0", "n1") == before
    assert cluster.capacity.usage("n0").gpu_pods == 1


@given(clusters(), crowds(), st.data())
def test_only_names_that_were_sent_are_scored_each_once(
    nodes: list[JSON], crowd: list[JSON], data: st.DataObject
) -> None:
    whole = {each["metadata"]["name"]: GPU in each["status"]["allocatable"] for each in nodes}
    names = data.draw(st.lists(st.sampled_from([*whole, "stranger"]), unique=True))
    scores = prioritized(pod(), state(*nodes, pods=crowd), *names)
    assert set(scores) == {name for name in names if whole.get(name)}
    assert sorted(scores.values(), reverse=True) == list(range(10, 10 - len(scores), -1))


def test_another_name_for_the_gpu_resource_is_heeded() -> None:
    card = "gpu.example.com/card"
    tree = pod({"name": "c", "resources": {"limits": {card: "1"}}})
    carded = changed(node(), "status", "allocatable", card, to="2")
    cluster = state(carded, policy=Policy(gpu_resource=card))
    assert prioritized(tree, cluster, "gpu-a") == {"gpu-a": 10}
    assert prioritized(pod(), cluster, "gpu-a") == {}
