"""Replicas of migfit behind one Service, called by a real API server for which every miss shows."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Self

from tests.controlplane.client import ApiError
from tests.controlplane.load import DECISION
from tests.controlplane.migfit import SERVE, SYSTEM_NAMESPACE, Migfit, a100_labels
from tests.controlplane.objects import fake_node, gpu_pod, new_namespace, wait_until
from tests.controlplane.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import trustme

    from tests.controlplane.background import Background
    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

SLICE = "nvidia.com/mig-2g.20gb"
PLENTY = {SLICE: 100_000, "nvidia.com/gpu": 100_000, "pods": 100_000}
CONFIGURATION = "migfit"
LAME_DUCK_S = "5"
"""As in the manifests."""
LENIENT = "lenient"
"""A namespace whose pods are called for with failurePolicy Ignore, as in production."""


class Fleet:
    """Two replicas, a Service before them, and slices for as many pods as a test may create.

    A context manager. All other namespaces than `LENIENT` are called for with failurePolicy Fail.

    Args:
        plane: what they serve.
        folder: for their files.
        authority: who signs their certificates; None: they manage one.
        background: where the Service runs.
        kubeconfig: how they reach the plane; as the admin, directly, unless given.
        commands: of each replica, in place of `migfit serve`.
        settings: of the configuration.
    """

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        authority: trustme.CA | None,
        background: Background,
        *,
        kubeconfig: Path | None = None,
        commands: Sequence[tuple[str, ...]] = (SERVE, SERVE),
        **settings: object,
    ) -> None:
        self._plane, self._folder, self._authority = plane, folder, authority
        self._background, self._kubeconfig = background, kubeconfig
        self._commands, self._settings = commands, settings
        self._names = (f"replica-{number}" for number in count())
        self._nodes = (f"node-{number}" for number in count())
        self._stack = ExitStack()
        self.service = Service()
        self.replicas: list[Migfit] = []
        """Those that run, oldest first."""
        self.all: list[Migfit] = []
        """Those that ever ran."""

    def __enter__(self) -> Self:
        with self._stack:
            new_namespace(self._plane.client, name=SYSTEM_NAMESPACE)
            new_namespace(self._plane.client, name=LENIENT)
            self.new_node(PLENTY)
            self._background.enter(self.service)
            started = [self.start(command) for command in self._commands]
            self._register()
            for replica in started:
                self.wait_in_service(replica)
            wait_until(self._called, 15, "the API server calls the Service")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- replicas --------------------------------------------------------------------------------

    def start(self, command: tuple[str, ...] = SERVE) -> Migfit:
        """Start one more, which the Service follows; not waited for."""
        name = next(self._names)
        replica = Migfit(
            self._plane,
            self._folder,
            self._authority,
            name,
            kubeconfig=self._kubeconfig,
            command=command,
        )
        if not self.all:
            replica.configure(**self._settings)
        self._stack.callback(replica.kill)
        replica.start(wait=False, flags=("--lame-duck", LAME_DUCK_S))
        self._background.run(self.service.add(name, replica.ports))
        self.replicas.append(replica)
        self.all.append(replica)
        return replica

    def wait_in_service(self, *replicas: Migfit) -> None:
        """Wait until new connections go there."""
        for replica in replicas:
            assert replica.program is not None
            replica.program.wait_ready(partial(self._serves, replica))

    def wait_out_of_service(self, replica: Migfit) -> float:
        """Wait until new connections go there no more; since when, by the monotonic clock."""
        what = f"{replica.name} is out of service"
        wait_until(lambda: not self._serves(replica), 20, what)
        return self.service.changed_s(replica.name)

    def _serves(self, replica: Migfit) -> bool:
        return replica.name in self.service.ready

    def replace(self, replica: Migfit) -> Migfit:
        """As a Deployment does with one surplus pod: start another; when that serves, SIGTERM."""
        new = self.start()
        self.wait_in_service(new)
        signalled(replica, signal.SIGTERM)
        self.replicas.remove(replica)
        return new

    def end(self, replica: Migfit) -> int:
        """Wait until one that is going has gone; its exit status."""
        program = replica.program
        assert program is not None
        wait_until(lambda: not program.running, 120, f"{replica.name} has ended")
        return program.stop()

    # --- what they say ---------------------------------------------------------------------------

    def review(self, replica: Migfit, pod: JSON) -> str:
        """The reason of this one replica's decision on a pod, which is not created."""
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        port = replica.ports.webhook
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=tls)
        try:
            connection.request("POST", "/mutate", json.dumps(review_of(pod)))
            answer = json.loads(connection.getresponse().read())["response"]
        finally:
            connection.close()
        return str(json.loads(answer["auditAnnotations"]["decision"])["reason"])

    def new_node(self, resources: dict[str, int]) -> str:
        """Another node, which its label `node` names."""
        name = next(self._nodes)
        labels = a100_labels() | {"node": name}
        self._plane.client.create(fake_node(name, allocatable=resources, labels=labels))
        return name

    def know(self, node: str) -> bool:
        """Whether every replica has seen the node."""
        pod = gpu_pod(
            "asks",
            LENIENT,
            annotations={"migfit.io/gpu-memory": "9.6G"},
            spec={"nodeSelector": {"node": node}},
        )
        return all(self.review(replica, pod) == "Fits" for replica in self.replicas)

    def audit(self) -> list[JSON]:
        """Audit lines of all replicas that ever ran."""
        return [line for replica in self.all for line in replica.audit()]

    # --- the webhook -----------------------------------------------------------------------------

    def _register(self) -> None:
        to = self.replicas[0].webhook()["clientConfig"]
        to |= {"url": f"https://127.0.0.1:{self.service.port}/mutate"}
        strict, lenient = (
            self.replicas[0].webhook(
                name=f"{policy.lower()}.pods.migfit.io",
                clientConfig=to,
                failurePolicy=policy,
                namespaceSelector={
                    "matchExpressions": [
                        {
                            "key": "kubernetes.io/metadata.name",
                            "operator": operator,
                            "values": [LENIENT],
                        }
                    ]
                },
            )
            for policy, operator in (("Fail", "NotIn"), ("Ignore", "In"))
        )
        self._plane.client.create(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": CONFIGURATION},
                "webhooks": [strict, lenient],
            }
        )

    def _called(self) -> bool:
        """Whether a pod of each kind of namespace is decided on."""
        for namespace in (LENIENT, "default"):
            try:
                reply = self._plane.client.create(gpu_pod("probe", namespace), dry_run=True)
            except ApiError:
                return False
            if DECISION not in reply.body["metadata"].get("annotations", {}):
                return False
        return True


def signalled(replica: Migfit, number: signal.Signals) -> None:
    """Send it a signal, itself."""
    assert replica.program is not None
    os.kill(replica.program.pid, number)


def review_of(pod: JSON) -> JSON:
    """A dry run of the creation of a pod, as the API server asks about it."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "a-review",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": pod["metadata"]["namespace"],
            "operation": "CREATE",
            "userInfo": {"username": "somebody"},
            "object": pod,
            "oldObject": None,
            "dryRun": True,
        },
    }
