"""`migfit doctor`: what is wrong with an installation, and what to do."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from extender.cli.output import (
    BAD_INPUT,
    FINDING,
    UNREACHABLE,
    debug_option,
    documents,
    emit,
    fail,
    named,
    output_option,
)
from extender.core.doctor.diagnose import diagnose
from extender.core.doctor.evidence import Evidence
from extender.core.doctor.finding import Finding, Severity

SHOWN = 5
"""Objects that a line of the table names; `-o json` has them all."""


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Way to the cluster; without it in-cluster, else the default kubeconfig.",
)
@click.option(
    "-n",
    "--namespace",
    default="migfit-system",
    show_default=True,
    help="Where migfit is installed.",
)
@click.option(
    "--webhook-configuration",
    default="migfit",
    show_default=True,
    metavar="NAME",
    help="The MutatingWebhookConfiguration.",
)
@click.option(
    "--scheduler-config",
    type=click.Path(path_type=Path, allow_dash=True),
    help="KubeSchedulerConfiguration that kube-scheduler runs with; - for stdin. Without it those in "
    "migfit's own ConfigMaps.",
)
@output_option
@debug_option
def doctor(
    kubeconfig: Path | None,
    namespace: str,
    webhook_configuration: str,
    scheduler_config: Path | None,
    output: str,
    *,
    debug: bool,
) -> None:
    """Examine an installation: webhook, certificate, configuration, nodes, scheduler.

    Asks the cluster once and changes nothing. Exit code 1 if there is an error or a warning; what is
    only worth knowing is told as info. What may not be read is a finding too.
    """
    configurations = None if scheduler_config is None else _configurations(scheduler_config)
    evidence = _examine(kubeconfig, namespace, webhook_configuration, configurations, debug=debug)
    findings = diagnose(evidence)
    emit([finding.fields() for finding in findings], output, lambda: _table(findings))
    if any(finding.id.entry.severity is not Severity.INFO for finding in findings):
        raise SystemExit(FINDING)


def _configurations(path: Path) -> dict[str, dict[str, Any]]:
    wanted = "the file that kube-scheduler's --config names"
    items = documents(path, wanted)
    found = [item for item in items if item["kind"] == "KubeSchedulerConfiguration"]
    if len(found) != 1:
        fail(f"{named(path)} holds {len(found) or 'no'} KubeSchedulerConfiguration: give {wanted}")
    return {named(path): found[0]}


def _examine(
    kubeconfig: Path | None,
    namespace: str,
    webhook: str,
    configurations: Mapping[str, Mapping[str, Any]] | None,
    *,
    debug: bool,
) -> Evidence:
    from extender.cluster.errors import ClusterError, KubeconfigError  # noqa: PLC0415  heavy, and not for --help
    from extender.cluster.examine import examine  # noqa: PLC0415  as above

    try:
        return asyncio.run(examine(kubeconfig, namespace, webhook, configurations))
    except ClusterError as error:
        if debug:
            raise
        code = BAD_INPUT if isinstance(error, KubeconfigError) else UNREACHABLE
        fail(f"cannot ask the cluster: {error}; mend that, or give another --kubeconfig", code)


def _table(findings: Sequence[Finding]) -> str:
    parts = [_lines(finding) for finding in findings]
    return "\n\n".join([*parts, _summary(findings)])


def _lines(finding: Finding) -> str:
    severity, why, remedy = finding.id.entry
    return (
        f"{severity}  {finding.id}  {_names(finding.objects)}\n"
        f"  {finding.what}\n  {why}\n  What to do: {remedy}"
    )


def _names(objects: Sequence[str]) -> str:
    rest = len(objects) - SHOWN
    return ", ".join(objects[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _summary(findings: Sequence[Finding]) -> str:
    if not findings:
        return "Nothing found."
    counts = dict.fromkeys(Severity, 0)
    for finding in findings:
        counts[finding.id.entry.severity] += 1
    return ", ".join(
        f"{count} {severity}{'s' if count != 1 and severity is not Severity.INFO else ''}"
        for severity, count in counts.items()
    )
