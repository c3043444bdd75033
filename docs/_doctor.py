"""The page about what the doctor finds, made from the list of it."""  # noqa: INP001  pages, no package

from collections.abc import Iterator

from docs._markdown import NOTE, code, table
from extender.core.doctor.finding import Id, Severity

SECTIONS = {
    Id.WEBHOOK_MISSING: "The webhook",
    Id.CONFIG_MISSING: "The configuration",
    Id.NO_GPU_NODES: "Nodes",
    Id.EXTENDER_MISSING: "The scheduler",
    Id.KUBERNETES_TOO_OLD: "The rest",
}
"""The first finding of each section."""
READS = [
    ["nodes, pods, namespaces", "list", "everywhere"],
    ["daemonsets.apps", "list", "everywhere; to find NVIDIA's device plugin"],
    ["mutatingwebhookconfigurations.admissionregistration.k8s.io", "get", "the one"],
    ["configmaps", "get, list", "migfit's namespace"],
    ["endpointslices.discovery.k8s.io", "list", "the Service's namespace"],
    [
        "deployments.apps, secrets",
        "get",
        "migfit's namespace; what the webhook's certificate is in",
    ],
    ["leases.coordination.k8s.io", "list", "everywhere; only with `inject.schedulerName`"],
]


def findings() -> str:
    """docs/reference/doctor.md."""
    meanings = {
        Severity.ERROR: "migfit does not do its work, or pods are worse off",
        Severity.WARNING: "it does less than it could, or will not for long",
        Severity.INFO: "worth knowing, and often meant so; alone it is no reason for exit code 1",
    }
    severities = "".join(f"* **{each}**: {meanings[each]}.\n" for each in Severity)
    return (
        f"{NOTE}# What the doctor finds\n\n"
        "`migfit doctor` asks the cluster once, changes nothing, and prints what is wrong, the worst\n"
        "first: what, why it matters, what to do. `-o json` prints an array of objects with `id`,\n"
        "`severity`, `objects`, `what`, `why` and `remedy`. Exit code 1 if there is an error or a\n"
        "warning, 3 if the cluster is out of reach. Findings are added, never renamed.\n\n"
        f"{severities}\n"
        "The certificate is looked at as the API server sees it, by a connection to the webhook, where\n"
        "that leads to the webhook: from within the cluster, or to a URL. From elsewhere it is that in\n"
        "the Secret. The scheduler's configuration is looked for in migfit's ConfigMaps, unless\n"
        "`--scheduler-config` gives the file that kube-scheduler runs with.\n\n"
        f"{''.join(_sections())}"
        "## Rights\n\n"
        "What it may not read is a finding too, and the rest is examined all the same. It reads:\n\n"
        f"{table(['what', 'how', 'where'], READS)}"
    )


def _sections() -> Iterator[str]:
    head = ["finding", "severity", "why it matters", "what to do"]
    starts = [*SECTIONS, None]
    every = list(Id)
    for first, following in zip(SECTIONS, starts[1:], strict=True):
        last = every.index(following) if following is not None else len(every)
        of_section = every[every.index(first) : last]
        rows = [[code(each), *map(str, each.entry)] for each in of_section]
        yield f"## {SECTIONS[first]}\n\n{table(head, rows)}\n"
