import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import consolidation, packing, packing_real
from bench._packing_bound import T_975, boxes, erlang_b, fewest, mean_and_half_width
from bench._packing_clusters import ALL_1G, ALL_3G, BALANCED, CARD, Machine, Scenario, build
from bench._packing_earlier import EARLIER, reproduced
from bench._packing_pages import bars, churn
from bench._packing_policies import (
    OURS,
    OURS_TOLD,
    POLICIES,
    STOCK,
    WEIGHT,
    Extender,
    Ours,
    Policy,
    View,
    told,
)
from bench._packing_runs import (
    COLUMNS,
    Task,
    checks,
    difference,
    done_before,
    row,
    run,
    run_all,
    shortened,
    with_bound,
)
from bench._packing_scenarios import SCENARIOS, u1, u2, u3, u4, u5
from bench._packing_simulation import simulate
from bench._packing_stream import CPU_ONLY, stream
from bench._pages import fill_in
from bench.packing import figures
from extender.core.score import Ranking, drain_costs

TINY = Scenario(
    name="U1 .30",
    machines=(
        Machine("A100-80GB", (BALANCED, ALL_1G), 24),
        Machine("A100-80GB", (ALL_3G, CARD), 24),
        Machine("H100-80GB", (BALANCED,), 24),
        Machine("A100-40GB", (ALL_1G, ALL_3G), 24),
    ),
    load=0.6,
    churn=0.2,
    resident=0.2,
    horizon=12.0,
    warm_up=3.0,
)
NAMED = {scenario.name: scenario for scenario in SCENARIOS}


def view(scenario: Scenario) -> View:
    """The idle cluster."""
    cluster = build(scenario, tuple(range(len(scenario.machines))))
    places = cluster.places
    return View(
        cluster,
        [place.cores for place in places],
        [0] * len(places),
        [place.capacity for place in places],
        [[0] * len(cluster.kinds) for _ in places],
        [0] * len(places),
    )


# --- the simulator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_leads_to_the_same_outcome_every_time(policy: str) -> None:
    once, again = simulate(TINY, 7, policy), simulate(TINY, 7, policy)
    assert once == again
    assert once != simulate(TINY, 8, policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_given_out_twice_and_cores_are_never_exceeded(policy: str) -> None:
    class Watched(Policy):
        """Passes everything on, and counts for itself."""

        def __init__(self, view: View) -> None:
            super().__init__(view)
            self.inner = POLICIES[policy](view)
            self.cores, self.used = list(view.cores_used), [list(u) for u in view.used]

        def points(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
            return self.inner.points(kind, cores, nodes)

        def plain(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
            return self.inner.plain(kind, cores, nodes)

        def changed(self, node: int, kind: int, cores: int, sign: int) -> None:
            self.inner.changed(node, kind, cores, sign)
            self.cores[node] += sign * cores
            assert 0 <= self.cores[node] <= self.view.cores[node]
            if kind != CPU_ONLY:
                self.used[node][kind] += sign
                assert 0 <= self.used[node][kind] <= self.view.capacity[node][kind]
            assert self.used == self.view.used
            assert self.cores == self.view.cores_used
            assert self.view.pods == [sum(each) for each in self.used]

    assert simulate(TINY, 3, Watched) == simulate(TINY, 3, policy)


def test_what_must_hold_whatever_the_policy_holds_on_a_small_cluster() -> None:
    small = Scenario(name="small", machines=u1(each=1, gpus=2), load=0.8, horizon=80.0, warm_up=8.0)
    wrong = [check for check in checks((1, 2, 3), small) if check[""] != "as it must be"]
    assert wrong == []


def test_with_cpu_short_policies_accept_different_pods_so_that_the_check_can_fail() -> None:
    assert len({simulate(TINY, 5, policy).accepted for policy in COLUMNS}) > 1


def test_no_policy_has_more_idle_than_re_packing_all_pods_would() -> None:
    _, _, runs = run(Task(TINY, 11))
    assert set(runs) == set(COLUMNS)
    assert [each.beyond for each in runs.values()] == [0] * len(runs)
    assert all(each.idle_gpus <= 7 and each.idle_nodes <= 4 for each in runs.values())


def test_an_interrupted_benchmark_goes_on_from_what_it_has_kept(
    tmp_path: Path,
) -> None:
    tasks = [Task(shortened(TINY, 4.0, 1.0), seed) for seed in (1, 2, 3)]
    file, heard = tmp_path / "runs.jsonl", list[int]()
    whole = run_all(tasks, 1, heard.append, file)
    assert (whole["U1 .30"], heard) == ([run(task)[2] for task in tasks], [1, 2, 3])
    first, second, _ = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second[:-20])
    heard.clear()
    assert run_all(tasks, 1, heard.append, file) == whole
    assert (heard, len(done_before(file))) == ([2, 3], 3)
    other = Task(shortened(TINY, 5.0, 1.0), 1)  # of the same name
    assert run_all([other], 1, heard.append, file)["U1 .30"] == [run(other)[2]]


def test_a_snapshot_beyond_the_bound_is_counted() -> None:
    scenario = shortened(NAMED["U2 .30"], 6.0, 2.0)
    outcome = simulate(scenario, 1, OURS)
    cluster = build(scenario, tuple(range(12)))
    full = cluster.kinds[0].total
    broken = tuple(
        type(sample)((full, *sample.running[1:]), sample.idle_gpus, sample.idle_nodes)
        for sample in outcome.samples
    )
    assert with_bound(outcome, cluster).beyond == 0
    forged = type(outcome)(
        outcome.idle_gpus,
        outcome.idle_nodes,
        outcome.offered,
        outcome.accepted,
        outcome.in_use,
        broken,
    )
    assert with_bound(forged, cluster).beyond == len(broken)


# --- what comes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["U1 .30", "U1 .30 bursts", "U1 .30 diurnal", "U5 .30"])
def test_as_much_comes_as_the_load_says_the_same_share_of_each_kind(name: str) -> None:
    scenario = NAMED[name]
    cluster = build(scenario, tuple(range(len(scenario.machines))))
    arrivals = stream(scenario, 1)
    assert list(arrivals) == sorted(arrivals)
    assert all(0 <= arrival.at < scenario.horizon for arrival in arrivals)
    for number, kind in enumerate(cluster.kinds):
        expected = scenario.load * kind.total * scenario.horizon
        came = sum(arrival.kind == number for arrival in arrivals)
        assert came == pytest.approx(expected, rel=0.25)


def test_pods_without_gpus_offer_the_share_of_all_cores_that_is_asked_for() -> None:
    scenario = NAMED["U1 .30 churn 20%"]
    plain = [arrival for arrival in stream(scenario, 1) if arrival.kind == CPU_ONLY]
    core_time = sum(arrival.cores * arrival.lifetime for arrival in plain)
    assert core_time / scenario.horizon == pytest.approx(0.2 * 12 * 256, rel=0.05)


@pytest.mark.parametrize("name", ["U1 .30", "U1 .30 heavy"])
def test_lifetimes_have_mean_one(name: str) -> None:
    lifetimes = [arrival.lifetime for seed in range(3) for arrival in stream(NAMED[name], seed)]
    assert sum(lifetimes) / len(lifetimes) == pytest.approx(1, rel=0.12)


def test_cores_follow_the_slice_where_the_scenario_says_so() -> None:
    prop = {(a.kind, a.cores) for a in stream(NAMED["U1 .30 prop"], 1)}
    anti = {(a.kind, a.cores) for a in stream(NAMED["U1 .30 anti"], 1)}
    assert (prop, anti) == ({(0, 2), (1, 4), (2, 8)}, {(0, 8), (1, 4), (2, 2)})
    whole = {a.cores for a in stream(NAMED["U5 .50 96 cores"], 1) if a.kind == 0}
    assert whole == {16}


# --- the policies ------------------------------------------------------------------------------------


def test_the_default_scheduler_prefers_the_node_with_most_cpu_left_in_whole_percent() -> None:
    idle = view(TINY)
    idle.cores_used[0] = 6
    assert Policy(idle).points(0, 5, [0, 1]) == [54, 79]  # 13 of 24, 19 of 24


def test_most_allocated_looks_only_at_the_profile_that_is_asked_for() -> None:
    used = view(Scenario(name="", machines=u2(), load=0.3))
    used.used[0][2], used.used[1][0] = 8, 1  # 3g is full on node 0, one 1g is held on node 1
    mig = POLICIES[STOCK[0]](used)
    assert mig.points(0, 4, [0, 1]) == [6, 12]  # 1 of 16, 2 of 16
    both = POLICIES[STOCK[1]](used)
    assert both.points(0, 64, [0, 1]) == [15, 18]  # with 25 for cpu


def test_an_extender_outweighs_the_default_scores_by_one_step_of_rank() -> None:
    used = view(Scenario(name="", machines=u2(), load=0.3))
    used.pods[3], used.cores_used[3] = 1, 255
    policy = POLICIES["pod count"](used)
    assert isinstance(policy, Extender)
    points = policy.points(0, 1, range(12))
    assert max(range(12), key=points.__getitem__) == 3
    assert points[3] - sorted(points)[-2] >= 10 * WEIGHT - 100


def test_ours_is_the_production_score_on_what_has_happened() -> None:
    class Watched(Ours):
        def scores(self, kind: int, nodes: Sequence[int]) -> dict[int, int]:
            found = dict(super().scores(kind, nodes))
            resource, capacity = self._resources[kind], self._capacity
            afresh = Ranking(capacity)
            capacity.touched = self._ranking._touch
            again = afresh.scores({self._names[n] for n in nodes}, (resource,), spread=False)
            assert found == {self._number[name]: score for name, score in again}
            for n in nodes:
                usage = capacity.usage(self._names[n])
                assert usage.gpu_pods == self.view.pods[n]
                counts = zip(self._resources, self.view.used[n], strict=True)
                assert usage.gpus == {name: count for name, count in counts if count}
            costs = {
                n: drain_costs(self.view.cluster.places[n].node, capacity.usage(self._names[n]))
                for n in nodes
            }
            best = max(nodes, key=lambda n: found.get(n, 0))
            assert costs[best][resource] == min(cost[resource] for cost in costs.values())
            return found

    simulate(shortened(TINY, 6.0, 1.0), 2, Watched)


@pytest.mark.parametrize(
    ("machines", "known"), [(u1(), True), (u2(), True), (u5(), True), (u3(), False)]
)
def test_layouts_are_read_off_the_totals_where_these_allow_only_one(
    machines: tuple[Machine, ...], known: bool
) -> None:
    cluster = build(Scenario(name="", machines=machines, load=0.3), tuple(range(len(machines))))
    resources = [kind.resource for kind in cluster.kinds]
    for place in cluster.places:
        assert (place.node.layout is not None) is known
        if place.node.layout is not None:
            by_agent = told(place, resources).layout
            assert by_agent is not None
            assert sorted(c.slices for c in place.node.layout for _ in range(c.gpus)) == sorted(
                c.slices for c in by_agent
            )


def test_the_clusters_are_as_large_as_said() -> None:
    assert [sum(len(m.layouts) for m in made) for made in (u1(), u2(), u3(), u4(), u5())] == [
        96, 96, 96, 88, 96,
    ]  # fmt: skip
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS) == 33
    assert set(EARLIER) == set(NAMED)


# --- bound, formulas, intervals ----------------------------------------------------------------------


@st.composite
def packings(draw: st.DrawFn) -> tuple[list[tuple[tuple[int, ...], int]], tuple[int, ...]]:
    kinds = draw(st.integers(1, 3))
    count = st.integers(0, 4)
    held = draw(
        st.lists(st.tuples(*[count] * kinds).filter(any), min_size=1, max_size=3, unique=True)
    )
    numbers = [draw(st.integers(1, 4)) for _ in held]
    needed = draw(st.tuples(*[st.integers(0, 12)] * kinds))
    return list(zip(held, numbers, strict=True)), needed


@given(packings())
def test_the_bound_is_the_least_number_of_boxes_found_by_trying_all(
    found: tuple[list[tuple[tuple[int, ...], int]], tuple[int, ...]],
) -> None:
    boxes, needed = found
    every = itertools.product(*(range(number + 1) for _, number in boxes))
    enough = [
        sum(taken)
        for taken in every
        if all(
            sum(y * box[kind] for y, (box, _) in zip(taken, boxes, strict=True)) >= need
            for kind, need in enumerate(needed)
        )
    ]
    assert fewest(tuple(boxes), needed) == min(enough, default=None)


def test_boxes_that_hold_the_same_are_counted_together() -> None:
    assert boxes([(1, 0), (0, 2), (1, 0)]) == (((0, 2), 1), ((1, 0), 2))


def test_erlangs_formula_at_values_known_by_hand() -> None:
    assert erlang_b(1, 3.0) == pytest.approx(0.75)
    assert erlang_b(2, 1.0) == pytest.approx(0.2)


def test_half_the_interval_is_students_t_times_the_standard_error() -> None:
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5)
    assert list(T_975) == sorted(T_975, reverse=True)


def test_differences_are_paired_by_seed() -> None:
    _, _, one = run(Task(shortened(TINY, 6.0, 1.0), 1))
    _, _, two = run(Task(shortened(TINY, 6.0, 1.0), 2))
    found = difference([one, two], OURS_TOLD, lambda each: each.idle_gpus)
    gained = [runs[OURS].idle_gpus - runs[OURS_TOLD].idle_gpus for runs in (one, two)]
    assert found.mean == pytest.approx(sum(gained) / 2)


@pytest.mark.parametrize(
    ("mean", "half", "same"), [(1.0, 0.2, True), (1.4, 0.2, True), (1.6, 0.2, False)]
)
def test_a_figure_is_met_again_if_the_intervals_meet(mean: float, half: float, same: bool) -> None:
    assert reproduced(mean, half, 1.0, 0.2) is same


# --- pages -------------------------------------------------------------------------------------------

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def kept(file: str) -> dict[str, Any]:
    """Results beside the page."""
    found: dict[str, Any] = json.loads((REFERENCE / file).read_text("utf-8"))
    return found


def test_the_page_says_what_the_kept_results_say() -> None:
    found = kept(packing.RESULTS)
    page = (REFERENCE / packing.PAGE).read_text("utf-8")
    assert fill_in(page, packing.parts(found)) == page
    assert fill_in(page, packing_real.parts(kept(packing_real.RESULTS))) == page
    assert found["seeds"] == list(packing.SEEDS)
    assert {each["scenario"] for each in found["rows"]} == set(NAMED)
    assert all(check[""] == "as it must be" for check in found["checks"])


def test_the_page_says_what_lambda_does() -> None:
    page = (REFERENCE / packing.PAGE).read_text("utf-8")
    found = kept(consolidation.RESULTS)
    assert fill_in(page, consolidation.parts(found)) == page
    assert found["seeds"] == list(consolidation.SEEDS)


def test_the_pictures_are_those_of_the_kept_results() -> None:
    rows = kept(packing.RESULTS)["rows"]
    smaller = [row for row in rows if NAMED[row["scenario"]].minimum]
    pictures = {packing.BARS: bars(smaller), packing.CHURN: churn(rows)}
    for file, picture in pictures.items():
        assert (REFERENCE / file).read_text("utf-8") == picture
        shown = "".join(ET.fromstring(picture).itertext())
        assert "default" in shown
        assert "migfit" in shown


def test_scenarios_that_fall_short_are_owned_up_to_in_words() -> None:
    found = kept(packing.RESULTS)
    assert found["figures"] == figures(found["rows"])
    page = (REFERENCE / packing.PAGE).read_text("utf-8")
    section = page.partition("### Where it falls short\n")[2].partition("\n###")[0]
    short = [figure["value"] for figure in found["figures"] if figure["value"] != "none"]
    named = [name for names in short for name in names.split(", ")]
    assert [name for name in named if f"**{name}**" not in section] == []


def test_the_real_scheduler_agrees_with_the_simulator() -> None:
    found = kept(packing_real.RESULTS)
    assert packing_real.figures(found) == found["figures"]
    assert [figure["value"] for figure in found["figures"]] == ["none", "none"]


@pytest.mark.parametrize("ratio", [0.89, 1.11])
def test_a_policy_far_from_the_simulator_or_of_another_sign_is_called_out(ratio: float) -> None:
    found = kept(packing_real.RESULTS)
    found["rows"][0]["real / simulated"] = ratio
    found["differences"][1]["same sign"] = False
    assert [figure["value"] for figure in packing_real.figures(found)] == [
        f"U1 .30, default: {ratio:.2f}",
        "U1 .30, minus MA cpu+mig",
    ]


def test_a_page_without_the_place_for_a_part_is_refused() -> None:
    page = "before\n<!-- idle -->\nold\n<!-- end -->\nafter\n"
    assert fill_in(page, {"idle": "new\n"}) == "before\n<!-- idle -->\nnew\n<!-- end -->\nafter\n"
    with pytest.raises(ValueError, match="0 places for 'gone'"):
        fill_in(page, {"gone": ""})


def test_a_row_below_the_best_stock_configuration_is_called_out() -> None:
    _, _, runs = run(Task(shortened(TINY, 6.0, 1.0), 1))
    made = row("U1 .30", [runs, runs])
    assert figures([made])[1]["value"] == "none"
    worse = json.loads(json.dumps(made))
    worse["idle GPUs"]["minus"]["best stock"]["verdict"] = "loss"
    assert figures([worse])[0]["value"] == "U1 .30"
