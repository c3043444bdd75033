from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.objects import NodeObject
from extender.cluster.reading import read_node
from extender.core.node import Taint
from extender.core.policy import Policy
from extender.core.reach import NodeIndex, slots, tolerates
from tests.build import JSON, node
from tests.draw import anything, clusters, labels, nodes, places

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def index(*objects: JSON) -> NodeIndex:
    found = NodeIndex()
    for each in objects:
        found.put(read_node(msgspec.convert(each, NodeObject), Policy()))
    return found


def names(found: NodeIndex, nodes: int) -> set[str]:
    return {each.name for each in found.members(nodes)}


def reached(spec: JSON, *objects: JSON, **injected: Any) -> set[str]:
    found = index(*objects)
    return names(found, found.reach(spec, **injected))


def affinity(*terms: JSON) -> JSON:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


def wants(key: str, operator: str, *values: str) -> JSON:
    """Affinity of one term with one expression."""
    expression: JSON = {"key": key, "operator": operator}
    if values:
        expression["values"] = list(values)
    return affinity({"matchExpressions": [expression]})


# --- kube-scheduler's rules, written down as they are told, for one node ---------------------------


def accepted(spec: JSON, each: JSON) -> bool:
    """NodeUnschedulable, TaintToleration and NodeAffinity on one node."""
    tolerations = spec.get("tolerations", [])
    taints = [t for t in each["spec"].get("taints", []) if t["effect"] != "PreferNoSchedule"]
    if each["spec"].get("unschedulable"):
        taints.append({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
    if not all(any(covers(t, taint) for t in tolerations) for taint in taints):
        return False
    found = each["metadata"]["labels"]
    if any(found.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get(REQUIRED)
    if required is None:
        return True
    return any(matches(term, each) for term in required["nodeSelectorTerms"])


def covers(toleration: JSON, taint: JSON) -> bool:
    if toleration.get("effect") not in {None, taint["effect"]}:
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in {None, taint["key"]}
    return (toleration.get("key"), toleration.get("value", "")) == (
        taint["key"],
        taint.get("value", ""),
    )


def matches(term: JSON, each: JSON) -> bool:
    expressions, fields = term.get("matchExpressions", []), term.get("matchFields", [])
    if not expressions and not fields:
        return False
    named = {"metadata.name": each["metadata"]["name"]}
    return all(holds(e, each["metadata"]["labels"]) for e in expressions) and all(
        holds(f, named) for f in fields
    )


def holds(expression: JSON, found: dict[str, str]) -> bool:
    value, wanted = found.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case order:
            try:
                number = int(value or "none")
            except ValueError:
                return False
            return number > int(wanted[0]) if order == "Gt" else number < int(wanted[0])


@given(clusters(), st.lists(places(), min_size=1, max_size=4))
def test_reach_is_what_kube_scheduler_accepts(objects: list[JSON], specs: list[JSON]) -> None:
    found = index(*objects)
    for spec in specs:
        expected = {each["metadata"]["name"] for each in objects if accepted(spec, each)}
        assert names(found, found.reach(spec)) == expected


@given(clusters(), places(), labels, st.booleans())
def test_reach_counts_what_will_be_injected_as_if_the_pod_said_it(
    objects: list[JSON], spec: JSON, selector: dict[str, str], tolerant: bool
) -> None:
    tolerations = [{"operator": "Exists"}] if tolerant else []
    selected = {**selector, **spec.get("nodeSelector", {})}
    as_if = spec | {
        "nodeSelector": selected,
        "tolerations": [*spec.get("tolerations", []), *tolerations],
    }
    missing = [(k, v) for k, v in selector.items() if k not in spec.get("nodeSelector", {})]
    assert reached(spec, *objects, selector=missing, tolerations=tolerations) == reached(
        as_if, *objects
    )


changes = st.lists(
    st.tuples(st.integers(0, 3), st.none() | nodes(), st.booleans()), min_size=1, max_size=12
)


@given(changes, st.lists(places(), min_size=1, max_size=3))
def test_an_index_that_was_changed_answers_like_one_made_new(
    steps: list[tuple[int, JSON | None, bool]], specs: list[JSON]
) -> None:
    found, current = NodeIndex(), dict[str, JSON]()
    for number, version, asked in steps:
        name = f"gpu-{number}"
        if version is None:
            current.pop(name, None)
            found.drop(name)
        else:
            current[name] = {**version, "metadata": {**version["metadata"], "name": name}}
            found.put(read_node(msgspec.convert(current[name], NodeObject), Policy()))
        if asked:  # labels are indexed when first asked for
            found.reach(specs[0])
    fresh = index(*current.values())
    assert len(found) == len(current)
    for spec in specs:
        assert names(found, found.reach(spec)) == names(fresh, fresh.reach(spec))
    for name in ("all", "cordoned", "autoscaled", "reconfiguring"):
        assert names(found, getattr(found, name)) == names(fresh, getattr(fresh, name))


@given(anything)
def test_reach_takes_any_json(junk: Any) -> None:
    found = index(node())
    found.reach({"nodeSelector": junk, "tolerations": junk, "affinity": junk})
    for spec in (
        {"nodeSelector": {"zone": junk}},
        {"tolerations": [junk]},
        {"tolerations": [{"key": junk, "operator": junk, "value": junk, "effect": junk}]},
        {"affinity": {"nodeAffinity": {REQUIRED: junk}}},
        affinity(junk),
        affinity({"matchExpressions": junk, "matchFields": junk}),
        affinity({"matchExpressions": [junk], "matchFields": [junk]}),
        affinity({"matchExpressions": [{"key": junk, "operator": junk, "values": junk}]}),
        affinity({"matchExpressions": [{"key": "zone", "operator": "Gt", "values": [junk]}]}),
        affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [junk]}]}),
    ):
        assert found.reach(spec) in {0, found.all}


# --- single rules --------------------------------------------------------------------------------


def test_without_a_word_a_pod_reaches_every_node_without_taints() -> None:
    assert reached({}, node("a"), node("b")) == {"a", "b"}


def test_a_node_selector_asks_for_all_of_its_labels() -> None:
    both = node("a", labels={"zone": "1", "tier": "x"})
    selector = {"nodeSelector": {"zone": "1", "tier": "x"}}
    assert reached(selector, both, node("b", labels={"zone": "1"})) == {"a"}


def test_a_cordoned_node_is_reached_only_by_those_who_tolerate_it() -> None:
    cordoned = node("a", unschedulable=True)
    toleration = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}
    assert reached({}, cordoned) == set()
    assert reached({"tolerations": [toleration]}, cordoned) == {"a"}


@pytest.mark.parametrize(
    ("effect", "kept_away"),
    [("NoSchedule", True), ("NoExecute", True), ("PreferNoSchedule", False)],
)
def test_a_taint_keeps_pods_away_unless_it_only_prefers(effect: str, kept_away: bool) -> None:
    tainted = node("a", taints=[{"key": "gpu", "effect": effect}])
    assert reached({}, tainted) == (set() if kept_away else {"a"})


@pytest.mark.parametrize(
    ("toleration", "covered"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "spot", "operator": "Exists"}, False),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "yes"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "no"}, False),
        ({"key": "gpu"}, False),
        ({"key": "gpu", "operator": "Gt", "value": "yes"}, False),
        ({"value": "yes"}, False),
    ],
)
def test_a_toleration_covers_a_taint_by_effect_key_and_value(
    toleration: JSON, covered: bool
) -> None:
    assert tolerates([toleration], Taint("gpu", "yes", "NoSchedule")) is covered


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (wants("tier", "In", "1", "x"), {"one", "word"}),
        (wants("tier", "NotIn", "1"), {"nine", "word", "none"}),
        (wants("tier", "Exists"), {"one", "nine", "word"}),
        (wants("tier", "DoesNotExist"), {"none"}),
        (wants("tier", "Gt", "1"), {"nine"}),
        (wants("tier", "Gt", "-1"), {"one", "nine"}),
        (wants("tier", "Lt", "9"), {"one"}),
        (wants("tier", "Gt", "x"), set()),
        (wants("tier", "Gt", "1", "2"), set()),
        (wants("tier", "Gt", "+00000000000000000000001"), {"nine"}),
        (wants("tier", "Lt", "9223372036854775807"), {"one", "nine"}),
        (wants("tier", "Lt", "9223372036854775808"), set()),
        (wants("tier", "Gt", "0" * 5000 + "1"), {"nine"}),
        (wants("tier", "In"), set()),
        (wants("tier", "NotIn"), set()),
        (wants("tier", "Near", "1"), set()),
        (wants("nowhere", "Exists"), set()),
        (wants("nowhere", "DoesNotExist"), {"one", "nine", "word", "none"}),
    ],
)
def test_every_operator_of_node_affinity(spec: JSON, expected: set[str]) -> None:
    tiers = {"one": "1", "nine": "9", "word": "x", "none": None}
    assert reached(spec, *(node(n, labels={"tier": t}) for n, t in tiers.items())) == expected


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("In", ["a"], {"a"}),
        ("NotIn", ["a"], {"b"}),
        ("In", ["a", "b"], set()),
        ("In", [], set()),
        ("Exists", ["a"], set()),
    ],
)
def test_match_fields_name_one_node(operator: str, values: list[str], expected: set[str]) -> None:
    field = {"key": "metadata.name", "operator": operator, "values": values}
    assert reached(affinity({"matchFields": [field]}), node("a"), node("b")) == expected


def test_match_fields_know_only_the_name() -> None:
    field = {"key": "spec.unschedulable", "operator": "In", "values": ["a"]}
    assert reached(affinity({"matchFields": [field]}), node("a")) == set()


def test_terms_are_alternatives_and_expressions_within_one_add_up() -> None:
    zone = {"key": "zone", "operator": "In", "values": ["1"]}
    tier = {"key": "tier", "operator": "Exists"}
    a, b = node("a", labels={"zone": "1"}), node("b", labels={"tier": "x"})
    both = node("both", labels={"zone": "1", "tier": "x"})
    together = affinity({"matchExpressions": [zone, tier]})
    either = affinity({"matchExpressions": [zone]}, {"matchExpressions": [tier]})
    assert reached(together, a, b, both) == {"both"}
    assert reached(either, a, b, both) == {"a", "b", "both"}


@pytest.mark.parametrize("terms", [[], [{}], [{"matchExpressions": [], "matchFields": []}]])
def test_an_empty_term_matches_nothing_and_so_does_no_term(terms: list[JSON]) -> None:
    assert reached(affinity(*terms), node()) == set()


def test_preferred_affinity_keeps_nobody_away() -> None:
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    assert reached({"affinity": {"nodeAffinity": preferred}}, node("a")) == {"a"}


def test_a_slot_that_became_free_is_taken_by_the_next_node() -> None:
    found = index(node("a"), node("b"))
    assert found.drop("a") == 0
    assert found.drop("a") is None
    assert found.put(read_node(msgspec.convert(node("c"), NodeObject), Policy())) == 0
    assert list(slots(found.all)) == [0, 1]
    assert found.get("a") is None
