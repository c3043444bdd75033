"""The production server as a process beside a real control plane, and what registers it there."""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tests.controlplane.client import ApiError
from tests.controlplane.objects import gpu_pod, wait_until
from tests.controlplane.plane import free_port
from tests.controlplane.program import Program
from tests.deploy.manifests import one

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import trustme

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

SYSTEM_NAMESPACE = "migfit-system"
CONFIG_MAP = "migfit-config"
GPU = "nvidia.com/gpu"

CONFIG: JSON = {"apiVersion": "migfit.io/v1alpha1", "kind": "MigfitConfiguration"}

SERVE = (sys.executable, "-m", "extender.cli", "serve")

ASKS_FOR_GPU = (
    "object.spec.containers.exists(c, has(c.resources) && has(c.resources.limits) && "
    f"'{GPU}' in c.resources.limits) || (has(object.spec.initContainers) && "
    "object.spec.initContainers.exists(c, has(c.resources) && has(c.resources.limits) && "
    f"'{GPU}' in c.resources.limits))"
)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a server listens on 127.0.0.1."""

    webhook: int
    extender: int
    ops: int


class Migfit:
    """`migfit serve`, started and stopped as often as a test wants, always on the same ports.

    Args:
        plane: what it serves.
        folder: for its files.
        authority: who signs its certificate; None: it manages one itself.
        name: of the process and of the webhook configuration.
        kubeconfig: how it reaches the plane; as the admin unless given.
        command: what to run in place of `python -m extender.cli serve`.
    """

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        authority: trustme.CA | None,
        name: str = "migfit",
        *,
        kubeconfig: Path | None = None,
        command: tuple[str, ...] = SERVE,
    ) -> None:
        self._plane = plane
        self._folder = folder
        self.name = name
        self._ca = authority
        self._kubeconfig = kubeconfig or plane.kubeconfig
        self._command = command
        self._tls: tuple[str, ...] = ("--tls-name", "127.0.0.1")
        if authority is not None:
            certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
            issued = authority.issue_cert("127.0.0.1")
            issued.cert_chain_pems[0].write_to_path(certificate)
            issued.private_key_pem.write_to_path(key)
            self._tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
        self.address = "127.0.0.1"
        self.ports = Ports(free_port(), free_port(), free_port())
        self.program: Program | None = None

    def configure(self, **fields: object) -> None:
        """Write the ConfigMap; the fields are those of the configuration."""
        self.configure_text(json.dumps({**CONFIG, **fields}))

    def configure_text(self, text: str) -> None:
        """Write the ConfigMap with any text."""
        client = self._plane.client
        meta = {"name": CONFIG_MAP, "namespace": SYSTEM_NAMESPACE}
        manifest: JSON = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta,
            "data": {"config.yaml": text},
        }
        try:
            client.replace(manifest)
        except ApiError as error:
            if error.status != 404:
                raise
            client.create(manifest)

    def start(self, *, wait: bool = True, flags: tuple[str, ...] = ()) -> None:
        """Start the process with the ConfigMap as its configuration; wait until it is ready."""
        self.program = Program(
            self.name,
            [
                *self._command,
                *("--kubeconfig", str(self._kubeconfig)),
                *("--configmap", f"{SYSTEM_NAMESPACE}/{CONFIG_MAP}"),
                *self._tls,
                *("--bind", "127.0.0.1", "--lame-duck", "0"),
                *("--webhook-port", str(self.ports.webhook)),
                *("--extender-port", str(self.ports.extender)),
                *("--ops-port", str(self.ports.ops)),
                *flags,
            ],
            self._folder,
        )
        if wait:
            self.program.wait_ready(self.ready)

    def stop(self) -> int:
        """Stop the process by SIGTERM; its exit status."""
        assert self.program is not None
        return self.program.stop()

    def kill(self) -> None:
        """Stop the process in whatever state it is."""
        if self.program is not None:
            self.program.kill()

    def ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            return self.ops("/readyz")[0] == 200
        except OSError:
            return False

    def ops(self, path: str) -> tuple[int, str]:
        """Status and text of a GET on the operations port."""
        url = f"http://{self.address}:{self.ports.ops}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 if there is none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self.ops("/metrics")[1].splitlines()
        samples = [line for line in lines if line.partition(" ")[0].partition("{")[0] == name]
        return sum(
            float(line.rpartition(" ")[2]) for line in samples if all(w in line for w in wanted)
        )

    def audit(self, namespace: str = "") -> list[JSON]:
        """Audit lines of all reviews answered so far, oldest first."""
        assert self.program is not None
        answered = (
            self.metric("migfit_decisions_total") + self.metric("migfit_dry_run_reviews_total")
            if self.program.running
            else 0
        )
        # The line is written by a thread, a moment after the answer.
        written = partial(self._written, int(answered))
        found = wait_until(written, 10, f"{answered:g} audit lines are written")
        return [line for line in found if namespace in ("", line["namespace"])]

    def _written(self, least: int) -> list[JSON]:
        """Audit lines of reviews, once there are so many; none before that."""
        assert self.program is not None
        lines = self.program.log.read_text().rpartition("\n")[0].splitlines()
        found = [json.loads(line) for line in lines if line.startswith('{"time":')]
        reviews = [line for line in found if line["event"] == "admission"]
        return reviews if len(reviews) >= least else []

    def wait_free(self, resource: str, count: int) -> None:
        """Wait until it knows that so many units of a MIG resource are free; asks by dry runs."""
        probe = gpu_pod("probe", "default", annotations={"migfit.io/gpu-memory": "9.6G"})

        def seen() -> bool:
            self._plane.client.create(probe, dry_run=True)
            candidates = self.audit("default")[-1]["candidates"]
            return [c["free"] for c in candidates if c["resource"] == resource] == [count]

        wait_until(seen, 10, f"{count} of {resource} are known to be free")

    def wait_until_none_offers(self) -> None:
        """Wait until it knows of no node that offers slices; asks by dry runs."""
        probe = gpu_pod("probe", "default", annotations={"migfit.io/gpu-memory": "9.6G"})

        def seen() -> bool:
            self._plane.client.create(probe, dry_run=True)
            return bool(self.audit("default")[-1]["reason"] == "NoReachableMig")

        wait_until(seen, 10, "no node is known to offer slices")

    @property
    def extender(self) -> JSON:
        """This server as an extender in a KubeSchedulerConfiguration."""
        return {
            "urlPrefix": f"http://127.0.0.1:{self.ports.extender}/scheduler",
            "filterVerb": "filter",
            "prioritizeVerb": "prioritize",
            "weight": 30,
            "httpTimeout": "2s",
            "nodeCacheCapable": True,
            "ignorable": True,
            "managedResources": [
                {"name": name} for name in (GPU, "nvidia.com/mig-2g.20gb", "nvidia.com/mig-3g.40gb")
            ],
        }

    def webhook(self, **fields: object) -> JSON:
        """The entry of a webhook configuration that leads here; `fields` replace its own."""
        return {
            "name": "pods.migfit.io",
            "clientConfig": self._client_config(),
            "rules": [
                {
                    "operations": ["CREATE"],
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["pods"],
                }
            ],
            "matchConditions": [{"name": "asks-for-gpu", "expression": ASKS_FOR_GPU}],
            "failurePolicy": "Ignore",
            "timeoutSeconds": 3,
            "sideEffects": "None",
            "reinvocationPolicy": "IfNeeded",
            "admissionReviewVersions": ["v1"],
            **fields,
        }

    def update_webhook(self, **fields: object) -> JSON:
        """The entry for updates, as the manifests have it, but that it leads here."""
        _, entry = one("MutatingWebhookConfiguration")["webhooks"]
        return {**entry, "clientConfig": self._client_config(), **fields}

    def _client_config(self) -> JSON:
        client: JSON = {"url": f"https://127.0.0.1:{self.ports.webhook}/mutate"}
        if self._ca is not None:
            client["caBundle"] = base64.b64encode(self._ca.cert_pem.bytes()).decode()
        return client

    def register(self, configuration: str = "", **fields: object) -> None:
        """Register the webhook, as the manifests do, and wait until the API server calls it.

        The entry for updates comes with it, but not into another configuration.
        """
        entries = [self.webhook(**fields)]
        if not configuration:
            entries.append(self.update_webhook())
        self._plane.client.create(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": configuration or self.name},
                "webhooks": entries,
            }
        )
        before = self.metric("migfit_dry_run_reviews_total")
        probe = gpu_pod("is-the-webhook-called", SYSTEM_NAMESPACE)

        def called() -> bool:
            self._plane.client.create(probe, dry_run=True)
            return self.metric("migfit_dry_run_reviews_total") > before

        wait_until(called, 15, "the API server calls the webhook")


def a100_labels(*, memory_mib: Mapping[str, int] | None = None) -> dict[str, str]:
    """Labels of a node with A100 80GB in strategy mixed, as GPU Feature Discovery writes them."""
    usable = (
        {"1g.10gb": 9728, "2g.20gb": 19968, "3g.40gb": 40192} if memory_mib is None else memory_mib
    )
    return {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/mig.strategy": "mixed",
        "nvidia.com/mig.config.state": "success",
        **{f"nvidia.com/mig-{name}.memory": str(mib) for name, mib in usable.items()},
    }
