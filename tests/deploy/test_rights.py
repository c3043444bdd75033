"""RBAC: the rights the code needs, and no other."""

from __future__ import annotations

from itertools import product

from extender.cluster.watch import Resource
from extender.server import serve
from tests.deploy.manifests import JSON, ROOT, container, documents, one, pod_template, served_by

READ = {"list", "watch"}


def granted(role: JSON) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of all rules of a role."""
    return {
        right
        for rule in role["rules"]
        for right in product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def test_what_the_server_follows_cluster_wide_it_may_list_and_watch_and_nothing_more() -> None:
    followed = [value for value in vars(serve).values() if isinstance(value, Resource)]
    assert len(followed) >= 3

    needed = {
        ("", path.removeprefix("/api/v1/"), verb)
        for path, verb in product((resource.path for resource in followed), READ)
    }

    assert granted(one("ClusterRole")) == needed


def test_of_config_maps_it_may_read_its_own() -> None:
    (rule,) = [rule for rule in one("Role")["rules"] if "configmaps" in rule["resources"]]
    told = served_by(container()["args"])

    assert told.configmap == (one("Role")["metadata"]["namespace"], *rule["resourceNames"])
    assert rule["resources"] == ["configmaps"]
    assert set(rule["verbs"]) == READ | {"get"}


def test_beside_that_it_may_say_what_happened_in_its_own_namespace() -> None:
    rest = {right for right in granted(one("Role")) if right[1] != "configmaps"}

    assert rest == {("events.k8s.io", "events", "create")}


def test_the_rights_go_to_the_account_that_the_pods_run_as_and_to_nobody_else() -> None:
    account = one("ServiceAccount")["metadata"]

    assert pod_template()["spec"]["serviceAccountName"] == account["name"]
    for kind in ("ClusterRole", "Role"):
        binding = one(f"{kind}Binding")
        role = one(kind)["metadata"]
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (kind, role["name"])
        assert binding["subjects"] == [
            {
                "kind": "ServiceAccount",
                "name": account["name"],
                "namespace": account["namespace"],
            }
        ]


def test_only_the_deployment_gets_a_token() -> None:
    assert one("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod_template()["spec"]["automountServiceAccountToken"] is True


def test_no_role_anywhere_has_wildcards_or_secrets_or_ways_to_more_rights() -> None:
    roles = [
        item
        for file in (ROOT / "deploy").glob("kustomize/**/*.yaml")
        for item in documents(file)
        if item["kind"] in ("Role", "ClusterRole")
    ]
    assert len(roles) >= 2

    for role in roles:
        for group, resource, verb in granted(role):
            assert "*" not in group + resource + verb
            assert resource != "secrets"
            assert verb not in ("escalate", "bind", "impersonate")
