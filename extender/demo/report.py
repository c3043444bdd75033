"""What `migfit demo` found, as lines for people and as JSON for programs."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extender.core.policy import Policy
from extender.demo import caption
from extender.demo.outcome import Figures, PodOutcome, Run, figures
from extender.demo.picture import BLOCKS, WIDTH, Glyphs, Ink, Line, bars, legend
from extender.demo.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Shown:
    """A run and its figures."""

    run: Run
    figures: Figures


@dataclass(frozen=True, slots=True)
class Report:
    """A scenario, without migfit and with it under each layout."""

    scenario: Scenario
    policy: Policy
    before: Shown
    after: tuple[Shown, ...]

    @property
    def findings(self) -> list[str]:
        """What went otherwise than it should: pods without a decision, an extender that failed."""
        found: list[str] = []
        for shown in self.after:
            found += [f"extender: {error}" for error in shown.run.errors]
            found += [
                f"{pod.name}: {pod.problem or 'no decision'}"
                for pod in shown.run.pods
                if not pod.decision
            ]
        return found


def report(scenario: Scenario, policy: Policy, before: Run, after: Sequence[Run]) -> Report:
    """Add up all runs."""

    def shown(run: Run) -> Shown:
        return show(run, scenario, policy)

    return Report(scenario, policy, shown(before), tuple(map(shown, after)))


def show(run: Run, scenario: Scenario, policy: Policy) -> Shown:
    """Add up one run."""
    month = scenario.price.gpu_month
    return Shown(run, figures(run, headroom=policy.headroom, gpu_month=month))


def lines(result: Report, *, width: int = WIDTH, glyphs: Glyphs = BLOCKS) -> list[Line]:
    """The whole page: before, then after under each layout."""
    scenario = result.scenario
    title = f": {scenario.title}" if scenario.title else ""
    page: list[Line] = [((scenario.name, Ink.HEADING), (title, Ink.PLAIN)), legend(glyphs), ()]
    page += heading("BEFORE", "without migfit")
    page += bars(result.before.run, _names(result.before), width=width, glyphs=glyphs)
    page += wrapped(before_sentence(result.before), width, Ink.BAD)
    for shown in result.after:
        page.append(())
        page += after_lines(result, shown, width=width, glyphs=glyphs)
    return page


def after_lines(
    result: Report, shown: Shown, *, width: int = WIDTH, glyphs: Glyphs = BLOCKS
) -> list[Line]:
    """One run with migfit: the bars, the sentence, and a line per pod."""
    page = heading("AFTER", ", ".join(filter(None, ["with migfit", shown.run.name])))
    page += bars(shown.run, _names(shown), width=width, glyphs=glyphs)
    page += wrapped(after_sentence(result, shown), width, Ink.GOOD)
    page.append(())
    page += decisions(shown.run.pods, width)
    return page


def now_lines(
    result: Report, run: Run, pod: PodOutcome | None, *, width: int, glyphs: Glyphs
) -> list[Line]:
    """The cluster after one more pod came, or one went."""
    shown = show(run, result.scenario, result.policy)
    found = shown.figures
    said = caption.sentence(caption.use(found), caption.spare(found, len(result.scenario.nodes)))
    page = [(), *heading("NOW", f"{pod.name} came" if pod else "a pod went")]
    page += bars(run, _names(shown), width=width, glyphs=glyphs)
    page += wrapped(f"Now: {said}", width, Ink.GOOD)
    return page + (decisions([pod], width) if pod else [])


def heading(word: str, rest: str) -> list[Line]:
    """A title above a picture."""
    return [((word, Ink.HEADING), (f"  {rest}", Ink.PLAIN))]


def before_sentence(shown: Shown) -> str:
    """`Before: 96.2 of 240 GB, 40 %; …`."""
    found = shown.figures
    said = caption.sentence(caption.use(found), caption.waste(found), caption.pending(found))
    return f"Before: {said}"


def after_sentence(result: Report, shown: Shown) -> str:
    """`After: 96.2 of 160 GB, 60 %; GPU 2 free; 4,320 → …`."""
    found, scenario = shown.figures, result.scenario
    said = caption.sentence(
        caption.use(found),
        caption.spare(found, len(scenario.nodes)),
        caption.saving(result.before.figures, found, scenario.price.currency),
        caption.waste(found),
        caption.pending(found),
    )
    return f"After: {said}"


def decisions(pods: Sequence[PodOutcome], width: int = WIDTH) -> list[Line]:
    """One line per pod: action, reason and message, as the server's audit log has them."""
    rows = [
        (
            pod.title,
            str(pod.decision.get("action", "-")),
            str(pod.decision.get("reason", "-")),
            "; ".join(filter(None, [str(pod.decision.get("message", "")), pod.problem])),
        )
        for pod in pods
    ]
    sizes = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    page: list[Line] = []
    for name, action, reason, why in rows:
        ink = Ink.GOOD if action == "rewritten" else Ink.PLAIN
        head: Line = (
            (f" {name:<{sizes[0]}}  ", Ink.NAME),
            (f"{action:<{sizes[1]}}  ", ink),
            (f"{reason:<{sizes[2]}}  ", Ink.PLAIN),
        )
        indent = sum(len(part) for part, _ in head)
        first, *rest = textwrap.wrap(why, max(24, width - indent)) or [""]
        page.append((*head, (first, Ink.QUIET)))
        page += [((" " * indent, Ink.PLAIN), (more, Ink.QUIET)) for more in rest]
    return page


def wrapped(sentence: str, width: int, ink: Ink) -> list[Line]:
    """A sentence as lines of at most that width, broken between its clauses where that does."""
    packed: list[str] = []
    for clause in sentence.replace("; ", ";\n").splitlines():
        if packed and len(packed[-1]) + 1 + len(clause) < width:
            packed[-1] += f" {clause}"
        else:
            packed.append(clause)
    return [((f" {part}", ink),) for line in packed for part in textwrap.wrap(line, width - 1)]


def _names(shown: Shown) -> list[str]:
    return [pod.name for pod in shown.figures.hollow]


def as_json(result: Report) -> dict[str, Any]:
    """The result for `-o json`. GB are decimal."""
    scenario = result.scenario
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "currency": scenario.price.currency,
        "before": _run(result.before),
        "after": [
            {
                **_run(shown),
                "savedAMonth": float(
                    result.before.figures.cost_a_month - shown.figures.cost_a_month
                ),
            }
            for shown in result.after
        ],
    }


def _run(shown: Shown) -> dict[str, Any]:
    found = shown.figures
    return {
        "layout": shown.run.name,
        "usedGb": float(found.used_gb),
        "heldGb": float(found.held_gb),
        "gpus": found.gpus,
        "gpusInUse": found.gpus_in_use,
        "gpusFree": [[gpu.node, gpu.index] for gpu in found.free],
        "gpusIdlePartitioned": [[gpu.node, gpu.index] for gpu in found.idle],
        "freeSlices": dict(found.free_slices),
        "hollow": [pod.name for pod in found.hollow],
        "hollowUsedGb": float(found.hollow_used_gb),
        "hollowHeldGb": float(found.hollow_held_gb),
        "costAMonth": float(found.cost_a_month),
        "pieces": [
            {
                "node": gpu.node,
                "gpu": gpu.index,
                "profile": piece.profile,
                "firstMemorySlice": piece.start,
                "memorySlices": piece.slices,
                "sizeGb": piece.nominal_gb,
                "pod": use.pod.name if use else None,
                "usedGb": float(use.used_gb) if use and use.used_gb is not None else None,
            }
            for gpu, piece, use in shown.run.pieces()
        ],
        "pods": [_pod(pod) for pod in shown.run.pods],
    }


def _pod(pod: PodOutcome) -> Mapping[str, Any]:
    return {
        "name": pod.name,
        "namespace": pod.namespace,
        "node": pod.node or None,
        "decision": dict(pod.decision) or None,
        "problem": pod.problem or None,
        "warnings": list(pod.warnings),
    }
