"""The Deployment: what it starts, and with how little it gets by."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from extender.server.listen import DRAIN_S, LET_GO_S
from extender.server.self_managed import SECRET
from extender.server.settings import Settings
from tests.deploy.manifests import JSON, container, one, pod_template, served_by
from tests.deploy.pod_security import violations
from tests.deploy.routes import operations_paths

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_container_is_within_the_restricted_pod_security_standard() -> None:
    assert list(violations(pod_template()["spec"])) == []


def test_the_check_of_pod_security_sees_each_thing_it_is_for() -> None:
    spoilt: dict[str, Callable[[JSON], object]] = {
        "hostNetwork": lambda spec: spec.update(hostNetwork=True),
        "hostPath": lambda spec: spec.update(volumes=[{"name": "x", "hostPath": {"path": "/"}}]),
        "hostPort": lambda spec: spec["containers"][0]["ports"][0].update(hostPort=1),
        "runAsNonRoot": lambda spec: spec["securityContext"].pop("runAsNonRoot"),
        "runAsUser": lambda spec: spec["securityContext"].update(runAsUser=0),
        "seccompProfile": lambda spec: spec["securityContext"].pop("seccompProfile"),
        "privileged": lambda spec: spec["containers"][0]["securityContext"].update(privileged=True),
        "drop": lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"),
        "allowPrivilegeEscalation": lambda spec: spec["containers"][0]["securityContext"].pop(
            "allowPrivilegeEscalation"
        ),
    }
    for field, spoil in spoilt.items():
        spec = deepcopy(pod_template()["spec"])
        spoil(spec)

        assert list(violations(spec)) == [field]


def test_it_writes_nowhere_and_runs_as_nobody_in_particular() -> None:
    spec = pod_template()["spec"]

    assert container()["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert "volumes" not in spec


def test_it_serves_the_webhook_alone_and_all_else_by_the_codes_own_defaults() -> None:
    told = served_by(container()["args"])

    assert told == Settings(configmap=("migfit-system", "migfit-config"), extender_port=0)


def test_the_names_that_the_code_takes_for_granted_are_those_of_the_other_manifests() -> None:
    told = served_by(container()["args"])
    config, role = one("ConfigMap")["metadata"], one("Role", "migfit-certificate")

    assert told.configmap == (config["namespace"], config["name"])
    assert told.service == one("Service")["metadata"]["name"]
    assert told.webhook_configuration == one("MutatingWebhookConfiguration")["metadata"]["name"]
    assert told.tls_secret is None
    assert role["rules"][0]["resourceNames"] == [SECRET]


def test_ports_have_names_and_the_service_leads_to_them() -> None:
    told = served_by(container()["args"])
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}

    reached = {port["name"]: ports[port["targetPort"]] for port in one("Service")["spec"]["ports"]}

    assert ports == {"webhook": told.webhook_port, "ops": told.ops_port}
    assert reached == {"webhook": told.webhook_port, "metrics": told.ops_port}


def test_probes_ask_paths_of_the_operations_port() -> None:
    asked = {
        name: container()[name]["httpGet"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }

    assert {name: get["path"] for name, get in asked.items()} == {
        "startupProbe": "/healthz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }
    assert {get["path"] for get in asked.values()} <= operations_paths()
    assert {get["port"] for get in asked.values()} == {"ops"}


def test_no_variable_of_ours_is_set_by_the_name_of_a_service() -> None:
    # A Service `migfit-webhook` would set MIGFIT_WEBHOOK_PORT=tcp://…, which is --webhook-port.
    assert pod_template()["spec"]["enableServiceLinks"] is False


def test_there_is_time_to_leave_without_losing_a_review() -> None:
    told = served_by(container()["args"])
    webhook, *_ = one("MutatingWebhookConfiguration")["webhooks"]

    needed_s = told.lame_duck_s + LET_GO_S + DRAIN_S + webhook["timeoutSeconds"]

    assert pod_template()["spec"]["terminationGracePeriodSeconds"] > needed_s
    assert told.lame_duck_s >= webhook["timeoutSeconds"]


def test_two_replicas_of_which_none_is_missing_during_a_rollout_and_one_may_be_in_a_drain() -> None:
    spec = one("Deployment")["spec"]
    budget = one("PodDisruptionBudget")["spec"]

    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_cluster_of_one_node_can_run_it_and_a_gpu_node_need_not() -> None:
    spec = pod_template()["spec"]
    (spread,) = spec["topologySpreadConstraints"]

    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
    assert spec.keys().isdisjoint({"affinity", "nodeSelector", "tolerations", "hostNetwork"})


def test_memory_is_bounded_and_the_processor_is_not_throttled() -> None:
    resources = container()["resources"]

    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"].keys() == {"memory"}


def test_the_image_is_one_version_and_not_whatever_is_newest() -> None:
    name, _, tag = container()["image"].rpartition(":")

    assert name
    assert tag != "latest"
    assert container()["imagePullPolicy"] == "IfNotPresent"
