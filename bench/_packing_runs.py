"""Many runs, and what they say together: means, paired differences, checks."""

import hashlib
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bench._packing_bound import boxes, erlang_b, fewest, mean_and_half_width
from bench._packing_clusters import Cluster, Scenario, build
from bench._packing_policies import (
    DEFAULT,
    FILL,
    OURS,
    OURS_BLIND,
    OURS_TOLD,
    POD_COUNT,
    POLICIES,
    STOCK,
)
from bench._packing_scenarios import SCENARIOS, u1
from bench._packing_simulation import Outcome, simulate

COLUMNS = (DEFAULT, *STOCK, FILL, POD_COUNT, OURS, OURS_TOLD, OURS_BLIND)
MA_CPU_MIG = STOCK[1]
AMPLE = 100
"""So many times the cores leave cpu without a say."""


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario and seed, under every policy."""

    scenario: Scenario
    seed: int


@dataclass(frozen=True, slots=True)
class Run:
    """One policy's outcome, as short as it can be sent between processes."""

    idle_gpus: float
    idle_nodes: float
    offered: tuple[int, ...]
    accepted: tuple[int, ...]
    in_use: float
    bound_gpus: float
    """Mean over the snapshots of the most GPUs that could be idle with the pods then running."""
    bound_nodes: float
    beyond: int
    """Snapshots in which more was idle than that: an error of the simulator."""


def _cluster(scenario: Scenario) -> Cluster:
    return build(scenario, tuple(range(len(scenario.machines))))


def with_bound(outcome: Outcome, cluster: Cluster) -> Run:
    """What a run came to, beside what re-packing at every snapshot would have."""
    gpus = boxes(gpu for place in cluster.places for gpu in place.gpus)
    nodes = boxes(place.capacity for place in cluster.places)
    most: list[tuple[int, int]] = []
    beyond = 0
    for sample in outcome.samples:
        used_gpus, used_nodes = fewest(gpus, sample.running), fewest(nodes, sample.running)
        if used_gpus is None or used_nodes is None:
            raise AssertionError(f"{sample.running} do not fit into the cluster they ran in")
        most.append((cluster.gpus - used_gpus, len(cluster.places) - used_nodes))
        beyond += sample.idle_gpus > most[-1][0] or sample.idle_nodes > most[-1][1]
    return Run(
        outcome.idle_gpus,
        outcome.idle_nodes,
        outcome.offered,
        outcome.accepted,
        outcome.in_use,
        statistics.fmean(found for found, _ in most),
        statistics.fmean(found for _, found in most),
        beyond,
    )


def run(task: Task) -> tuple[str, int, dict[str, Run]]:
    """Every policy on one scenario with one seed."""
    scenario, cluster = task.scenario, _cluster(task.scenario)
    found: dict[str, Run] = {}
    for name in COLUMNS:
        if name == STOCK[3] and not scenario.churn:  # without other pods it is the one before
            found[name] = found[STOCK[2]]
        else:
            found[name] = with_bound(simulate(scenario, task.seed, name), cluster)
    return scenario.name, task.seed, found


@dataclass(frozen=True, slots=True)
class Kept:
    """One task that is done, as a line of a file; `task` tells it from one that only has its name."""

    task: str
    runs: dict[str, Run]


def _digest(task: Task) -> str:
    return hashlib.sha256(repr(task).encode()).hexdigest()


def done_before(file: Path) -> dict[str, dict[str, Run]]:
    """What an earlier run wrote into its file before it was interrupted, by digest of the task."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    whole = b"".join(line for line in lines if line.endswith(b"\n"))
    file.write_bytes(whole)  # without a line that was begun
    return {kept.task: kept.runs for kept in msgspec.json.Decoder(Kept).decode_lines(whole)}


def run_all(
    tasks: Sequence[Task], processes: int, told: Callable[[int], None], file: Path | None = None
) -> dict[str, list[dict[str, Run]]]:
    """Scenario -> what each seed came to, by policy.

    Args:
        tasks: to be done; what the file has of them is not done again.
        processes: how many at once.
        told: hears how many tasks are done.
        file: gets every task as soon as it is done.
    """
    before = done_before(file) if file else {}
    found: dict[str, dict[int, dict[str, Run]]] = {t.scenario.name: {} for t in tasks}
    left = []
    for task in tasks:
        if runs := before.get(_digest(task)):
            found[task.scenario.name][task.seed] = runs
        else:
            left.append(task)
    digests = {(task.scenario.name, task.seed): _digest(task) for task in left}
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        every = pool.imap_unordered(run, left)
        for done, (name, seed, runs) in enumerate(every, start=len(tasks) - len(left) + 1):
            found[name][seed] = runs
            if file:
                with file.open("ab") as lines:
                    lines.write(msgspec.json.encode(Kept(digests[name, seed], runs)) + b"\n")
            told(done)
    return {name: [runs for _, runs in sorted(seeds.items())] for name, seeds in found.items()}


# --- rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours minus another policy, seed by seed: mean and half of the 95 % interval."""

    versus: str
    mean: float
    half_width: float

    @property
    def verdict(self) -> str:
        """`win`, `tie` or `loss`."""
        if self.mean - self.half_width > 0:
            return "win"
        return "loss" if self.mean + self.half_width < 0 else "tie"


Measure = Callable[[Run], float]


def difference(seeds: Sequence[Mapping[str, Run]], versus: str, of: Measure) -> Difference:
    """Paired by seed."""
    gained = [of(runs[OURS]) - of(runs[versus]) for runs in seeds]
    return Difference(versus, *mean_and_half_width(gained))


def row(name: str, seeds: Sequence[Mapping[str, Run]]) -> dict[str, Any]:
    """One scenario, as JSON holds it."""
    found: dict[str, Any] = {"scenario": name, "seeds": len(seeds)}
    measures: dict[str, tuple[Measure, Measure]] = {
        "idle GPUs": (lambda run: run.idle_gpus, lambda run: run.bound_gpus),
        "idle nodes": (lambda run: run.idle_nodes, lambda run: run.bound_nodes),
    }
    for what, (of, bound) in measures.items():
        means = {p: statistics.fmean(of(runs[p]) for runs in seeds) for p in COLUMNS}
        best = max(STOCK, key=means.__getitem__)
        versus = {
            "best stock": best,
            "MA cpu+mig": MA_CPU_MIG,
            "default": DEFAULT,
            "fill 0-10": FILL,
            "pod count": POD_COUNT,
            "layouts told": OURS_TOLD,
            "layouts unknown": OURS_BLIND,
        }
        found[what] = {
            "mean": means,
            "minus": {
                key: asdict(d) | {"verdict": d.verdict}
                for key, other in versus.items()
                for d in [difference(seeds, other, of)]
            },
            "re-pack bound": statistics.fmean(bound(runs[OURS]) for runs in seeds),
        }
    found["accepted %"] = {
        group: {
            policy: 100 * _ratio([_group(runs[policy], group) for runs in seeds])
            for policy in COLUMNS
        }
        for group in ("GPU pods", "pods without GPUs")
    }
    found["beyond bound"] = sum(runs[policy].beyond for runs in seeds for policy in COLUMNS)
    return found


def _group(run: Run, group: str) -> tuple[int, int]:
    if group == "GPU pods":
        return sum(run.accepted[:-1]), sum(run.offered[:-1])
    return run.accepted[-1], run.offered[-1]


def _ratio(pairs: Iterable[tuple[int, int]]) -> float:
    accepted, offered = map(sum, zip(*pairs, strict=True))
    return accepted / offered if offered else 1.0


# --- checks ------------------------------------------------------------------------------------------

WRONG = "WRONG"
BUSY = Scenario(name="U1 .90, ample cpu", machines=u1(), load=0.90)


def checks(seeds: Sequence[int], scenario: Scenario = BUSY) -> list[dict[str, Any]]:
    """What must hold whatever the policy; each with what was found and whether it is as it must be.

    With cpu to spare, exact profiles and fixed layouts, every policy accepts the same pods, each
    profile is a loss system of its own (Erlang B), and slices in use follow Little's law.
    """
    every = [{p: simulate(scenario, seed, p, AMPLE) for p in COLUMNS} for seed in seeds]
    same = all(len({run.accepted for run in runs.values()}) == 1 for runs in every)
    found = [
        {
            "check": f"{scenario.name}: all policies accept the same pods",
            "expected": "equal",
            "found": "equal" if same else "different",
            "": "as it must be" if same else WRONG,
        }
    ]
    cluster = _cluster(scenario)
    ours = [runs[OURS] for runs in every]
    in_use = 0.0
    for number, kind in enumerate(cluster.kinds):
        expected = 1 - erlang_b(kind.total, scenario.load * kind.total)
        in_use += scenario.load * kind.total * expected
        shares = [run.accepted[number] / run.offered[number] for run in ours]
        what = f"{scenario.name}: share of {kind.resource} accepted, Erlang B"
        found.append(_near(what, expected, shares, 0.01))
    what = f"{scenario.name}: slices in use, Little's law"
    return [*found, _near(what, in_use, [run.in_use for run in ours], 0.03 * in_use)]


def _near(what: str, expected: float, values: Sequence[float], tolerance: float) -> dict[str, Any]:
    mean, half = mean_and_half_width(values)
    good = abs(mean - expected) <= max(tolerance, half)
    return {
        "check": what,
        "expected": f"{expected:.4g}",
        "found": f"{mean:.4g} ± {half:.2g}",
        "": "as it must be" if good else WRONG,
    }


def shortened(scenario: Scenario, horizon: float, warm_up: float) -> Scenario:
    """The same for a shorter time."""
    return replace(scenario, horizon=horizon, warm_up=warm_up)


def chosen(*, every: bool) -> list[Scenario]:
    """All scenarios, or the smaller set."""
    return [scenario for scenario in SCENARIOS if every or scenario.minimum]


assert set(COLUMNS) == set(POLICIES)
