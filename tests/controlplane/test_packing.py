"""The three ways to run, each from the chart's own output: slices on the node in use go first."""

from __future__ import annotations

import base64
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml

from tests.controlplane.installed import Pod, Release, account_with_rights
from tests.controlplane.migfit import SYSTEM_NAMESPACE, a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, new_namespace, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.conftest import StartPlane
    from tests.controlplane.plane import ControlPlane
    from tests.controlplane.program import Program

    Start = Callable[..., Pod]

pytestmark = pytest.mark.controlplane

SLICE = "nvidia.com/mig-2g.20gb"
NEED = {"migfit.io/gpu-memory": "9.6G"}
SECOND = "migfit-scheduler"


@pytest.fixture
def plane(start_plane: StartPlane) -> ControlPlane:
    """One with a node half in use and an idle one.

    By itself kube-scheduler would take the idle one: the other has little processor left.
    """
    plane = start_plane()
    for name in ("a-idle", "b-used", "c-idle"):
        plane.client.create(fake_node(name, allocatable={SLICE: 3}, labels=a100_labels()))
    first = gpu_pod("first", "default", resources={SLICE: 1, "cpu": 96, "memory": "700Gi"})
    first["spec"]["nodeName"] = "b-used"
    plane.client.create(first)
    return plane


@pytest.fixture
def release(plane: ControlPlane) -> Iterator[Release]:
    installed = Release(plane)
    yield installed
    installed.uninstall()


@pytest.fixture
def start(plane: ControlPlane, tmp_path: Path) -> Iterator[Start]:
    """Start what one replica of a Deployment would run of ours."""
    running: list[Pod] = []

    def begin(deployment: str = "migfit", *flags: str, name: str = "") -> Pod:
        running.append(Pod(plane, tmp_path, deployment, name))
        running[-1].start(*flags)
        return running[-1]

    yield begin
    for pod in running:
        pod.stop()


def enforcing(**values: object) -> JSON:
    return {"config": {"mode": "Enforce"}, **values}


def configuration(plane: ControlPlane, name: str, key: str) -> JSON:
    """Of kube-scheduler, as the release has it."""
    document = yaml.safe_load(plane.client.get("ConfigMap", name, SYSTEM_NAMESPACE)["data"][key])
    assert isinstance(document, dict)
    return document


def created(plane: ControlPlane, namespace: str, name: str) -> JSON:
    """A pod that we rewrite, as it is created."""
    spec: JSON = plane.client.create(gpu_pod(name, namespace, annotations=NEED)).body["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {SLICE: "1"}
    return spec


def asked(*extenders: Pod) -> float:
    """How often schedulers had nodes ranked."""
    verb = "/scheduler/prioritize"
    return sum(
        each.server.metric("migfit_requests_total", verb=verb, code="200") for each in extenders
    )


# --- a second scheduler --------------------------------------------------------------------------


def start_second(plane: ControlPlane, extender: Pod, name: str) -> Program:
    """The kube-scheduler beside an extender, with the Deployment's arguments and its account."""
    (args,) = [each["args"] for each in extender.spec["containers"] if "serve" not in each["args"]]
    user = account_with_rights(plane, extender.account)
    told = configuration(plane, SECOND, "config.yaml")
    (entry,) = told["extenders"]
    assert entry["urlPrefix"] == "http://127.0.0.1:8888/scheduler"
    entry["urlPrefix"] = f"http://127.0.0.1:{extender.server.ports.extender}/scheduler"
    settings = told | {"clientConnection": {"kubeconfig": str(user.kubeconfig)}}
    flags = [arg for arg in args if not arg.startswith("--config=")]
    assert len(flags) == len(args) - 1
    program = plane.start_scheduler(settings=settings, flags=flags, name=name, user=user)
    tls = ssl.create_default_context(cafile=str(plane.ca_file))
    for path in probed(extender.spec, "kube-scheduler"):
        with urllib.request.urlopen(f"{program.url}{path}", timeout=10, context=tls) as answer:
            assert answer.status == 200
    return program


def probed(spec: JSON, name: str) -> set[str]:
    """Paths that the kubelet asks a container for."""
    (container,) = [each for each in spec["containers"] if each["name"] == name]
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return {container[kind]["httpGet"]["path"] for kind in kinds}


@pytest.mark.long
def test_a_second_scheduler_fills_the_node_in_use_and_a_replica_takes_over(
    plane: ControlPlane, release: Release, start: Start
) -> None:
    release.install(enforcing(packing="SecondScheduler"))
    webhook = start()
    webhook.behind_the_service()
    namespace = new_namespace(plane.client)
    # Nobody renews the Lease yet: a pod that is rewritten keeps its scheduler.
    assert created(plane, namespace, "early")["schedulerName"] == "default-scheduler"
    extenders = [start(SECOND, name=f"extender-{number}") for number in (1, 2)]
    schedulers = [
        start_second(plane, extender, f"second-{number}")
        for number, extender in enumerate(extenders)
    ]

    def handed_over() -> bool:
        made = plane.client.create(gpu_pod("probe", namespace, annotations=NEED), dry_run=True)
        return bool(made.body["spec"]["schedulerName"] == SECOND)

    wait_until(handed_over, 40, "rewritten pods are handed to the second scheduler")
    assert created(plane, namespace, "one")["schedulerName"] == SECOND
    assert bound_node(plane.client, namespace, "one") == "b-used"
    leader, other = (0, 1) if asked(extenders[0]) else (1, 0)
    assert asked(extenders[other]) == 0
    schedulers[leader].stop()
    created(plane, namespace, "two")

    assert bound_node(plane.client, namespace, "two", 60) == "b-used"
    assert asked(extenders[other]) >= 1
    plain = plane.client.create(gpu_pod("plain", namespace, resources={"cpu": 1})).body
    assert plain["spec"]["schedulerName"] == "default-scheduler"


# --- the default scheduler -----------------------------------------------------------------------


def decoded(plane: ControlPlane, secret: str, key: str) -> bytes:
    return base64.b64decode(plane.client.get("Secret", secret, SYSTEM_NAMESPACE)["data"][key])


def test_the_default_scheduler_fills_the_node_in_use_by_mutual_tls(
    plane: ControlPlane, release: Release, start: Start, tmp_path: Path
) -> None:
    release.install(enforcing(packing="DefaultScheduler"))
    clients = trustme.CA()
    clients.cert_pem.write_to_path(tmp_path / "clients.crt")
    webhook = start()
    webhook.behind_the_service()
    extender = start("migfit-extender", f"--extender-client-ca={tmp_path / 'clients.crt'}")

    told = configuration(plane, "migfit-extender", "kube-scheduler.yaml")
    (entry,) = told["extenders"]
    where = f"{extender.address}:{extender.server.ports.extender}"
    entry["urlPrefix"] = entry["urlPrefix"].replace("CLUSTER-IP:8888", where)
    files = {key: tmp_path / f"scheduler-{key}" for key in ("caFile", "certFile", "keyFile")}
    files["caFile"].write_bytes(decoded(plane, "migfit-webhook-tls", "ca.crt"))
    issued = clients.issue_cert("kube-scheduler")
    issued.cert_chain_pems[0].write_to_path(files["certFile"])
    issued.private_key_pem.write_to_path(files["keyFile"])
    entry["tlsConfig"] |= {key: str(file) for key, file in files.items()}
    plane.start_scheduler(
        told["extenders"],
        settings={"percentageOfNodesToScore": told["percentageOfNodesToScore"]},
    )
    namespace = new_namespace(plane.client)
    created(plane, namespace, "one")

    assert bound_node(plane.client, namespace, "one") == "b-used"
    assert asked(extender) >= 1
    stranger = ssl.create_default_context(cafile=str(files["caFile"]))
    stranger.check_hostname = False
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        urllib.request.urlopen(f"https://{where}/scheduler/filter", b"{}", 10, context=stranger)


# --- the webhook alone ---------------------------------------------------------------------------


def test_the_webhook_alone_makes_the_pod_prefer_the_node_in_use(
    plane: ControlPlane, release: Release, start: Start
) -> None:
    release.install(enforcing(packing="WebhookOnly"))
    webhook = start()
    webhook.behind_the_service()
    plane.start_scheduler()
    namespace = new_namespace(plane.client)

    spec = created(plane, namespace, "one")

    assert spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert bound_node(plane.client, namespace, "one") == "b-used"


def test_without_any_of_them_the_pod_would_go_elsewhere(plane: ControlPlane) -> None:
    plane.start_scheduler()
    namespace = new_namespace(plane.client)

    plane.client.create(gpu_pod("one", namespace, resources={SLICE: 1}))

    assert bound_node(plane.client, namespace, "one") != "b-used"
