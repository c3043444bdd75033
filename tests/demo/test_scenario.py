import re
from pathlib import Path

import msgspec
import pytest

from extender.config.problem import ConfigError
from extender.demo import scenario as types
from extender.demo.loading import built_in_names, load, parse, policy_of
from extender.demo.stage import in_order

DOC = Path(__file__).parents[2] / "docs/reference/scenario.md"

GOOD = """
name: x
nodes:
  - {name: n, product: A100-80GB, gpus: [whole, [3g.40gb, 3g.40gb]]}
pods:
  - {name: asr, footprint: 9.6G}
"""


@pytest.mark.parametrize("name", built_in_names())
def test_built_in_scenarios_load(name: str) -> None:
    scenario = load(name)
    assert scenario.name == name
    assert scenario.title


def test_the_default_scenario_comes_first() -> None:
    assert built_in_names()[0] == "hollow-gpu"


def test_a_file_is_taken_before_a_built_in_scenario_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hollow-gpu").write_text(GOOD, encoding="utf-8")
    assert load("hollow-gpu").name == "x"


def test_without_layouts_the_one_run_is_on_the_nodes_as_they_are() -> None:
    ((name, nodes),) = parse(GOOD).runs()
    assert (name, nodes[0].gpus) == ("", ["whole", ["3g.40gb", "3g.40gb"]])


def test_a_layout_changes_the_nodes_it_names_only() -> None:
    text = GOOD.replace("pods:", "  - {name: m, product: A30, gpus: [whole]}\npods:")
    text += "layouts:\n  - {name: all whole, nodes: {n: [whole, whole]}}\n"
    ((name, (first, second)),) = parse(text).runs()
    assert (name, first.gpus, second.gpus) == ("all whole", ["whole", "whole"], ["whole"])


def test_pods_are_created_by_order_then_as_listed_and_numbered_when_several() -> None:
    pods = parse(GOOD + "  - {name: b, footprint: 1G, order: -1, count: 2, title: B}\n").pods
    assert [(name, title) for _, name, title in in_order(pods)] == [
        ("b-1", "B 1"),
        ("b-2", "B 2"),
        ("asr", "asr"),
    ]


def test_the_price_of_a_month_is_exact() -> None:
    assert types.Price(gpu_hour=2.1, hours_a_month=100).gpu_month == 210


def test_config_reaches_the_policy() -> None:
    assert policy_of(parse(GOOD + "config: {headroom: 50%}\n")).headroom * 2 == 1


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("name: x", "name: x\ncolour: red", "Object contains unknown field colour"),
        ("gpus: [whole,", "gpu: [whole,", "nodes[0]: Object "),
        ("name: x", "name: 7", "name: Expected str, got int"),
        ("A100-80GB", "T4", 'nodes[0].product: "T4" is no product'),
        (
            "[3g.40gb, 3g.40gb]",
            "[9g.90gb]",
            'nodes[0].gpus[1]: "9g.90gb" is no profile of A100-80GB',
        ),
        ("3g.40gb, 3g.40gb", "4g.40gb, 4g.40gb", "nodes[0].gpus[1]: 4g.40gb + 4g.40gb do not fit"),
        ("[whole, [3g.40gb, 3g.40gb]]", "[]", "nodes[0].gpus: Expected array of length >= 1"),
        ("9.6G", '"9.6"', "pods[0].footprint: '9.6' counts bytes: write 9.6G"),
        ("name: asr", "name: ASR", 'pods[0].name: "ASR": use small letters'),
        ("name: asr", "name: asr, namespace: A_B", 'pods[0].namespace: "A_B"'),
        ("name: asr", "name: asr, cpu: much", "pods[0].cpu: 'much' is no quantity"),
        ("name: asr", "name: asr, count: 0", "pods[0].count: Expected int >= 1"),
        ("name: asr", "name: asr, count: 2001", "pods: more than 2000 pods"),
        ("name: x", "name: x\nname: y", "name: given twice"),
        ("name: x", "name: x\nconfig: {headrom: 1%}", "config.headrom: "),
        (
            "name: x",
            "name: x\nlayouts: [{name: l, nodes: {m: [whole]}}]",
            "layouts[0].nodes.m: no such",
        ),
        (
            "name: x",
            "name: x\nlayouts: [{name: l, nodes: {n: [whole]}}]",
            "layouts[0].nodes.n: 1 GPUs, but the node has 2",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_path(old: str, new: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(GOOD.replace(old, new, 1))
    (line,) = str(refused.value).splitlines()
    assert problem in line


def test_a_name_is_taken_once_also_by_numbered_pods() -> None:
    with pytest.raises(ConfigError, match='"asr" is taken'):
        parse(GOOD + "  - {name: asr, footprint: 1G}\n")
    more = GOOD.replace("name: asr", "name: asr, count: 2") + "  - {name: asr-1, footprint: 1G}\n"
    with pytest.raises(ConfigError, match='"asr-1" is taken'):
        parse(more)


def test_all_mistakes_are_told_at_once() -> None:
    text = GOOD.replace("A100-80GB", "T4").replace("9.6G", '"9.6"')
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert [problem.path for problem in refused.value.problems] == [
        "nodes[0].product",
        "pods[0].footprint",
    ]


def test_a_file_that_is_not_there_names_the_built_in_ones() -> None:
    with pytest.raises(ConfigError, match="one of hollow-gpu, "):
        load("no-such")


def test_the_reference_documents_every_field() -> None:
    text = DOC.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Za-z]+)`", text, re.MULTILINE))
    structs = (types.Scenario, types.Node, types.Pod, types.Layout, types.Price)
    fields = {f.encode_name for struct in structs for f in msgspec.structs.fields(struct)}
    assert documented == fields


def test_the_reference_shows_a_scenario_that_loads() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        assert parse(block).runs()
