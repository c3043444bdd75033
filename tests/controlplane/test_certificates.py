"""The certificate that migfit manages itself: made, shared, renewed, and trusted in time."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import pytest

from extender.cluster.client import connect
from extender.server.certificate_store import ChangedError, SecretStore, WebhookConfiguration
from extender.server.certificates import Schedule, authorities, begin, ends_s
from extender.server.self_managed import NotOursError, self_managed
from extender.server.settings import BAD_INPUT, UNREACHABLE, Settings, StartError
from tests.controlplane.client import ApiError
from tests.controlplane.keeping import (
    CONFIGURATION,
    DAY_S,
    NAMES,
    NOW_S,
    SCHEDULE,
    SECRET,
    Kept,
    der,
    manifest,
    shown,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from extender.cluster.client import ApiClient
    from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.controlplane


@pytest.fixture
def kept(plane: ControlPlane, namespace: str) -> Kept:
    """Empty."""
    return Kept(plane, namespace)


@pytest.fixture
async def admin(plane: ControlPlane) -> AsyncIterator[ApiClient]:
    """Our own client, with the admin's rights."""
    async with connect(plane.kubeconfig) as client:
        yield client


# --- the beginning -------------------------------------------------------------------------------


async def test_the_first_makes_a_secret_and_every_webhook_trusts_it(kept: Kept) -> None:
    kept.configure()

    async with kept.replica() as replica:
        await replica.first()

        assert replica.unready() is None
        assert replica.left_s() == SCHEDULE.leaf_s
        assert await shown(replica) == der(kept.issued)
    assert kept.secret()["type"] == "kubernetes.io/tls"
    assert kept.bundles() == [kept.issued.bundle] * 2
    assert kept.issued.old == ()


async def test_of_many_that_start_at_once_one_makes_the_certificate_and_all_show_it(
    kept: Kept,
) -> None:
    kept.configure()
    async with (
        kept.replica() as a,
        kept.replica() as b,
        kept.replica() as c,
        kept.replica() as d,
    ):
        await asyncio.gather(*(each.first() for each in (a, b, c, d)))

        assert {await shown(each) for each in (a, b, c, d)} == {der(kept.issued)}
        assert [each.unready() for each in (a, b, c, d)] == [None] * 4
    assert kept.bundles() == [kept.issued.bundle] * 2


async def test_who_comes_later_takes_what_is_there_and_writes_nothing(kept: Kept) -> None:
    kept.configure()
    async with kept.replica() as replica:
        await replica.first()
    before = kept.secret(), kept.configuration()

    async with kept.replica() as replica:
        await replica.first()
        await replica.look()

        assert await shown(replica) == der(kept.issued)
    assert (kept.secret(), kept.configuration()) == before


async def test_who_was_trusted_before_stays_so_for_a_day_for_replicas_that_show_other_files(
    kept: Kept,
) -> None:
    elsewhere = begin(NAMES, NOW_S, SCHEDULE)
    kept.configure()
    value = base64.b64encode(elsewhere.bundle).decode()
    change = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": value}]
    kept.plane.client.patch("MutatingWebhookConfiguration", CONFIGURATION, change)

    async with kept.replica() as replica:
        await replica.first()
        assert [authorities(each)[1:] for each in kept.bundles()] == [
            (elsewhere.authority.certificate,)
        ] * 2

        kept.clock.now_s += DAY_S
        await replica.look()
    assert kept.bundles() == [kept.issued.authority.pem] * 2


async def test_an_empty_secret_of_the_manifests_is_filled(kept: Kept) -> None:
    meta = {"name": SECRET, "namespace": kept.namespace}
    kept.plane.client.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta})

    async with kept.replica() as replica:
        await replica.first()

        assert await shown(replica) == der(kept.issued)


async def test_a_secret_of_somebody_else_is_left_alone(kept: Kept) -> None:
    other = {"tls.crt": "b3RoZXI=", "tls.key": "b3RoZXI="}
    meta = {"name": SECRET, "namespace": kept.namespace}
    kept.plane.client.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": other}
    )

    async with kept.replica() as replica:
        with pytest.raises(StartError, match="name another Secret, or delete it") as raised:
            await replica.first()

    assert raised.value.code == BAD_INPUT
    assert kept.secret()["data"] == other


async def test_without_a_webhook_configuration_there_is_nobody_to_wait_for(
    kept: Kept,
) -> None:
    async with kept.replica() as replica:
        await replica.first()
        assert replica.unready() is None

        kept.configure()
        await replica.look()

    assert kept.bundles() == [kept.issued.bundle] * 2


async def test_a_namespace_that_does_not_exist_is_named(kept: Kept) -> None:
    kept.namespace = "nowhere"
    async with kept.replica() as replica:
        with pytest.raises(StartError, match='namespaces "nowhere" not found') as raised:
            await replica.first()

    assert raised.value.code == BAD_INPUT


async def test_a_server_that_is_away_is_asked_for_a_while(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extender.server.self_managed.RETRY_S", 0.01)
    async with kept.replica() as replica:
        with (
            kept.plane.without_apiserver(grace_s=0),
            pytest.raises(StartError, match="is the API server up") as raised,
        ):
            await replica.first()

    assert raised.value.code == UNREACHABLE


# --- others who write ----------------------------------------------------------------------------


async def test_nothing_but_the_ca_bundles_is_ours_in_the_webhook_configuration(
    kept: Kept,
) -> None:
    kept.configure()
    before = kept.configuration()

    async with kept.replica() as replica:
        await replica.first()

    after = kept.configuration()
    (entry,) = [e for e in after["metadata"]["managedFields"] if e["manager"] == "migfit"]
    assert entry["fieldsV1"] == {
        "f:webhooks": {
            f'k:{{"name":"{webhook["name"]}"}}': {"f:clientConfig": {"f:caBundle": {}}}
            for webhook in after["webhooks"]
        }
    }
    for webhook in after["webhooks"]:
        del webhook["clientConfig"]["caBundle"]
    assert after["webhooks"] == before["webhooks"]


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
async def test_who_applies_the_manifests_and_we_do_not_take_each_other_s_fields(
    kept: Kept, flags: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "webhook.json"
    file.write_text(json.dumps(manifest()))
    apply = ("apply", *flags, "-f", str(file))
    kept.plane.kubectl(*apply)
    async with kept.replica() as replica:
        await replica.first()
        changed = manifest()
        changed["webhooks"][1]["timeoutSeconds"] = 7
        file.write_text(json.dumps(changed))

        kept.plane.kubectl(*apply)
        written = kept.configuration()["metadata"]["resourceVersion"]
        await replica.look()

    assert kept.bundles() == [kept.issued.bundle] * 2
    assert kept.configuration()["webhooks"][1]["timeoutSeconds"] == 7
    assert kept.configuration()["metadata"]["resourceVersion"] == written

    file.write_text(json.dumps(manifest("pods.migfit.io")))
    kept.plane.kubectl(*apply)
    assert kept.bundles() == [kept.issued.bundle]


async def test_a_configuration_made_anew_is_trusted_at_the_next_look(kept: Kept) -> None:
    kept.configure()
    async with kept.replica() as replica:
        await replica.first()
        kept.plane.client.delete("MutatingWebhookConfiguration", CONFIGURATION)
        kept.configure("another.migfit.io", "pods.migfit.io", "third.migfit.io")
        await replica.look()

    assert kept.bundles() == [kept.issued.bundle] * 3


async def test_what_cert_manager_fills_in_is_not_fought_over(kept: Kept) -> None:
    kept.configure(annotations={"cert-manager.io/inject-ca-from": "migfit-system/migfit"})

    async with kept.replica() as replica:
        await replica.first()

        assert "cert-manager fills in its caBundle" in (replica.unready() or "")
    assert kept.bundles() == [b"", b""]


async def test_a_bundle_is_not_written_into_a_configuration_that_has_changed(
    kept: Kept, admin: ApiClient
) -> None:
    kept.configure()
    configuration = WebhookConfiguration(admin, CONFIGURATION)
    older, newer = (begin(NAMES, NOW_S, SCHEDULE).bundle for _ in range(2))
    seen = await configuration.read()
    assert seen is not None
    await configuration.write(seen, newer)

    with pytest.raises(ChangedError):
        await configuration.write(seen, older)
    assert kept.bundles() == [newer] * 2

    kept.plane.client.delete("MutatingWebhookConfiguration", CONFIGURATION)
    with pytest.raises(ChangedError):
        await configuration.write(seen, older)


async def test_of_two_who_write_a_secret_at_once_one_is_told_to_look_again(
    kept: Kept, admin: ApiClient
) -> None:
    one, other = (begin(NAMES, NOW_S, SCHEDULE).data() for _ in range(2))
    store = SecretStore(admin, kept.namespace, SECRET)

    version = await store.create(one)
    with pytest.raises(ChangedError):
        await store.create(other)
    assert kept.issued.data() == one
    await store.replace(other, version)
    with pytest.raises(ChangedError):
        await store.replace(one, version)
    assert kept.issued.data() == other

    kept.delete_secret()
    with pytest.raises(ChangedError):
        await store.replace(one, version)


# --- a life --------------------------------------------------------------------------------------


async def test_a_leaf_is_renewed_by_one_and_shown_by_all(kept: Kept) -> None:
    kept.configure()
    async with kept.replica() as one, kept.replica() as other:
        await one.first()
        await other.first()
        before = kept.issued
        kept.clock.now_s += 70 * DAY_S

        await asyncio.gather(one.look(), other.look())

        assert kept.issued.leaf != before.leaf
        assert kept.issued.bundle == before.bundle
        assert await shown(one) == await shown(other) == der(kept.issued)


async def test_a_new_authority_is_trusted_first_and_signs_later(kept: Kept) -> None:
    kept.configure()
    clock = kept.clock
    async with kept.replica() as one, kept.replica() as other:
        await one.first()
        await other.first()
        while clock.now_s < NOW_S + 480 * DAY_S:
            clock.now_s += 20 * DAY_S
            await one.look()
        old = kept.issued
        assert old.authority.certificate.not_valid_before_utc.timestamp() < NOW_S
        leaf = await shown(one)

        clock.now_s = NOW_S + SCHEDULE.authority_s * 2 / 3
        await one.look()
        assert kept.issued.old == (old.authority.certificate,)
        assert kept.bundles() == [kept.issued.bundle] * 2
        await other.look()
        assert await shown(one) == await shown(other) == leaf

        clock.now_s += SCHEDULE.settle_s - 1
        await asyncio.gather(one.look(), other.look())
        assert await shown(one) == await shown(other) == leaf

        clock.now_s += 20
        for _ in range(2):  # who reads before the other writes sees it at the next look
            await asyncio.gather(one.look(), other.look())
        assert await shown(one) == await shown(other) == der(kept.issued) != leaf
        assert len(authorities(kept.bundles()[0])) == 2

        clock.now_s += SCHEDULE.retire_s
        await asyncio.gather(one.look(), other.look())
    assert kept.bundles() == [kept.issued.authority.pem] * 2


async def test_a_new_authority_does_not_sign_while_it_is_not_seen_to_be_trusted(
    kept: Kept,
) -> None:
    kept.configure()
    async with kept.replica() as replica:
        await replica.first()
        kept.delete_secret()
        await replica.look()
        leaf = await shown(replica)
        for _ in range(5):
            # Somebody keeps taking out what we write: the time begins anew every time.
            kept.clock.now_s += SCHEDULE.settle_s
            kept.plane.client.delete("MutatingWebhookConfiguration", CONFIGURATION)
            kept.configure()
            await replica.look()
            assert await shown(replica) == leaf
        kept.clock.now_s += SCHEDULE.poll_s
        await replica.look()
        kept.clock.now_s += SCHEDULE.settle_s
        await replica.look()

        assert await shown(replica) != leaf


async def test_a_deleted_secret_comes_back_with_a_new_authority_and_the_leaf_in_use(
    kept: Kept,
) -> None:
    kept.configure()
    async with kept.replica() as one, kept.replica() as other:
        await one.first()
        await other.first()
        before = kept.issued
        kept.delete_secret()

        await asyncio.gather(one.look(), other.look())

        after = kept.issued
        assert after.leaf == before.leaf
        assert after.authority != before.authority
        assert after.old == (before.authority.certificate,)
        assert kept.bundles() == [after.bundle] * 2
        assert await shown(one) == await shown(other) == der(before)


@pytest.mark.parametrize("key", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
async def test_a_secret_that_somebody_spoiled_is_made_anew(kept: Kept, key: str) -> None:
    kept.configure()
    async with kept.replica() as replica:
        await replica.first()
        before = kept.issued
        kept.plane.client.patch("Secret", SECRET, {"data": {key: "c3BvaWxlZA=="}}, kept.namespace)

        await replica.look()

        assert kept.issued.leaf == before.leaf
        assert await shown(replica) == der(before)
    assert kept.bundles() == [kept.issued.bundle] * 2


async def test_a_secret_that_is_given_to_somebody_else_stops_nothing(kept: Kept) -> None:
    kept.configure()
    async with kept.replica() as replica:
        await replica.first()
        before = kept.issued
        change = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "helm"}}}
        kept.plane.client.patch("Secret", SECRET, change, kept.namespace)

        with pytest.raises(NotOursError):
            await replica.look()

        assert await shown(replica) == der(before)
        assert replica.unready() is None


async def test_expired_is_unready_and_says_since_when_and_why(kept: Kept) -> None:
    kept.configure()
    short = Schedule(poll_s=0.01)
    async with kept.replica(schedule=short) as replica:
        await replica.first()
        kept.clock.now_s = ends_s(kept.issued.leaf.certificate) - 1
        assert replica.unready() is None

        with kept.plane.without_apiserver(grace_s=0):
            kept.clock.now_s += 2
            following = asyncio.create_task(replica.follow())
            await until(lambda: "Secret" in (replica.unready() or ""))
            why = replica.unready() or ""

        assert replica.left_s() == -1
        assert why.startswith("the webhook's certificate expired at 2027-04-15T08:00:00+00:00; ")
        await until(lambda: replica.unready() is None)
        following.cancel()
    assert replica.left_s() == SCHEDULE.leaf_s


# --- what the settings mean ----------------------------------------------------------------------


async def test_the_secret_lies_beside_the_config_map_and_names_the_service_there(
    kept: Kept, admin: ApiClient
) -> None:
    settings = Settings(configmap=(kept.namespace, "migfit-config"), service="webhook")

    await self_managed(settings, admin, SCHEDULE).first()

    text = str(kept.issued.leaf.certificate.extensions)
    for name in ("webhook", f"webhook.{kept.namespace}", f"webhook.{kept.namespace}.svc"):
        assert f"<DNSName(value='{name}')>" in text


async def test_a_secret_that_is_named_goes_before_that(kept: Kept, admin: ApiClient) -> None:
    settings = Settings(configmap=("nowhere", "x"), tls_secret=(kept.namespace, "other"))

    await self_managed(settings, admin, SCHEDULE).first()

    assert kept.plane.client.get("Secret", "other", kept.namespace)
    with pytest.raises(ApiError, match="not found"):
        kept.secret()


async def test_without_any_namespace_the_flags_that_help_are_named(admin: ApiClient) -> None:
    with pytest.raises(StartError, match="give --tls-secret NAMESPACE/NAME, or --tls-cert"):
        self_managed(Settings(), admin, SCHEDULE)
