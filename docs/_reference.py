"""The reference pages, made from the code they describe."""  # noqa: INP001  pages, no package

import importlib
import re
from collections.abc import Sequence

import click
import yaml
from prometheus_client.metrics import MetricWrapperBase

from docs._markdown import NOTE, code, table
from docs._monitoring import alerts_table
from extender.agent.metrics import AgentMetrics
from extender.cli import COMMANDS, main
from extender.core.catalogue import ALL_RESOURCES
from extender.core.decision import Verdict
from extender.core.policy import Policy
from extender.core.reason import STEP_ONE, Action, Reason, leaves_no_mark
from extender.core.render import WARNED
from extender.server.metrics import Metrics

WIDTH = 100

ACTIONS: dict[Reason, tuple[Action, ...]] = {
    **dict.fromkeys(Reason, (Action.LEFT,)),
    Reason.FITS: (Action.REWRITTEN,),
    Reason.FITS_LARGER: (Action.REWRITTEN,),
    Reason.FITS_CONSOLIDATED: (Action.REWRITTEN,),
    Reason.WAITS: (Action.REWRITTEN,),
    Reason.QUOTA: (Action.DENIED, Action.LEFT),
}
"""What can become of a pod for each reason."""

_ELSEWHERE = (Reason.DRY_RUN, Reason.INTERNAL_ERROR)

# --- reasons -------------------------------------------------------------------------------------


def reasons() -> str:
    """docs/reference/reasons.md."""
    rewritten = [reason for reason in Reason if ACTIONS[reason] == (Action.REWRITTEN,)]
    apart = {*rewritten, *STEP_ONE, *_ELSEWHERE, Reason.QUOTA, Reason.MISSED}
    later = [reason for reason in Reason if reason not in apart]
    told = ", ".join(code(reason) for reason in Reason if reason in WARNED)
    bare = ", ".join(code(reason) for reason in Reason if leaves_no_mark(reason))
    verdicts = ", ".join(code(verdict) for verdict in Verdict)
    return (
        f"{NOTE}# Reasons\n\n"
        "Every decision has one reason out of this list. The same word stands in the annotation\n"
        "`migfit.io/decision`, in kubectl's warning, in the audit line, in the metric\n"
        "`migfit_decisions_total` and in `migfit explain`. Reasons are added, never renamed.\n\n"
        f"`kubectl` warns of pods that were rewritten or denied, or would be but for `DryRun`, and of\n"
        f"those left for {told}.\nPods left for {bare} carry no mark of ours.\n\n"
        f"## Rewritten\n\n{_explained(rewritten)}\n"
        f"## Denied, or left\n\n{_explained([Reason.QUOTA])}\n"
        "Denied is a pod that the quota would have refused too if it had kept its whole GPU; there is\n"
        "no other denial. Left is one that quota admission refuses by itself, or whose slices\n"
        "have a full quota of their own.\n\n"
        "## Left: it is not ours\n\nChecked in this order; the first that holds is the reason.\n\n"
        f"{_explained(STEP_ONE, numbered=True)}\n"
        f"## Left: a slice will not do, or there is none\n\n{_explained(later)}\n"
        f"## Left: whatever was found\n\n{_explained(_ELSEWHERE)}\n"
        f"## Not decided at all\n\n{_explained([Reason.MISSED])}\n"
        "Told [once we are back](../explanation/holds.md#what-else-is-found).\n\n"
        "## Verdicts\n\n"
        f"Of each candidate, `candidates[].verdict` of the audit line tells: {verdicts}.\n"
    )


def _explained(reasons: Sequence[Reason], *, numbered: bool = False) -> str:
    rows = [[code(reason), *reason.explanation] for reason in reasons]
    if numbered:
        rows = [[f"{place}", *row] for place, row in enumerate(rows, 1)]
    return table([*(["#"] if numbered else []), "reason", "meaning", "what to do"], rows)


# --- metrics -------------------------------------------------------------------------------------


def metrics() -> str:
    """docs/reference/metrics.md."""
    return (
        f"{NOTE}# Metrics\n\nOn the operations port (9090), path `/metrics`, Prometheus' text format.\n\n"
        f"{_metrics(exposed())}\n"
        "Counters carry the suffix `_total`; a histogram has `_bucket`, `_sum` and `_count`. Those of\n"
        "the process itself (`process_*`: memory, CPU, open files) are there too. `reason` is out of\n"
        "[this list](reasons.md), `verb` the path that was asked for, `profile` empty for pods left.\n\n"
        "## Alerts\n\n"
        "As they are shipped ([monitor](../how-to/monitor.md)); each leads to what to do.\n\n"
        f"{alerts_table()}\n"
        "## The node agent\n\n"
        "On a port of its own (9091), of [each node's agent](../explanation/agent.md).\n\n"
        f"{_metrics(exposed(AgentMetrics()))}"
    )


def _metrics(found: dict[str, MetricWrapperBase]) -> str:
    rows = [
        [code(name), str(each._type), ", ".join(map(code, each._labelnames)), each._documentation]  # noqa: SLF001  the client has no public way
        for name, each in found.items()
    ]
    return table(["metric", "type", "labels", "meaning"], rows)


def exposed(of: object | None = None) -> dict[str, MetricWrapperBase]:
    """Name as a scrape has it -> metric; of the server unless another set is given."""
    every = vars(Metrics() if of is None else of).values()
    found = [each for each in every if isinstance(each, MetricWrapperBase)]
    return {
        f"{each._name}_total" if each._type == "counter" else each._name: each  # noqa: SLF001  as above
        for each in found
    }


# --- commands ------------------------------------------------------------------------------------


def commands() -> str:
    """docs/reference/commands.md."""
    parts = "\n".join(f"## `{name}`\n\n```text\n{text}\n```\n" for name, text in helps().items())
    return (
        f"{NOTE}# Commands\n\n"
        "Exit codes: 0 fine, 1 a finding (an invalid configuration, or something that\n"
        "[the doctor finds](doctor.md)), 2 wrong use or input that cannot be read, 3 the cluster is out\n"
        "of reach. What went wrong is a line on stderr: what, why, what to do. Colour only on a\n"
        "terminal, and not with `NO_COLOR`.\n\n"
        f"{parts}"
    )


def helps() -> dict[str, str]:
    """Command line -> its help text."""
    texts = {"migfit": _help("migfit", main)}
    for name in COMMANDS:
        command = getattr(importlib.import_module(f"extender.cli.{name}"), name)
        if isinstance(command, click.Group):
            for sub, each in command.commands.items():
                texts[f"migfit {name} {sub}"] = _help(f"migfit {name} {sub}", each)
        else:
            texts[f"migfit {name}"] = _help(f"migfit {name}", command)
    return texts


def _help(name: str, command: click.Command) -> str:
    context = click.Context(
        command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH, color=False
    )
    return command.get_help(context)


# --- Kueue ---------------------------------------------------------------------------------------


def kueue_transformations() -> str:
    """docs/how-to/kueue-transformations.yaml: every MIG resource counts as one GPU."""
    entries = "".join(f"    - {entry}\n" for entry in map(transformation, ALL_RESOURCES))
    return (
        "# Generated by `make docs` from migfit's catalogue: every MIG resource that a GPU of NVIDIA can\n"
        "# have. Merge it into the Configuration of Kueue (ConfigMap kueue-manager-config in namespace\n"
        "# kueue-system, key controller_manager_config.yaml); why is in kueue.md.\n"
        "apiVersion: config.kueue.x-k8s.io/v1beta2\nkind: Configuration\nresources:\n"
        f"  transformations:\n{entries}"
    )


def transformation(resource: str) -> str:
    """One entry of Kueue's `resources.transformations`, as a line of YAML."""
    entry = {"input": resource, "strategy": "Replace", "outputs": {"nvidia.com/gpu": "1"}}
    return yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=WIDTH * 2).strip()


_MANAGED = re.compile(r"(?<=^    managedResources:\n)(?: {6}- .*\n)*", re.MULTILINE)


def scheduler_sample(text: str) -> str:
    """A KubeSchedulerConfiguration, its list of managed resources made anew from the catalogue."""
    names = (*ALL_RESOURCES, Policy().gpu_resource)
    lines = [f"      - {{name: {name}, ignoredByScheduler: false}}\n" for name in names]
    return _MANAGED.sub("".join(lines), text)
