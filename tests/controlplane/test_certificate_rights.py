"""What a self-managed certificate needs to be allowed: five verbs on two objects, each by its name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from extender.server.settings import BAD_INPUT, StartError
from tests.controlplane.keeping import CONFIGURATION, DAY_S, SECRET, Kept, may
from tests.controlplane.objects import wait_until

if TYPE_CHECKING:
    from tests.controlplane.plane import ControlPlane, User

pytestmark = pytest.mark.controlplane

Right = tuple[str, str]
RIGHTS: frozenset[Right] = frozenset(
    {
        ("secrets", "get"),
        ("secrets", "create"),
        ("secrets", "patch"),
        ("mutatingwebhookconfigurations", "get"),
        ("mutatingwebhookconfigurations", "patch"),
    }
)


def granted(kept: Kept, rights: frozenset[Right]) -> User:
    """A user with these rights, each for the one object by name, and no other."""
    client = kept.plane.client
    user = kept.plane.user(f"keeper-{kept.namespace}")
    for kind, group, resource, name, meta in (
        ("Role", "", "secrets", SECRET, {"namespace": kept.namespace}),
        (
            "ClusterRole",
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations",
            CONFIGURATION,
            {},
        ),
    ):
        verbs = sorted(verb for of, verb in rights if of == resource)
        if not verbs:
            continue
        rule = {"apiGroups": [group], "resources": [resource], "resourceNames": [name]}
        api = {"apiVersion": "rbac.authorization.k8s.io/v1"}
        role = {"metadata": {"name": "keeper", **meta}, "rules": [{**rule, "verbs": verbs}]}
        client.create({**api, "kind": kind, **role})
        client.create(
            {
                **api,
                "kind": f"{kind}Binding",
                "metadata": {"name": "keeper", **meta},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": kind,
                    "name": "keeper",
                },
                "subjects": [{"kind": "User", "name": user.name}],
            }
        )
        for verb in verbs:
            attributes = {"verb": verb, "group": group, "resource": resource, "name": name, **meta}
            wait_until(partial(may, user, attributes), 10, f"{verb} {resource} is known")
    return user


@pytest.fixture
def kept(plane: ControlPlane, namespace: str) -> Kept:
    """Empty."""
    return Kept(plane, namespace)


async def test_it_needs_the_rights_to_two_named_objects_and_no_others(kept: Kept) -> None:
    user = granted(kept, RIGHTS)
    kept.configure()

    async with kept.replica(user) as replica:
        await replica.first()
        kept.clock.now_s += 70 * DAY_S
        await replica.look()
        kept.delete_secret()
        await replica.look()
        assert replica.unready() is None

    assert kept.issued.pending
    assert kept.bundles() == [kept.issued.bundle] * 2
    mine = [
        event
        for resource in ("secrets", "mutatingwebhookconfigurations")
        for event in kept.plane.audit_events(resource=resource)
        if event["user"]["username"] == user.name
    ]
    used = {(event["objectRef"]["resource"], event["verb"]) for event in mine}
    assert used == RIGHTS - {("secrets", "create")}  # asked for inside of the patch
    assert {event["objectRef"]["name"] for event in mine} == {SECRET, CONFIGURATION}
    assert {event["responseStatus"]["code"] for event in mine} <= {200, 201, 404}


@pytest.mark.parametrize("verb", ["get", "create", "patch"])
async def test_a_right_to_the_secret_that_is_missing_ends_the_start_and_is_named(
    kept: Kept, verb: str
) -> None:
    user = granted(kept, RIGHTS - {("secrets", verb)})
    kept.configure()

    async with kept.replica(user) as replica:
        with pytest.raises(StartError, match=f'cannot {verb} resource "secrets"') as raised:
            await replica.first()

    assert raised.value.code == BAD_INPUT
    assert "grant us to get, create and patch it" in str(raised.value)


@pytest.mark.parametrize("verb", ["get", "patch"])
async def test_a_right_to_the_webhook_configuration_that_is_missing_keeps_it_unready(
    kept: Kept, verb: str
) -> None:
    user = granted(kept, RIGHTS - {("mutatingwebhookconfigurations", verb)})
    kept.configure()

    async with kept.replica(user) as replica:
        await replica.first()

        why = replica.unready() or ""
    assert why.startswith("webhook configuration migfit does not trust our certificate yet; ")
    assert f'cannot {verb} resource "mutatingwebhookconfigurations"' in why
