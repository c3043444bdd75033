"""What an installation would run in a cluster with nodes, here as processes beside the control plane.

Arguments, rights and configuration are those of the objects in the API server, whoever put them there.
Only what has to do with the place is different: files instead of mounts, other ports, a kubeconfig with
the token of the ServiceAccount that a pod would have.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING

from tests.controlplane.client import ApiError
from tests.controlplane.keeping import may
from tests.controlplane.migfit import SYSTEM_NAMESPACE, Migfit
from tests.controlplane.objects import gpu_pod, new_namespace, wait_until
from tests.controlplane.program import Program
from tests.deploy.chart import CHART, RELEASE, rendered
from tests.deploy.helm import find

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane, User

RBAC = ("ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
WITH_SCHEDULER = {"config": {"inject": {"schedulerName": "migfit-scheduler"}}}
"""A scheduler that somebody else runs, whose Lease is looked for."""
BINDINGS = ("RoleBinding", "ClusterRoleBinding")


def own_address() -> str:
    """An address of this machine other than loopback, which endpoints may not have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # asks the routes only: nothing is sent
        address = str(probe.getsockname()[0])
    assert address != "0.0.0.0", "this needs a network: endpoints cannot be on loopback"
    return address


class Release:
    """The chart as helm installs it."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def helm(self, *args: str, values: JSON | None = None) -> str:
        """Runs helm as the admin; AssertionError with its output if it fails."""
        if values is not None:
            args = (*args, "--values", "-")
        done = subprocess.run(
            [find("helm"), "--kubeconfig", self._plane.kubeconfig, *args],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, values: JSON | None = None, chart: Path = CHART) -> str:
        """What helm says."""
        where = ("--namespace", SYSTEM_NAMESPACE, "--create-namespace")
        return self.helm("install", RELEASE, str(chart), *where, values=values or {})

    def upgrade(self, values: JSON) -> None:
        """To these values."""
        where = ("--namespace", SYSTEM_NAMESPACE)
        self.helm("upgrade", RELEASE, str(CHART), *where, values=values)

    def uninstall(self) -> None:
        """Take it away."""
        self.helm("uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE)


def rules_of(
    plane: ControlPlane, account: str, *, ours_only: bool = False
) -> Iterator[tuple[str, JSON]]:
    """Namespace (empty for cluster-wide) and rule, of all roles that bindings of ours give it."""
    client = plane.client
    for kind in BINDINGS:
        for binding in client.items(kind, labelSelector="app.kubernetes.io/name=migfit"):
            if account not in {subject["name"] for subject in binding["subjects"]}:
                continue
            role, namespace = binding["roleRef"], binding["metadata"].get("namespace", "")
            if ours_only and role["name"].startswith("system:"):
                continue
            found = client.get(role["kind"], role["name"], namespace)
            for rule in found.get("rules") or ():
                yield namespace, rule


def account_with_rights(plane: ControlPlane, name: str) -> User:
    """The ServiceAccount, as soon as the API server has read what it may do."""
    user = plane.service_account(SYSTEM_NAMESPACE, name)
    for namespace, rule in rules_of(plane, name):
        first = {
            "group": rule["apiGroups"][0],
            "resource": rule["resources"][0],
            "verb": rule["verbs"][0],
            "name": rule.get("resourceNames", [""])[0],
        }
        asked = first | ({"namespace": namespace} if namespace else {})
        wait_until(partial(may, user, asked), 20, f"{name} may {asked}")
    return user


def chart_account(plane: ControlPlane) -> User:
    """The webhook's ServiceAccount in a namespace made for it, with the chart's rights and no others."""
    new_namespace(plane.client, name=SYSTEM_NAMESPACE)
    for item in _chart_rights():
        plane.client.create(item)
    return account_with_rights(plane, "migfit")


@cache
def _chart_rights() -> tuple[JSON, ...]:
    """Once for all tests: helm takes longer than all the rest of `chart_account`."""
    return tuple(item for item in rendered(WITH_SCHEDULER) if item["kind"] in RBAC)


class Pod:
    """A container of ours, as in one replica of a Deployment.

    Args:
        plane: where the Deployment is.
        folder: for its files.
        deployment: its name.
        name: of this replica.
    """

    def __init__(
        self, plane: ControlPlane, folder: Path, deployment: str = "migfit", name: str = ""
    ) -> None:
        self._plane, self._folder = plane, folder
        self._name = name or deployment
        self.address = own_address()
        # It knows where its ports are and what its log says; the flags are the Deployment's own.
        self.server = Migfit(plane, folder, None, self._name)
        self.spec = plane.client.get("Deployment", deployment, SYSTEM_NAMESPACE)["spec"][
            "template"
        ]["spec"]

    @property
    def account(self) -> str:
        """The ServiceAccount."""
        return str(self.spec["serviceAccountName"])

    def start(self, *flags: str) -> None:
        """Start it and wait until it is ready; `flags` come last."""
        user = account_with_rights(self._plane, self.account)
        (args,) = [each["args"] for each in self.spec["containers"] if "serve" in each["args"]]
        told = dict(word.partition("=")[::2] for word in args[1:])
        ports = self.server.ports
        here = {
            "--kubeconfig": str(user.kubeconfig),
            "--bind": self.address,
            "--ops-port": str(ports.ops),
            "--lame-duck": "0",
        }
        for flag, port in {
            "--webhook-port": ports.webhook,
            "--extender-port": ports.extender,
        }.items():
            if told[flag] != "0":
                here[flag] = str(port)
        words = [f"{flag}={value}" for flag, value in here.items()]
        argv = [sys.executable, "-m", "extender.cli", *args, *words, *flags]
        self.server.program = Program(self._name, argv, self._folder)
        self.server.address = self.address
        self.server.program.wait_ready(self.server.ready, 60)

    def behind_the_service(self) -> None:
        """What the endpoint slice controller and kube-proxy do: who calls the Service gets here."""
        client, port = self._plane.client, self.server.ports.webhook
        service = client.get("Service", "migfit", SYSTEM_NAMESPACE)
        (entry,) = [each for each in service["spec"]["ports"] if each["name"] == "webhook"]
        client.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"migfit-{self._name}",
                    "namespace": SYSTEM_NAMESPACE,
                    "labels": {"kubernetes.io/service-name": "migfit"},
                    # As the controller does, so that it goes with the Service.
                    "ownerReferences": [
                        {
                            "apiVersion": "v1",
                            "kind": "Service",
                            "name": "migfit",
                            "uid": service["metadata"]["uid"],
                        }
                    ],
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [self.address], "conditions": {"ready": True}}],
                "ports": [{"name": entry["name"], "port": port, "protocol": "TCP"}],
            }
        )

        def called() -> bool:
            try:
                client.create(gpu_pod("probe", "default"), dry_run=True)
            except ApiError:
                return False
            return self.server.metric("migfit_dry_run_reviews_total") > 0

        wait_until(called, 30, "the API server calls the webhook")

    def stop(self) -> None:
        """In whatever state it is."""
        self.server.kill()
