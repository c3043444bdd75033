"""The doctor at an installation by the chart: well at first, and then one thing after another is not."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme

from extender.cluster.examine import examine
from extender.core.doctor.diagnose import diagnose
from extender.core.doctor.finding import Id
from tests.cluster.service import routed
from tests.controlplane.doctored import NODE, PLUGIN, Cluster, node, plugin
from tests.controlplane.installed import Pod, Release
from tests.controlplane.migfit import SYSTEM_NAMESPACE
from tests.controlplane.test_doctor import doctor, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from extender.core.doctor.evidence import Evidence
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

SERVICE = (f"migfit.{SYSTEM_NAMESPACE}.svc", 443)


@pytest.fixture
def pod(plane: ControlPlane, tmp_path: Path) -> Iterator[Pod]:
    """A replica of an installation by the chart, in a cluster with slices."""
    Release(plane).install({"config": {"mode": "Enforce"}})
    cluster = Cluster(plane.client)
    cluster.be({NODE: node(), PLUGIN: plugin()})
    running = Pod(plane, tmp_path)
    running.start()
    running.behind_the_service()
    yield running
    running.stop()


class Inside:
    """Somebody who runs the doctor in a pod: with an account's files, and Services within reach."""

    def __init__(self, plane: ControlPlane, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "account"
        self._folder.mkdir()
        shutil.copy(plane.ca_file, self._folder / "ca.crt")
        (self._folder / "namespace").write_text("default")
        (self._folder / "token").write_text(self._token(plane))
        url = urlsplit(plane.url)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(url.hostname))
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(url.port))

    @staticmethod
    def _token(plane: ControlPlane) -> str:
        """Of an account that may read everything."""
        name = {"name": "examiner", "namespace": "default"}
        plane.client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name})
        group = "rbac.authorization.k8s.io"
        plane.client.create(
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "examiner"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", **name}],
            }
        )
        path = f"{plane.client.path('ServiceAccount', 'examiner', 'default')}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(plane.client.request("POST", path, body).body["status"]["token"])

    async def evidence(self) -> Evidence:
        return await examine(None, SYSTEM_NAMESPACE, "migfit", None, service_account=self._folder)

    async def found(self) -> set[Id]:
        """What is wrong."""
        return {finding.id for finding in diagnose(await self.evidence())}


@pytest.fixture
def inside(
    plane: ControlPlane, pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Inside:
    routed(monkeypatch, {SERVICE: (pod.address, pod.server.ports.webhook)})
    return Inside(plane, tmp_path, monkeypatch)


@asynccontextmanager
async def stranger(address: str, port: int) -> AsyncIterator[None]:
    """Somebody else who speaks TLS there, with a certificate by nobody that we know."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(SERVICE[0]).configure_cert(tls)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, address, port, ssl=tls):
        yield


def test_a_new_installation_is_well_and_what_is_broken_then_is_found(
    plane: ControlPlane, pod: Pod
) -> None:
    well = doctor(plane.kubeconfig)
    assert (well.exit_code, json.loads(well.stdout)) == (0, [])

    refused = {"data": {"config.yaml": "headroom: -1"}}
    plane.client.patch("ConfigMap", "migfit-config", refused, SYSTEM_NAMESPACE)
    plane.client.delete_all("EndpointSlice", SYSTEM_NAMESPACE)
    ill = doctor(plane.kubeconfig)

    assert ill.exit_code == 1
    assert told(ill) == {Id.CONFIG_REFUSED, Id.WEBHOOK_WITHOUT_ENDPOINTS}
    Release(plane).uninstall()
    assert {Id.WEBHOOK_MISSING, Id.CONFIG_MISSING} <= told(doctor(plane.kubeconfig))


async def test_from_within_it_looks_at_the_certificate_that_the_service_shows(
    plane: ControlPlane, pod: Pod, inside: Inside
) -> None:
    evidence = await inside.evidence()

    assert evidence.certificate is not None
    assert evidence.certificate.where == f"Service {SYSTEM_NAMESPACE}/migfit"
    assert diagnose(evidence) == []


async def test_from_within_it_finds_that_somebody_else_answers_who_is_not_to_be_seen_from_outside(
    plane: ControlPlane, pod: Pod, inside: Inside
) -> None:
    pod.stop()
    async with stranger(pod.address, pod.server.ports.webhook):
        found = await inside.found()
        outside = await asyncio.to_thread(doctor, plane.kubeconfig)

    assert found == {Id.WEBHOOK_UNTRUSTED}
    assert told(outside) == set()


async def test_from_within_where_nobody_answers_it_looks_at_the_secret(
    plane: ControlPlane, pod: Pod, inside: Inside
) -> None:
    pod.stop()

    evidence = await inside.evidence()

    assert evidence.certificate is not None
    assert evidence.certificate.where == "Secret migfit-webhook-tls"
    assert diagnose(evidence) == []
