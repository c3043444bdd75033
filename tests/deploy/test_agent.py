"""The component of the node agent: valid, ours, and with no more privilege than is written down."""

from __future__ import annotations

import kubernetes_validate
import pytest

from extender.agent.apiserver import API_VERSION, KIND
from extender.cli.agent import agent
from tests.deploy.agent import AGENT, OVERLAY, component, in_component
from tests.deploy.manifests import JSON, documents, one, project
from tests.deploy.test_kustomize import NEWEST, OLDEST, label

PAGE = "docs/explanation/agent.md"


def pod() -> JSON:
    spec: JSON = in_component("DaemonSet")["spec"]["template"]["spec"]
    return spec


def container() -> JSON:
    (only,) = pod()["containers"]
    return dict(only)


def test_the_component_lists_each_of_its_files_once_and_the_overlay_adds_it_to_the_base() -> None:
    (kustomization,) = documents(AGENT / "kustomization.yaml")
    (overlay,) = documents(OVERLAY / "kustomization.yaml")

    files = {file.name for file in AGENT.iterdir()} - {"kustomization.yaml"}
    assert sorted(kustomization["resources"]) == sorted(files)
    assert (overlay["resources"], overlay["components"]) == (
        ["../../base"],
        ["../../components/agent"],
    )


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize("item", component(), ids=label)
def test_each_object_is_valid_to_the_letter(item: JSON, release: str) -> None:
    assert kubernetes_validate.validate(item, release, strict=True) == release


@pytest.mark.parametrize("item", component(), ids=label)
def test_each_object_is_labelled_as_ours(item: JSON) -> None:
    assert (
        item["metadata"]["labels"].items()
        >= {"app.kubernetes.io/name": "migfit", "app.kubernetes.io/instance": "migfit"}.items()
    )


def test_the_daemon_set_says_what_the_agent_understands() -> None:
    command, *flags = container()["args"]
    told = agent.make_context("agent", list(flags)).params

    assert command == "agent"
    assert not told["once"]
    assert told["ops_port"] == container()["ports"][0]["containerPort"]
    defaults = agent.make_context("agent", []).params
    assert told == defaults
    known = {option.envvar for option in agent.params}
    ours = [each["name"] for each in container()["env"] if each["name"].startswith("MIGFIT_")]
    assert ours == ["MIGFIT_NODE_NAME"]
    assert set(ours) <= known


def test_it_mounts_the_folder_of_the_socket_it_asks_and_nothing_else() -> None:
    [volume], [mount] = pod()["volumes"], container()["volumeMounts"]
    socket = agent.make_context("agent", []).params["pod_resources"]

    assert volume["hostPath"]["path"] == mount["mountPath"] == str(socket.parent)
    assert mount["readOnly"] is True


def test_what_it_may_beyond_the_restricted_profile_is_this_and_no_more() -> None:
    security = container()["securityContext"]

    assert security.get("privileged") is None
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert security["runAsUser"] == 0
    assert security["readOnlyRootFilesystem"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod().keys()
    levels = in_component("Namespace")["metadata"]["labels"]
    assert levels["pod-security.kubernetes.io/enforce"] == "privileged"
    base = one("Namespace")["metadata"]
    assert in_component("DaemonSet")["metadata"]["namespace"] != base["name"]


def test_it_leaves_a_node_while_mig_manager_works_there() -> None:
    """Whoever has a GPU open keeps it from being reset."""
    [term] = pod()["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]

    assert {
        "key": "nvidia.com/gpu.deploy.device-plugin",
        "operator": "NotIn",
        "values": ["paused-for-mig-change"],
    } in term["matchExpressions"]


def test_the_version_is_the_projects_wherever_it_stands() -> None:
    version = project()["version"]
    template = in_component("DaemonSet")["spec"]["template"]

    for meta in (in_component("DaemonSet")["metadata"], template["metadata"]):
        assert meta["labels"]["app.kubernetes.io/version"] == version
    assert container()["image"] == f"ghcr.io/migfit/migfit:{version}"


def test_the_kind_is_the_one_the_agent_writes() -> None:
    spec = in_component("CustomResourceDefinition")["spec"]

    [version] = spec["versions"]
    assert f"{spec['group']}/{version['name']}" == API_VERSION
    assert (spec["names"]["kind"], spec["scope"]) == (KIND, "Cluster")
    assert "spec" not in version["schema"]["openAPIV3Schema"]["properties"]


def test_the_policy_watches_every_way_to_write_that_the_role_gives() -> None:
    rules = in_component("ClusterRole")["rules"]
    [watched] = in_component("ValidatingAdmissionPolicy")["spec"]["matchConstraints"][
        "resourceRules"
    ]

    written = {
        resource for rule in rules for resource in rule["resources"] if "patch" in rule["verbs"]
    }
    assert set(watched["resources"]) == written
    assert {"CREATE", "UPDATE"} <= set(watched["operations"])
    assert not {"update", "delete", "deletecollection"} & {v for r in rules for v in r["verbs"]}
