"""`migfit explain`: the decision on a pod before it is created, and why."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec

from extender.cli.output import (
    BAD_INPUT,
    UNREACHABLE,
    columns,
    debug_option,
    documents,
    emit,
    fail,
    named,
    output_option,
    read,
)
from extender.config import DEFAULT_DOCUMENT, ConfigError, load
from extender.core.decide import decide
from extender.core.decision import Decision
from extender.core.defaulting import defaulted
from extender.core.observed import Peak
from extender.core.pod import mapping, metadata, text
from extender.core.policy import Policy
from extender.core.quantity import MIB, format_mib
from extender.core.reason import Action
from extender.core.render import audit_fields
from extender.core.templates import TEMPLATE_AT, pods_in

LOCAL_FIELDS = ("time", "id", "user", "durationMs")
"""Of the audit line, what only a real request has."""
ASKED = "nodes,pods,resourcequotas,limitranges,namespaces"
"""What is known of a cluster, as kubectl is asked for it."""


@click.command()
@click.option(
    "-f",
    "--filename",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Pod, or what makes pods: Deployment, StatefulSet, DaemonSet, Job, CronJob; - for stdin.",
)
@click.option(
    "--cluster",
    type=click.Path(path_type=Path, allow_dash=True),
    help=f"Output of `kubectl get {ASKED} -A -o json`; - for stdin. "
    "Without it the cluster of the current kubeconfig is asked.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file; else the defaults, whatever the cluster's own says.",
)
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="To ask with.")
@click.option("-n", "--namespace", default="", help="For pods that name none.")
@output_option
@debug_option
def explain(
    filename: Path,
    cluster: Path | None,
    config: Path | None,
    kubeconfig: Path | None,
    namespace: str,
    output: str,
    *,
    debug: bool,
) -> None:
    """Say what would become of a pod, and why, without creating it.

    The decision is made by the same function as in the webhook.
    """
    if [str(path) for path in (filename, cluster, config)].count("-") > 1:
        fail("stdin can be read once: give a file in place of all - but one")
    policy = _policy(config)
    pods = _pods(filename)
    items = _file(cluster) if cluster is not None else _ask(kubeconfig, debug=debug)
    decisions = _decide(pods, items, policy, namespace)
    emit(
        [_fields(decision) for decision, _ in decisions],
        output,
        lambda: "\n\n".join(_picture(decision, peaks) for decision, peaks in decisions),
    )


def _policy(path: Path | None) -> Policy:
    if path is None:
        return load(DEFAULT_DOCUMENT)
    try:
        return load(read(path))
    except ConfigError as error:
        fail("\n".join(f"{named(path)}: {problem}" for problem in error.problems))


def _pods(path: Path) -> list[dict[str, Any]]:
    manifests = documents(path, "a file that `kubectl apply -f` would take")
    pods = [pod for manifest in manifests for pod in pods_in(manifest)]
    if not pods:
        fail(f"{named(path)} holds no pod: give a Pod, or one of {', '.join(TEMPLATE_AT)}")
    for pod in pods:
        for part in ("labels", "annotations"):
            for key, value in mapping(metadata(pod).get(part)).items():
                if not isinstance(value, str):  # the API server would refuse it, we would miss it
                    fail(
                        f"{named(path)}: {part}, {key}: {value!r:.40} is no text; "
                        f"write it in quotes"
                    )
    return pods


def _file(path: Path) -> list[dict[str, Any]]:
    wanted = f"the output of `kubectl get {ASKED} -A -o json`"
    items = documents(path, wanted)
    if not any(item["kind"] == "Node" for item in items):
        fail(f"{named(path)} holds no Node: give {wanted}")
    return items


def _decide(
    pods: Iterable[Mapping[str, Any]],
    items: Iterable[Mapping[str, Any]],
    policy: Policy,
    namespace: str,
) -> list[tuple[Decision, Mapping[str, Peak]]]:
    """Each decision, with what pods of the same workload were seen to use, by container."""
    from extender.cluster.inventory import inventory  # noqa: PLC0415  heavy, and not for --help

    try:
        state = inventory(items, policy, time.monotonic)
    except msgspec.ValidationError as error:
        fail(f"--cluster: {error}; give what kubectl printed, unchanged")
    snapshot = state.snapshot()
    decisions = [
        decide(pod, snapshot, policy, namespace=_namespace(pod, namespace))
        for pod in map(defaulted, pods)
    ]
    return [(d, snapshot.observed.of(f"{d.namespace}/{d.workload}")) for d in decisions]


def _namespace(pod: Mapping[str, Any], given: str) -> str:
    return text(metadata(pod).get("namespace")) or given


def _ask(kubeconfig: Path | None, *, debug: bool) -> list[dict[str, Any]]:
    from extender.cluster.errors import ClusterError, KubeconfigError  # noqa: PLC0415  as above
    from extender.cluster.inventory import ask  # noqa: PLC0415  as above

    try:
        return asyncio.run(ask(kubeconfig))
    except ClusterError as error:
        if debug:
            raise
        code = BAD_INPUT if isinstance(error, KubeconfigError) else UNREACHABLE
        fail(f"cannot ask the cluster: {error}; mend that, or give a file with --cluster", code)


def _fields(decision: Decision) -> dict[str, Any]:
    fields = audit_fields(decision, dry_run=False, user="", age_s=0.0, duration_s=0.0)
    return {key: value for key, value in fields.items() if key not in LOCAL_FIELDS}


def _size(footprint_bytes: int | None) -> str | None:
    """A footprint as a person would write it."""
    if footprint_bytes is None:
        return None
    mib, rest = divmod(footprint_bytes, MIB)
    return f"{Decimal(footprint_bytes).scaleb(-9).normalize():f}G" if rest else format_mib(mib)


def _seen(peak: Peak | None) -> str | None:
    """A peak as a hint beside the declared footprint."""
    if peak is None:
        return None
    told = f"{peak.mib}Mi in {peak.pods} pod{'s' * (peak.pods != 1)}"
    return f"{told}, reserved ahead: no need" if peak.preallocates else told


def _picture(decision: Decision, peaks: Mapping[str, Peak]) -> str:
    fields = _fields(decision)
    workload, explanation = decision.workload, decision.reason.explanation
    who = f"{workload.kind} {decision.namespace}/{workload.name}"
    lines = [
        f"{who}: {decision.action}, {decision.reason}",
        f"  {decision.message}",
        f"  {explanation.meaning}",
    ]
    if decision.action is not Action.REWRITTEN:
        lines.append(f"  What to do: {explanation.remedy}")
    if decision.changes:
        rows = [
            [
                c.name,
                c.resource,
                c.to or "(unchanged)",
                _size(c.footprint_bytes),
                c.footprint_source,
                *([_seen(peaks.get(c.name))] if peaks else []),
            ]
            for c in decision.changes
        ]
        lines.append("")
        head = ["CONTAINER", "ASKS FOR", "GETS", "FOOTPRINT", "SAID BY"]
        head += ["SEEN TO USE"] if peaks else []
        lines.append(columns(head, rows, "  "))
    if decision.candidates:
        rows = [[c["resource"], c["usable"], c["free"], c["verdict"]] for c in fields["candidates"]]
        lines.append("")
        need = fields["need"]
        lines.append(f"  need {need}, headroom included" if need else "  no need known")
        lines.append(columns(["CANDIDATE", "USABLE", "FREE", "VERDICT"], rows, "  "))
    return "\n".join(lines)
