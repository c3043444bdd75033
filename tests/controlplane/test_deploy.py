"""The manifests under deploy/, taken by the real API server and the real kube-scheduler."""

from __future__ import annotations

import json
import os
import re
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import pytest
import yaml

from extender.config import load
from extender.core.policy import Mode
from tests.controlplane.client import ApiError
from tests.controlplane.foreign import CERT_MANAGER, served
from tests.controlplane.installed import Pod
from tests.controlplane.migfit import GPU, SYSTEM_NAMESPACE
from tests.controlplane.objects import gpu_pod, wait_until
from tests.deploy.chart import KUSTOMIZE, OVERLAYS, kustomized
from tests.deploy.manifests import BASE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

PAGE = ROOT / "docs" / "how-to" / "install.md"


def blocks(kind: str) -> list[JSON]:
    """The YAML documents of that kind on the install page."""
    found = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in map(yaml.safe_load, found) if block.get("kind") == kind]


class Install:
    """A folder by `kubectl apply -k`; the base unless given."""

    def __init__(self, plane: ControlPlane, folder: Path = BASE) -> None:
        self._plane, self.folder = plane, folder

    def apply(self) -> tuple[list[str], str]:
        """What was done to each object, and what was said on stderr."""
        done = self._plane.kubectl("apply", "-k", str(self.folder))
        return done.stdout.splitlines(), done.stderr

    def versions(self) -> dict[str, str]:
        """The resourceVersion of each object: what is written gets a new one."""
        told = self._plane.kubectl("get", "-k", str(self.folder), "-o", "json").stdout
        items = {
            f"{item['kind']}/{item['metadata']['name']}": item for item in json.loads(told)["items"]
        }
        return {name: item["metadata"]["resourceVersion"] for name, item in items.items()}

    def delete(self) -> None:
        """Remove it, as the install page says."""
        self._plane.kubectl(
            "delete", "-k", str(self.folder), "--wait=false", "--ignore-not-found", "--now"
        )


@pytest.fixture
def install(plane: ControlPlane) -> Iterator[Install]:
    """The base, applied; removed after the test."""
    installed = Install(plane)
    installed.apply()
    yield installed
    installed.delete()


@pytest.fixture
def pod(plane: ControlPlane, install: Install, tmp_path: Path) -> Iterator[Pod]:
    """A pod of the Deployment, running."""
    running = Pod(plane, tmp_path, name="pod")
    try:
        running.start()
        yield running
    finally:
        running.stop()


def reviewed(pod: Pod, namespace: str) -> list[str]:
    """Names of the pods of a namespace that came for review."""
    return [line["pod"] for line in pod.server.audit(namespace)]


@pytest.mark.parametrize("overlay", ["", *OVERLAYS])
def test_every_object_is_taken_without_a_warning_and_pods_pass_the_api_servers_pod_security(
    plane: ControlPlane, overlay: str
) -> None:
    folder = KUSTOMIZE / "overlays" / overlay if overlay else BASE
    install = Install(plane, folder)
    deployments = [item for item in kustomized(folder) if item["kind"] == "Deployment"]

    with served(plane, *CERT_MANAGER) if overlay == "cert-manager" else nullcontext():
        done, said = install.apply()

    assert len(done) == len(kustomized(folder))
    assert all(line.endswith(" created") for line in done)
    assert said == ""
    plane.start_controller_manager(["deployment-controller", "replicaset-controller"])

    def pods() -> list[JSON]:
        return plane.client.items("Pod", SYSTEM_NAMESPACE)

    wait_until(lambda: len(pods()) == 2 * len(deployments), 30, "two pods are made for each")
    with pytest.raises(ApiError, match=r'violates PodSecurity "restricted') as refused:
        plane.client.create(gpu_pod("careless", SYSTEM_NAMESPACE))
    assert refused.value.status == 403
    install.delete()
    kinds = partial(plane.client.items, "CustomResourceDefinition")
    wait_until(lambda: not kinds(), 30, "the kind of the agents is gone too")


def test_applied_again_it_changes_nothing_and_leaves_the_ca_bundle_alone(
    plane: ControlPlane, install: Install, pod: Pod
) -> None:
    def bundles() -> list[str]:
        webhooks = plane.client.get("MutatingWebhookConfiguration", "migfit")["webhooks"]
        return [each["clientConfig"].get("caBundle", "") for each in webhooks]

    wait_until(lambda: all(bundles()), 20, "migfit has written whom to trust")
    written = bundles()
    before = install.versions()
    install.apply()

    assert install.versions() == before
    assert bundles() == written


def test_pods_that_ask_for_a_gpu_are_reviewed_and_no_others_come_near(
    plane: ControlPlane, namespace: str, pod: Pod
) -> None:
    pod.behind_the_service()
    plain: JSON = {"name": "prepare", "image": "registry.invalid/tools:1"}
    with_gpu = {**plain, "name": "warm-up", "resources": {"limits": {GPU: "1"}}}
    safe = {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    }

    def create(name: str, where: str = namespace, **change: object) -> None:
        plane.client.create(gpu_pod(name, where, **change))  # type: ignore[arg-type]

    create("limits")
    create("init", resources={"cpu": 1}, spec={"initContainers": [plain, with_gpu]})
    request_only = gpu_pod("request", namespace)
    resources = request_only["spec"]["containers"][0]["resources"]
    resources["requests"] = resources.pop("limits")
    with pytest.raises(ApiError, match="Limit must be set"):  # but first it comes to us
        plane.client.create(request_only)

    create("nothing", resources={})
    create("cpu", resources={"cpu": 1})
    create("slice", resources={"nvidia.com/mig-1g.10gb": 1})
    create("plain-init", resources={}, spec={"initContainers": [plain]})
    create("kube-system", "kube-system")
    plane.client.delete("Pod", "kube-system", "kube-system")
    own = gpu_pod("own", SYSTEM_NAMESPACE)
    own["spec"]["containers"][0].update(safe)
    plane.client.create(own)

    assert reviewed(pod, namespace) == ["limits", "init", "request"]
    assert reviewed(pod, "kube-system") == []
    assert reviewed(pod, SYSTEM_NAMESPACE) == []


def test_pods_are_created_as_ever_when_the_pods_are_gone_and_when_all_is_removed(
    plane: ControlPlane, namespace: str, install: Install, pod: Pod
) -> None:
    pod.behind_the_service()
    pod.server.kill()

    def created_whole(name: str) -> None:
        made = plane.client.create(gpu_pod(name, namespace)).body
        assert made["spec"]["containers"][0]["resources"]["limits"] == {GPU: "1"}
        assert "migfit.io/decision" not in made["metadata"].get("annotations", {})

    created_whole("nobody-answers")
    install.delete()
    created_whole("nobody-is-asked")

    for kind in (
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ClusterRole",
        "ClusterRoleBinding",
    ):
        names = [item["metadata"]["name"] for item in plane.client.items(kind)]
        assert not any(name.startswith("migfit") for name in names)


def test_the_kustomization_of_the_install_page_replaces_image_and_configuration(
    plane: ControlPlane, tmp_path: Path
) -> None:
    (kustomization,), (config,) = blocks("Kustomization"), blocks("MigfitConfiguration")
    assert kustomization["resources"] == [f"../migfit/{BASE.relative_to(ROOT)}"]
    kustomization["resources"] = [os.path.relpath(BASE, tmp_path.resolve())]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    rendered = plane.kubectl("kustomize", str(tmp_path)).stdout

    objects = {item["kind"]: item for item in yaml.safe_load_all(rendered)}
    assert objects["ConfigMap"]["metadata"]["name"] == "migfit-config"
    assert objects["ConfigMap"]["data"] == {"config.yaml": yaml.safe_dump(config)}
    assert load(objects["ConfigMap"]["data"]["config.yaml"]).mode is Mode.DRY_RUN
    (shipped,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert shipped["image"] == "registry.example.com/migfit:0.1.0"
