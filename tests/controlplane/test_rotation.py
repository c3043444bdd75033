"""Certificates of our own making in real processes, renewed within seconds, under load."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from extender.server.certificates import authorities
from tests.controlplane.client import ApiError
from tests.controlplane.handshakes import Handshakes
from tests.controlplane.keeping import Kept, may
from tests.controlplane.migfit import SERVE, SYSTEM_NAMESPACE, Migfit
from tests.controlplane.objects import gpu_pod, new_namespace, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane, User

    Start: TypeAlias = Callable[..., list[Migfit]]

pytestmark = pytest.mark.controlplane

CONFIGURATION = "migfit"
LIVES = {
    "authority_s": 36,
    "leaf_s": 12,
    "backdate_s": 6,  # due six seconds after it was made, and six before its end
    "settle_s": 2,
    "retire_s": 2,
    "poll_s": 0.25,
}
BEHIND_S = 0.5
"""How far an API server may be behind; less than settle_s."""


def short_lived(**lives: float) -> tuple[str, ...]:
    """A command whose certificates live for seconds."""
    script = str(Path(__file__).with_name("short_lived.py"))
    return (sys.executable, script, json.dumps(LIVES | lives))


@pytest.fixture
def kept(plane: ControlPlane) -> Kept:
    """What the replicas share; nothing yet."""
    new_namespace(plane.client, name=SYSTEM_NAMESPACE)
    return Kept(plane, SYSTEM_NAMESPACE, CONFIGURATION)


@pytest.fixture
def start(plane: ControlPlane, kept: Kept, tmp_path: Path) -> Iterator[Start]:
    """Starts replicas at once, each with an entry in one webhook configuration, where misses show."""
    with ExitStack() as stack:

        def begin(
            replicas: int, command: tuple[str, ...] = SERVE, *, user: User | None = None
        ) -> list[Migfit]:
            fleet = [
                Migfit(
                    plane,
                    tmp_path,
                    None,
                    f"replica-{index}",
                    kubeconfig=user.kubeconfig if user else None,
                    command=command,
                )
                for index in range(replicas)
            ]
            fleet[0].configure()
            webhooks = [
                each.webhook(name=f"{index}.migfit.io", failurePolicy="Fail", timeoutSeconds=10)
                for index, each in enumerate(fleet)
            ]
            plane.client.create(
                {
                    "apiVersion": "admissionregistration.k8s.io/v1",
                    "kind": "MutatingWebhookConfiguration",
                    "metadata": {"name": CONFIGURATION},
                    "webhooks": webhooks,
                }
            )
            for each in fleet:
                stack.callback(each.kill)
                each.start(wait=False)
            for each in fleet:
                assert each.program is not None
                each.program.wait_ready(each.ready)
            return fleet

        yield begin


def created(plane: ControlPlane, pod: JSON) -> str:
    """Empty, or why the API server did not create the pod."""
    try:
        plane.client.create(pod, dry_run=pod["metadata"]["name"] == "probe")
    except (ApiError, OSError) as error:
        return str(error)
    return ""


def wait_trusted(plane: ControlPlane) -> None:
    """Until the API server has seen the bundles and gets answers from every replica."""
    why = [""]

    def trusted() -> bool:
        why[0] = created(plane, gpu_pod("probe", "default"))
        return not why[0]

    wait_until(trusted, 15, lambda: f"a pod is created: {why[0]}")


class Creations:
    """Pods created as fast as four threads can, while the `with` lasts."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane, self._namespace = plane, namespace
        self._stop = threading.Event()
        self._numbers = count()
        self.done = 0
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(4)
        self._work = [self._pool.submit(self._create) for _ in range(4)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for each in self._work:
            each.result()

    def _create(self) -> None:
        while not self._stop.is_set():
            pod = gpu_pod(f"pod-{next(self._numbers)}", self._namespace)
            if why := created(self._plane, pod):
                self.failed.append(why)
            else:
                self.done += 1


# -------------------------------------------------------------------------------------------------


def test_three_replicas_started_at_once_share_one_authority_and_the_api_server_calls_each(
    plane: ControlPlane, kept: Kept, start: Start
) -> None:
    fleet = start(3)

    wait_trusted(plane)

    assert kept.issued.old == ()
    assert kept.bundles() == [kept.issued.authority.pem] * 3
    for each in fleet:
        assert each.metric("migfit_dry_run_reviews_total") >= 1
        assert 89 * 86_400 < each.metric("migfit_certificate_expiry_seconds") <= 90 * 86_400


def test_a_secret_that_is_deleted_by_hand_comes_back_without_one_failed_handshake(
    plane: ControlPlane, namespace: str, kept: Kept, start: Start
) -> None:
    fleet = start(2, short_lived(authority_s=3600, leaf_s=900))
    wait_trusted(plane)
    before = kept.issued

    def replaced() -> bool:
        """The new authority alone is trusted, and each replica shows its leaf."""
        last = authorities(shakes.bundles[-1])
        return before.authority.certificate not in last and {*map(len, shakes.leaves)} == {2}

    with Creations(plane, namespace) as pods, Handshakes(plane, fleet) as shakes:
        kept.delete_secret()
        wait_until(replaced, 30, lambda: f"all is new; failed: {shakes.failed}, {pods.failed}")

    assert shakes.failed == []
    assert pods.failed == []
    assert kept.issued.leaf != before.leaf


def test_expired_is_not_ready_until_it_is_renewed(
    plane: ControlPlane, kept: Kept, start: Start
) -> None:
    user = plane.user("no-certificates-for-a-while")
    grant(plane, user, "reads", ["get", "list", "watch"], ["*"])
    writing = ["secrets", "mutatingwebhookconfigurations"]
    grant(plane, user, "writes", ["create", "patch"], writing)
    (server,) = start(1, short_lived(), user=user)

    plane.client.delete("ClusterRoleBinding", "writes")
    wait_until(lambda: not server.ready(), 20, "the certificate has expired")

    status, why = server.ops("/readyz")
    assert status == 503
    assert why.startswith("the webhook's certificate expired at ")
    assert f"Secret {SYSTEM_NAMESPACE}/migfit-webhook-tls: 403 Forbidden" in why
    assert server.metric("migfit_certificate_expiry_seconds") < 0
    assert server.ops("/healthz")[0] == 200

    grant(plane, user, "writes", ["create", "patch"], writing)
    wait_until(server.ready, 20, "it has a new one")
    wait_trusted(plane)


def grant(
    plane: ControlPlane, user: User, name: str, verbs: list[str], resources: list[str]
) -> None:
    """Rights on resources of every group."""
    api = "rbac.authorization.k8s.io"
    rule = {"apiGroups": ["*"], "resources": resources, "verbs": verbs}
    role: JSON = {"apiVersion": f"{api}/v1", "metadata": {"name": name}}
    items = plane.client.items("ClusterRole", fieldSelector=f"metadata.name={name}")
    if not items:
        plane.client.create({**role, "kind": "ClusterRole", "rules": [rule]})
    plane.client.create(
        {
            **role,
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": user.name}],
        }
    )
    attributes = {"verb": verbs[0], "resource": resources[0], "namespace": SYSTEM_NAMESPACE}
    wait_until(lambda: may(user, attributes), 10, f"the right {name} is known")
