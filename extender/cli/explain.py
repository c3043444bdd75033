"""`migfit explain`: the decision on a pod before it is created, and why."""

import asyncio
import time
from collections.abc import Iterable, Mapping
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
    output_option,
    read,
)
from extender.config import DEFAULT_DOCUMENT, ConfigError, load
from extender.core.decide import decide
from extender.core.decision import Decision
from extender.core.defaulting import defaulted
from extender.core.policy import Policy
from extender.core.reason import Action
from extender.core.render import audit_fields
from extender.core.templates import TEMPLATE_AT, pods_in

LOCAL_FIELDS = ("time", "id", "user", "durationMs")
"""Of the audit line, what only a real request has."""


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
    help="Output of `kubectl get nodes,pods,resourcequotas,limitranges,namespaces -A -o json`; "
    "without it the cluster of the current kubeconfig is asked.",
)
@click.option("--config", type=click.Path(path_type=Path), help="Configuration; else the defaults.")
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
    policy = _policy(config)
    pods = [pod for manifest in documents(filename) for pod in pods_in(manifest)]
    if not pods:
        kinds = ", ".join(TEMPLATE_AT)
        fail(f"{filename} holds no pod: give a Pod, or one of {kinds}")
    items = documents(cluster) if cluster is not None else _ask(kubeconfig, debug=debug)
    decisions = _decide(pods, items, policy, namespace)
    emit(
        [_fields(decision) for decision in decisions],
        output,
        lambda: "\n\n".join(_picture(decision) for decision in decisions),
    )


def _policy(path: Path | None) -> Policy:
    try:
        return load(DEFAULT_DOCUMENT if path is None else read(path))
    except ConfigError as error:
        fail(f"{path}: {error}")


def _decide(
    pods: Iterable[Mapping[str, Any]],
    items: Iterable[Mapping[str, Any]],
    policy: Policy,
    namespace: str,
) -> list[Decision]:
    from extender.cluster.inventory import inventory  # noqa: PLC0415  heavy, and not for --help

    try:
        state = inventory(items, policy, time.monotonic)
    except msgspec.ValidationError as error:
        fail(f"--cluster: {error}; give what kubectl printed, unchanged")
    snapshot = state.snapshot()
    return [
        decide(pod, snapshot, policy, namespace=_namespace(pod, namespace))
        for pod in map(defaulted, pods)
    ]


def _namespace(pod: Mapping[str, Any], given: str) -> str:
    own = pod.get("metadata", {}).get("namespace")
    return own if isinstance(own, str) and own else given


def _ask(kubeconfig: Path | None, *, debug: bool) -> list[dict[str, Any]]:
    from extender.cluster.errors import ClusterError, KubeconfigError  # noqa: PLC0415  as above
    from extender.cluster.inventory import ask  # noqa: PLC0415  as above

    try:
        return asyncio.run(ask(kubeconfig))
    except ClusterError as error:
        if debug:
            raise
        code = BAD_INPUT if isinstance(error, KubeconfigError) else UNREACHABLE
        fail(f"{error}; or give a file with --cluster", code)


def _fields(decision: Decision) -> dict[str, Any]:
    fields = audit_fields(decision, dry_run=False, user="", age_s=0.0, duration_s=0.0)
    return {key: value for key, value in fields.items() if key not in LOCAL_FIELDS}


def _picture(decision: Decision) -> str:
    fields = _fields(decision)
    explanation = decision.reason.explanation
    lines = [
        f"{decision.namespace}/{decision.pod}: {decision.action}, {decision.reason}",
        f"  {decision.message}",
        f"  {explanation.meaning}",
    ]
    if decision.action is not Action.REWRITTEN:
        lines.append(f"  What to do: {explanation.remedy}")
    if decision.changes:
        rows = [
            [c["name"], c["from"], c["to"] or "(unchanged)", c["footprint"], c["footprintSource"]]
            for c in fields["containers"]
        ]
        lines.append("")
        head = ["CONTAINER", "ASKS FOR", "GETS", "FOOTPRINT", "SAID BY"]
        lines.append(columns(head, rows, "  "))
    if decision.candidates:
        rows = [[c["resource"], c["usable"], c["free"], c["verdict"]] for c in fields["candidates"]]
        lines.append("")
        lines.append(f"  need {fields['need']}" if fields["need"] else "  no need known")
        lines.append(columns(["CANDIDATE", "USABLE", "FREE", "VERDICT"], rows, "  "))
    return "\n".join(lines)
