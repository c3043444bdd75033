"""The page that says what each setting of the extender does: complete, and its pictures are true."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest
import yaml

from extender.config.types import Consolidation, Scheduling
from extender.core.capacity import Capacity, Holding
from extender.core.consolidate import Option, Placing, prefer
from extender.core.layout import Cut
from extender.core.node import Node
from extender.core.pod import Ask
from extender.core.rewrite import NEED_ANNOTATION, REWRITTEN_LABEL
from extender.core.score import Ranking
from extender.scheduling.verbs import Scheduling as SchedulingVerbs
from tests.build import mig, node, pod, state

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/packing.md").read_text("utf-8")
SAMPLE = yaml.safe_load((ROOT / "deploy/scheduler/default-scheduler.yaml").read_text())
ASR, OTHER = "speech/Deployment/asr", "speech/Deployment/other"


def picture(containing: str) -> list[list[str]]:
    """For each line of a picture that names a node, what stands in its brackets."""
    (text,) = [
        block for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if containing in block
    ]
    return [
        re.findall(r"\[(.*?)\]", line) for line in text.splitlines() if line.startswith("node-")
    ]


def cluster(cuts: Mapping[str, Mapping[str, int]]) -> tuple[Capacity, Ranking]:
    """Nodes of one GPU each, cut like that."""
    capacity = Capacity()
    ranking = Ranking(capacity)
    for name, cut in cuts.items():
        slices = {mig(profile): count for profile, count in cut.items()}
        layout = (Cut(1, tuple(slices.items())),)
        capacity.put_node(
            Node(name=name, labels={}, gpus=slices, gpu_count=1, layout=layout, pods=9)
        )
    return capacity, ranking


def hold(capacity: Capacity, node: str, profile: str, workload: str = OTHER) -> None:
    """A pod runs there."""
    capacity.hold(Holding(node, Ask(), ((mig(profile), 1),), workload))


WAY = {"urlPrefix", "enableHTTPS", "tlsConfig"}
"""How the extender is reached: docs/how-to/schedule.md."""


def settings() -> Iterator[str]:
    """Whatever an admin may set about the extender."""
    yield from (f"scheduling.{key}" for key in Scheduling.__struct_encode_fields__)
    yield from (f"consolidation.{key}" for key in Consolidation.__struct_encode_fields__)
    yield "percentageOfNodesToScore"
    (extender,) = SAMPLE["extenders"]
    yield from extender.keys() - WAY - {"filterVerb", "prioritizeVerb", "nodeCacheCapable"}


@pytest.mark.parametrize("setting", sorted(settings()))
def test_every_setting_is_told(setting: str) -> None:
    assert f"**`{setting}`**" in PAGE


def test_the_defaults_told_are_those_of_the_sample() -> None:
    (extender,) = SAMPLE["extenders"]
    assert f"**`weight`** ({extender['weight']})" in PAGE
    assert f"**`httpTimeout`** ({extender['httpTimeout']})" in PAGE
    every = SAMPLE["percentageOfNodesToScore"]
    assert f"**`percentageOfNodesToScore`** ({every})" in PAGE


def test_packed_and_spread_pictures_show_the_same_pods() -> None:
    nodes = picture("spread     ")
    assert len(nodes) == 3
    spread = sum(gpu.count("■") for gpus in nodes for gpu in gpus[:2])
    packed = sum(gpu.count("■") for gpus in nodes for gpu in gpus[2:])
    assert spread == packed > 0


def test_the_filter_turns_down_what_the_picture_says() -> None:
    shown = re.findall(r"^(node-.)  2g.20gb, (.*?)  +(\w+ \w+ ?\w*)  ", PAGE, re.MULTILINE)
    nodes = []
    for name, said, _ in shown:
        usable = re.match(r"(\d+) MiB usable", said)
        labels = {f"{mig('2g.20gb')}.memory": usable[1]} if usable else {}
        labels |= {} if usable else {"nvidia.com/mig.config.state": "pending"}
        nodes.append(node(name, labels=labels))
    known = state(*nodes)
    verbs = SchedulingVerbs(lambda: known.capacity, lambda: known.ranking, lambda: known.policy)
    slice_of = {"limits": {mig("2g.20gb"): "1"}, "requests": {mig("2g.20gb"): "1"}}
    tree = pod({"name": "main", "resources": slice_of})
    tree["metadata"]["labels"][REWRITTEN_LABEL] = "true"
    tree["metadata"]["annotations"][NEED_ANNOTATION] = "18432Mi"
    names = [name for name, *_ in shown]
    answer = orjson.loads(verbs.filter(orjson.dumps({"Pod": tree, "NodeNames": names})))
    assert len(names) == 3
    assert answer["NodeNames"] == [name for name, _, said in shown if said == "may go there"]


@pytest.mark.parametrize(("position", "spread"), [(1, True), (2, False)])
def test_replicas_go_where_the_picture_says(position: int, spread: bool) -> None:
    shown = [gpus[position] for gpus in picture("spreadReplicas")]
    before = [gpus[0] for gpus in picture("spreadReplicas")]
    names = ["node-a", "node-b", "node-c"]
    capacity, ranking = cluster({name: {"1g.10gb": 7} for name in names})
    for name, gpu in zip(names, before, strict=True):
        for _ in range(gpu.count("■")):
            hold(capacity, name, "1g.10gb")
    went = Counter[str]()
    for _ in range(3):
        best, _ = ranking.scores(set(names), {mig("1g.10gb")}, ASR, spread=spread)[0]
        hold(capacity, best, "1g.10gb", ASR)
        went[best] += 1
    assert [went[name] for name in names] == [gpu.count("asr") for gpu in shown]


@pytest.mark.parametrize(("position", "weight"), [(1, 0.0), (2, 3.0)])
def test_lambda_does_what_the_picture_says(position: int, weight: float) -> None:
    nodes = dict(zip(("node-a", "node-b"), picture("lambda: 3"), strict=True))
    profiles = {"1g": "1g.10gb", "2g": "2g.20gb"}
    cuts = {
        name: Counter(profiles[piece[:2]] for piece in gpus[0].split())
        for name, gpus in nodes.items()
    }
    capacity, ranking = cluster(cuts)
    for name, gpus in nodes.items():
        for piece in gpus[0].split():
            if piece.endswith("■"):
                hold(capacity, name, profiles[piece[:2]])
    every = capacity.index.all
    options = [Option(mig("1g.10gb"), 1, every), Option(mig("2g.20gb"), 2, every)]
    placing = Placing(capacity, ranking, Ask(), spread=False)
    taken = options[prefer(options, weight, placing) if weight else 0]
    where = placing.node(taken)
    assert where is not None
    hold(capacity, where.name, taken.resource.removeprefix("nvidia.com/mig-"))
    for name, gpus in nodes.items():
        shown = Counter(profiles[p[:2]] for p in gpus[position].split() if p.endswith("■"))
        assert capacity.usage(name).gpus == {mig(profile): n for profile, n in shown.items()}
