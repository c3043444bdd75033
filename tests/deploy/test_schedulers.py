"""The samples of KubeSchedulerConfiguration; a real kube-scheduler reads them in tests/controlplane."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from extender.core.catalogue import ALL_RESOURCES, PRODUCTS, resource_name
from extender.core.policy import Policy
from extender.demo.hardware import product_label
from extender.server.settings import LOOPBACK, Settings
from tests.build import decided, node, pod
from tests.deploy.chart import KUSTOMIZE, kustomized, named
from tests.deploy.manifests import JSON, SCHEDULERS, documents, one, served_by
from tests.deploy.routes import extender_paths

if TYPE_CHECKING:
    from extender.core.decision import Decision

SAMPLES = ("default-scheduler.yaml", "second-scheduler.yaml")
samples = pytest.mark.parametrize("name", SAMPLES)


def sample(name: str) -> JSON:
    (only,) = documents(SCHEDULERS / name)
    return only


def extender(name: str) -> JSON:
    (only,) = sample(name)["extenders"]
    return dict(only)


def test_there_is_a_sample_for_the_default_scheduler_and_one_for_a_second() -> None:
    assert {file.name for file in SCHEDULERS.iterdir()} == set(SAMPLES)


@samples
def test_the_scheduler_calls_what_the_extender_serves(name: str) -> None:
    told = extender(name)
    url = urlsplit(told["urlPrefix"])

    assert url.port == Settings().extender_port
    assert {f"{url.path}/{told[verb]}" for verb in ("filterVerb", "prioritizeVerb")} == (
        extender_paths()
    )
    assert told.keys().isdisjoint({"bindVerb", "preemptVerb"})


def test_a_second_scheduler_speaks_http_to_the_extender_beside_it() -> None:
    told = extender("second-scheduler.yaml")

    assert told["urlPrefix"].startswith(f"http://{LOOPBACK}:")
    assert told.keys().isdisjoint({"enableHTTPS", "tlsConfig"})


def test_the_default_scheduler_speaks_https_to_a_service_and_says_who_it_is() -> None:
    told = extender("default-scheduler.yaml")

    assert told["urlPrefix"].startswith("https://CLUSTER-IP:")
    assert told["enableHTTPS"] is True
    assert told["tlsConfig"].keys() == {"serverName", "caFile", "certFile", "keyFile"}
    service = named(kustomized(KUSTOMIZE / "overlays/default-scheduler"))[
        "Service", "migfit-extender"
    ]["metadata"]
    assert told["tlsConfig"]["serverName"] == f"{service['name']}.{service['namespace']}.svc"


@samples
def test_the_scheduler_asks_about_every_mig_resource_there_is_and_goes_on_counting(
    name: str,
) -> None:
    managed = extender(name)["managedResources"]

    wanted = [*ALL_RESOURCES, Policy().gpu_resource]
    # To mend this: make docs
    assert [resource["name"] for resource in managed] == wanted
    assert {resource["ignoredByScheduler"] for resource in managed} == {False}


def chosen(product: str, profile: str) -> Decision:
    """For a pod that wants this profile, in a cluster that has one slice of it and no more."""
    sliced = node(slices={profile: 1}, whole=0, product=product_label(product))
    tree = pod(footprint=None)
    tree["metadata"]["annotations"]["migfit.io/profile"] = profile
    return decided(tree, sliced)


@samples
def test_the_scheduler_asks_about_whatever_the_webhook_can_write_of_the_catalogue(
    name: str,
) -> None:
    written = {
        resource
        for product in PRODUCTS.values()
        for profile in product.profiles
        for resource in chosen(product.name, profile.name).claims
    }
    managed = {resource["name"] for resource in extender(name)["managedResources"]}
    assert written | {Policy().gpu_resource} == managed


def test_a_slice_of_another_name_is_guarded_by_its_label_because_nobody_asks_our_filter() -> None:
    tree = pod(footprint="9.6G")
    for profile, guarded in (("2g.20gb", False), ("2g.21gb", True)):
        label = {f"{resource_name(profile)}.memory": "19968"}
        known = decided(tree, node(slices={profile: 3}, whole=0, labels=label))
        assert known.claims == {resource_name(profile): 1}
        assert bool(known.guards) is guarded


@samples
def test_a_scheduler_does_not_depend_on_the_extender(name: str) -> None:
    assert extender(name)["ignorable"] is True
    assert extender(name)["httpTimeout"] == "1s"


@samples
def test_the_extender_sees_the_name_of_every_node_that_fits_and_is_heard(name: str) -> None:
    assert sample(name)["percentageOfNodesToScore"] == 100
    assert extender(name)["nodeCacheCapable"] is True
    assert extender(name)["weight"] == 30


def test_both_samples_know_the_same_extender_but_for_the_way_to_it() -> None:
    way = {"urlPrefix", "enableHTTPS", "tlsConfig"}

    one_, other = (
        {key: value for key, value in extender(name).items() if key not in way} for name in SAMPLES
    )

    assert one_ == other


def test_the_second_scheduler_has_a_name_and_a_lease_of_its_own() -> None:
    second = sample("second-scheduler.yaml")

    assert second["profiles"] == [{"schedulerName": "migfit-scheduler"}]
    assert second["leaderElection"] == {
        "leaderElect": True,
        "resourceLock": "leases",
        "resourceNamespace": one("Namespace")["metadata"]["name"],
        "resourceName": "migfit-scheduler",
    }
    assert "profiles" not in sample("default-scheduler.yaml")


@samples
def test_every_value_is_explained(name: str) -> None:
    lines = (SCHEDULERS / name).read_text().splitlines()
    (first,) = [number for number, line in enumerate(lines) if line == "extenders:"]

    unexplained = [
        line.strip()
        for before, line in zip(lines[first:], lines[first + 1 :], strict=False)
        if re.match(r" {4}\w", line) and "#" not in before
    ]

    assert unexplained == []


def test_the_side_car_serves_the_extender_and_nothing_else() -> None:
    deployment = named(kustomized(KUSTOMIZE / "overlays/second-scheduler"))[
        "Deployment", "migfit-scheduler"
    ]
    containers = {
        each["name"]: each for each in deployment["spec"]["template"]["spec"]["containers"]
    }

    assert served_by(containers["extender"]["args"]) == Settings(
        configmap=("migfit-system", "migfit-config"), webhook_port=0
    )
    assert urlsplit(extender("second-scheduler.yaml")["urlPrefix"]).port == Settings().extender_port


def test_the_extender_by_itself_lets_in_who_has_a_certificate() -> None:
    objects = named(kustomized(KUSTOMIZE / "overlays/default-scheduler"))
    (container,) = objects["Deployment", "migfit-extender"]["spec"]["template"]["spec"][
        "containers"
    ]
    (mount,) = container["volumeMounts"]
    name = extender("default-scheduler.yaml")["tlsConfig"]["serverName"]

    assert served_by(container["args"]) == Settings(
        configmap=("migfit-system", "migfit-config"),
        webhook_port=0,
        extender_bind="0.0.0.0",
        extender_client_ca=Path(mount["mountPath"], "ca.crt"),
    )
    (shown,) = objects["Deployment", "migfit"]["spec"]["template"]["spec"]["containers"]
    assert served_by(shown["args"]).tls_names == (name,)
