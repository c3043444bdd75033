"""The benchmarks that need a real control plane run, and say what they measured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench import packing_real, scheduler
from bench._packing_clusters import ALL_1G, BALANCED, Machine
from bench._packing_policies import DEFAULT, OURS
from bench._packing_real import MA_CPU_MIG

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from tests.controlplane.build import Binaries

pytestmark = [pytest.mark.controlplane, pytest.mark.long]


@pytest.fixture
def run(
    binaries: Binaries,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[ModuleType], Any]:
    """Runs a benchmark; gives what it printed as JSON."""

    def run(program: ModuleType) -> Any:
        monkeypatch.setattr("sys.argv", [f"{program.__name__}.py", "--quick", "--json"])
        program.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_the_real_scheduler_takes_the_simulators_place_for_every_policy(
    run: Callable[[ModuleType], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts = (BALANCED, ALL_1G)
    machines = tuple(Machine("A100-80GB", (layout,), 64) for layout in layouts for _ in range(2))
    tiny = replace(
        packing_real.SCENARIOS[1], machines=machines, churn=0.1, horizon=2.0, warm_up=0.5
    )
    monkeypatch.setattr(packing_real, "QUICK", (tiny,))
    monkeypatch.setattr(packing_real, "WEIGHTS", (1, 30))
    found = run(packing_real)
    assert [row["policy"] for row in found["rows"]] == [DEFAULT, MA_CPU_MIG, OURS]
    assert all(row["pods"] > 0 for row in found["rows"])
    assert len({row["pods"] for row in found["rows"]}) == 1
    ours = found["rows"][-1]
    assert ours["idle GPUs"] == pytest.approx(ours["simulated"], rel=0.25)
    assert [each["weight"] for each in found["weights"]] == [1, 30]
    assert [each["migfit minus"] for each in found["differences"]] == [DEFAULT, MA_CPU_MIG]


def test_the_real_scheduler_is_timed_with_each_extender_and_through_each_fault(
    run: Callable[[ModuleType], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = scheduler.Size(nodes=3, pods=24, rounds=1, paced_s=0.2, hung_s=1.5, fault_rounds=1)
    monkeypatch.setattr(scheduler, "SMALL", (size,))
    found = run(scheduler)
    assert [row["extender"] for row in found["rows"]] == [
        "no extender",
        "do nothing: prioritize",
        "migfit: prioritize",
        "do nothing: filter, prioritize",
        "migfit: filter, prioritize",
    ]
    assert all(row["pods/s"] > 0 for row in found["rows"])
    (faults,) = found["also"]
    assert [row["bound"] for row in faults] == ["24/24"] * 4
    assert faults[0]["of migfit"] == "1.00"
    assert len(found["figures"]) == 3
