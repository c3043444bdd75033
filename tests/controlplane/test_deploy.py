"""The manifests under deploy/, taken by the real API server and the real kube-scheduler."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import yaml

from extender.config import load
from extender.core.policy import Mode
from tests.controlplane.client import ApiError
from tests.controlplane.migfit import GPU, SYSTEM_NAMESPACE, Migfit, a100_labels
from tests.controlplane.objects import bound_node, fake_node, gpu_pod, wait_until
from tests.controlplane.program import Program
from tests.deploy.manifests import BASE, ROOT, SCHEDULERS, container, documents, one

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tests.controlplane.client import JSON
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane

PAGE = ROOT / "docs" / "how-to" / "install.md"
CERT_MANAGER = {"group": "cert-manager.io", "version": "v1"}


def blocks(kind: str) -> list[JSON]:
    """The YAML documents of that kind on the install page."""
    found = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in map(yaml.safe_load, found) if block["kind"] == kind]


def text_of_config() -> str:
    """The configuration as the base has it."""
    return str(one("ConfigMap")["data"]["config.yaml"])


class Install:
    """The base by `kubectl apply -k`, without what only cert-manager understands."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane, self.folder = plane, folder
        folder.mkdir()
        drop = {"$patch": "delete", "metadata": {"name": "any"}, "apiVersion": "cert-manager.io/v1"}
        overlay = {
            "resources": [os.path.relpath(BASE, folder.resolve())],
            "patches": [
                {
                    "target": {**CERT_MANAGER, "kind": kind},
                    "patch": yaml.safe_dump({**drop, "kind": kind}),
                }
                for kind in ("Issuer", "Certificate")
            ],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

    def apply(self) -> tuple[list[str], str]:
        """What was done to each object, and what was said on stderr."""
        done = self._plane.kubectl("apply", "-k", str(self.folder))
        return done.stdout.splitlines(), done.stderr

    def versions(self) -> dict[str, str]:
        """The resourceVersion of each object: what is written gets a new one."""
        told = self._plane.kubectl("get", "-k", str(self.folder), "-o", "json").stdout
        metas = {item["kind"]: item["metadata"] for item in json.loads(told)["items"]}
        return {kind: meta["resourceVersion"] for kind, meta in metas.items()}

    def delete(self) -> None:
        """Remove it, as the install page says."""
        self._plane.kubectl(
            "delete", "-k", str(self.folder), "--wait=false", "--ignore-not-found", "--now"
        )


@pytest.fixture
def install(plane: ControlPlane, tmp_path: Path) -> Iterator[Install]:
    """The base, applied; removed after the test."""
    installed = Install(plane, tmp_path / "install")
    installed.apply()
    yield installed
    installed.delete()


class Pod:
    """What a pod of the Deployment would run, here as a process with the rights of its account."""

    def __init__(self, plane: ControlPlane, folder: Path, authority: trustme.CA) -> None:
        self._plane = plane
        self._authority = authority
        # It knows where its ports are and what its log says; the flags are the manifests' own.
        self.server = Migfit(plane, folder, authority, "pod")
        self._folder = folder

    def start(self) -> None:
        """Start it as the Deployment does, on ports of loopback, and wait until it is ready."""
        account = self._plane.service_account(SYSTEM_NAMESPACE, "migfit")
        path = self._plane.client.path("ConfigMap", "migfit-config", SYSTEM_NAMESPACE)

        def has_rights() -> bool:
            try:
                account.client.items("Pod")
                return account.client.request("GET", path).status == 200
            except ApiError:  # the API server reads its roles a moment after they are made
                return False

        wait_until(has_rights, 10, "the rights of the account are known")
        ports = self.server.ports
        here = {
            "--kubeconfig": account.kubeconfig,
            "--tls-cert": self._folder / "pod.pem",
            "--tls-key": self._folder / "pod.key",
            "--bind": "127.0.0.1",
            "--webhook-port": ports.webhook,
            "--ops-port": ports.ops,
            "--lame-duck": 0,
        }
        flags = [f"{flag}={value}" for flag, value in here.items()]
        argv = [sys.executable, "-m", "extender.cli", *container()["args"], *flags]
        self.server.program = Program("pod", argv, self._folder)
        self.server.program.wait_ready(self.server.ready)

    def answer_for_the_service(self) -> None:
        """Nothing routes to the Service here: give the API server our address instead."""
        bundle = base64.b64encode(self._authority.cert_pem.bytes()).decode()
        url = f"https://127.0.0.1:{self.server.ports.webhook}/mutate"
        here = {"url": url, "caBundle": bundle}
        change = [
            {"op": "replace", "path": f"/webhooks/{entry}/clientConfig", "value": here}
            for entry in range(len(one("MutatingWebhookConfiguration")["webhooks"]))
        ]
        self._plane.client.patch("MutatingWebhookConfiguration", "migfit", change)

        def called() -> bool:
            self._plane.client.create(gpu_pod("probe", "default"), dry_run=True)
            return bool(self.reviewed("default"))

        wait_until(called, 15, "the API server calls the webhook")

    def reviewed(self, namespace: str) -> list[str]:
        """Names of the pods of a namespace that came for review."""
        return [line["pod"] for line in self.server.audit(namespace)]


@pytest.fixture
def pod(
    plane: ControlPlane, install: Install, tmp_path: Path, authority: trustme.CA
) -> Iterator[Pod]:
    """A pod of the Deployment, running."""
    running = Pod(plane, tmp_path, authority)
    try:
        running.start()
        yield running
    finally:
        running.server.kill()


def test_every_object_of_the_base_is_taken_without_a_warning(
    plane: ControlPlane, tmp_path: Path
) -> None:
    install = Install(plane, tmp_path / "install")

    done, said = install.apply()

    expected = [item for file in sorted(BASE.glob("*.yaml")) for item in documents(file)]
    ours = [item for item in expected if "cert-manager" not in item["apiVersion"]]
    assert len(done) == len(ours) - 1  # the kustomization is no object
    assert all(line.endswith(" created") for line in done)
    assert said == ""
    install.delete()


def test_applied_again_it_changes_nothing_and_leaves_the_ca_bundle_alone(
    plane: ControlPlane, install: Install
) -> None:
    # What cert-manager does when the webhook configuration appears.
    bundle = base64.b64encode(plane.ca_file.read_bytes()).decode()
    change = [
        {"op": "add", "path": f"/webhooks/{entry}/clientConfig/caBundle", "value": bundle}
        for entry in (0, 1)
    ]
    plane.client.patch("MutatingWebhookConfiguration", "migfit", change)

    before = install.versions()
    install.apply()

    assert install.versions() == before
    webhooks = plane.client.get("MutatingWebhookConfiguration", "migfit")["webhooks"]
    assert [each["clientConfig"]["caBundle"] for each in webhooks] == [bundle] * 2


def test_the_pods_of_the_deployment_pass_the_api_servers_own_pod_security(
    plane: ControlPlane, install: Install
) -> None:
    plane.start_controller_manager(["deployment-controller", "replicaset-controller"])

    def pods() -> list[JSON]:
        return plane.client.items("Pod", SYSTEM_NAMESPACE)

    wait_until(lambda: len(pods()) == 2, 20, "two pods are made")
    with pytest.raises(ApiError, match=r'violates PodSecurity "restricted') as refused:
        plane.client.create(gpu_pod("careless", SYSTEM_NAMESPACE))
    assert refused.value.status == 403


def test_the_account_may_read_the_cluster_and_its_configuration_and_nothing_else(
    plane: ControlPlane, pod: Pod
) -> None:
    account = plane.service_account(SYSTEM_NAMESPACE, "migfit")
    own = plane.client.path("ConfigMap", "migfit-config", SYSTEM_NAMESPACE)

    broken = {"data": {"config.yaml": "mode: Nonsense"}}
    plane.client.patch("ConfigMap", "migfit-config", broken, SYSTEM_NAMESPACE)

    wait_until(lambda: pod.server.metric("migfit_config_valid") == 0, 10, "the change is seen")
    assert pod.server.metric("migfit_watch_trouble_total") == 0
    for method, path in (
        ("GET", "/api/v1/secrets"),
        ("GET", f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets"),
        ("GET", f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps"),
        ("GET", "/api/v1/configmaps"),
        ("DELETE", own),
        ("DELETE", "/api/v1/namespaces/default/pods"),
        ("GET", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"),
    ):
        with pytest.raises(ApiError) as refused:
            account.client.request(method, path)
        assert refused.value.status == 403, path


def test_pods_that_ask_for_a_gpu_are_reviewed_and_no_others_come_near(
    plane: ControlPlane, namespace: str, pod: Pod
) -> None:
    pod.answer_for_the_service()
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

    assert pod.reviewed(namespace) == ["limits", "init", "request"]
    assert pod.reviewed("kube-system") == []
    assert pod.reviewed(SYSTEM_NAMESPACE) == []


def test_pods_are_created_as_ever_when_the_pods_are_gone_and_when_all_is_removed(
    plane: ControlPlane, namespace: str, install: Install, pod: Pod
) -> None:
    pod.answer_for_the_service()
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


@pytest.mark.parametrize("name", ["default-scheduler", "second-scheduler"])
def test_a_real_scheduler_takes_the_sample_asks_the_extender_and_can_do_without(
    plane: ControlPlane, namespace: str, migfit: Migfit, name: str
) -> None:
    (sample,) = documents(SCHEDULERS / f"{name}.yaml")
    extenders = deepcopy(sample["extenders"])
    extenders[0]["urlPrefix"] = migfit.extender["urlPrefix"]  # another port
    # One scheduler of this name is alone here, and has no right to a Lease.
    election = {**sample.get("leaderElection", {}), "leaderElect": False}
    settings = {"percentageOfNodesToScore": sample["percentageOfNodesToScore"]}
    profiles = sample.get("profiles")
    spec = profiles[0] if profiles else {}
    for node in ("gpu-a", "gpu-b"):
        plane.client.create(fake_node(node, allocatable={GPU: 2}))
    plane.start_scheduler(
        extenders, profiles=profiles, settings={**settings, "leaderElection": election}
    )

    plane.client.create(gpu_pod("asked", namespace, spec=spec))
    first = bound_node(plane.client, namespace, "asked")
    for verb in ("filter", "prioritize"):
        path = f"/scheduler/{verb}"
        assert migfit.metric("migfit_requests_total", verb=path, code="200") >= 1
    migfit.kill()
    plane.client.create(gpu_pod("alone", namespace, spec=spec))
    second = bound_node(plane.client, namespace, "alone")

    assert {first, second} <= {"gpu-a", "gpu-b"}


def test_the_install_page_tells_what_happens_from_the_first_look_to_the_slice(
    plane: ControlPlane, namespace: str, pod: Pod
) -> None:
    pod.answer_for_the_service()
    slices = {GPU: 1, "nvidia.com/mig-2g.20gb": 2}
    plane.client.create(fake_node("gpu-a", allocatable=slices, labels=a100_labels()))
    (manifest,) = blocks("Pod")
    manifest["metadata"]["namespace"] = namespace

    def warned(reason: str) -> str:
        told = plane.client.create(manifest, dry_run=True).warnings
        return next((text for text in told if reason in text), "")

    looked = wait_until(lambda: warned("DryRun"), 10, "the node is known")
    change = {"data": {"config.yaml": text_of_config().replace("DryRun\n", "Enforce\n")}}
    plane.client.patch("ConfigMap", "migfit-config", change, SYSTEM_NAMESPACE)
    enforced = wait_until(lambda: warned("Fits"), 10, "the change of the mode is in force")
    limits = plane.client.create(manifest).body["spec"]["containers"][0]["resources"]["limits"]

    assert limits == {"nvidia.com/mig-2g.20gb": "1"}
    assert re.findall("^Warning: (.*)$", PAGE.read_text(), re.MULTILINE) == [looked, enforced]


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
