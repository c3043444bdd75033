"""RBAC: the rights the code needs, and no other."""

from __future__ import annotations

from itertools import product

from extender.cluster.holds import CONFIG_MAP
from extender.cluster.leadership import LEASE
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


def rules_of(resource: str, role: JSON) -> list[JSON]:
    """The rules of a role about one resource."""
    return [rule for rule in role["rules"] if resource in rule["resources"]]


def collection(path: str) -> tuple[str, str]:
    """API group and resource of `/api/v1/nodes` or `/apis/migfit.io/v1alpha1/gpunodes`."""
    *prefix, resource = path.strip("/").split("/")
    return ("" if prefix[0] == "api" else prefix[1], resource)


def test_cluster_wide_it_may_read_what_it_follows_and_say_what_it_finds_and_nothing_more() -> None:
    followed = [value for value in vars(serve).values() if isinstance(value, Resource)]
    assert len(followed) >= 3

    needed = {(*collection(resource.path), verb) for resource, verb in product(followed, READ)}

    assert granted(one("ClusterRole", "migfit")) == needed | {("events.k8s.io", "events", "create")}


def test_of_config_maps_it_may_read_its_own_and_write_the_holds() -> None:
    role = one("Role")
    own, holds = rules_of("configmaps", role)
    told = served_by(container()["args"])

    assert told.configmap == (role["metadata"]["namespace"], *own["resourceNames"])
    assert set(own["verbs"]) == READ | {"get"}
    assert holds["resourceNames"] == [CONFIG_MAP]
    assert set(holds["verbs"]) == READ | {"get", "create", "patch"}
    for rule in (own, holds):
        assert rule["resources"] == ["configmaps"]


def test_beside_that_it_may_keep_its_lease() -> None:
    role = one("Role")
    (lease,) = rules_of("leases", role)
    rest = {right for right in granted(role) if right[1] != "configmaps"}

    assert lease["resourceNames"] == [LEASE]
    assert rest == {("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "patch")}


def test_it_may_delete_pods_by_a_role_of_its_own_and_a_policy_says_which() -> None:
    role = one("ClusterRole", "migfit-recreate")
    policy = one("ValidatingAdmissionPolicy", "migfit-deletes")
    account = one("ServiceAccount")["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"

    assert granted(role) == {("", "pods", "delete")}
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f"request.userInfo.username == '{user}'"
    binding = one("ValidatingAdmissionPolicyBinding", "migfit-deletes")["spec"]
    assert binding == {"policyName": "migfit-deletes", "validationActions": ["Deny"]}


def test_the_rights_go_to_the_account_that_the_pods_run_as_and_to_nobody_else() -> None:
    account = one("ServiceAccount")["metadata"]

    assert pod_template()["spec"]["serviceAccountName"] == account["name"]
    names = (("ClusterRole", "migfit"), ("ClusterRole", "migfit-recreate"), ("Role", "migfit"))
    for kind, name in names:
        binding = one(f"{kind}Binding", name)
        role = one(kind, name)["metadata"]
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
