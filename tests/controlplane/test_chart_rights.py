"""The chart's rights: each one is used, and none that is not there is asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trustme

from tests.controlplane.agents import ACCOUNT, Installed
from tests.controlplane.agents import NAMESPACE as AGENTS
from tests.controlplane.installed import Pod, Release, rules_of
from tests.controlplane.migfit import SYSTEM_NAMESPACE, a100_labels
from tests.controlplane.objects import fake_node, new_namespace, wait_until
from tests.controlplane.test_packing import SECOND, SLICE, start_second
from tests.controlplane.workloads import CONTROLLERS, Pods, workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.controlplane.plane import ControlPlane

    Right: TypeAlias = tuple[str, str, str, str]
    """API group, resource, name (empty for any), verb."""

pytestmark = pytest.mark.controlplane

ALSO_ASKED = {"patch": "create"}
"""A server-side apply of what is not there needs both; the audit log has it as a patch, answered 201."""

ASKING = "selfsubjectaccessreviews"
"""What this test itself asks in the account's name."""


def now() -> str:
    """As the audit log writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture
def since() -> str:
    """When the test began: what others did before is not asked about."""
    return now()


@pytest.fixture
def pods(plane: ControlPlane, since: str, tmp_path: Path) -> Iterator[tuple[Pod, Pod]]:
    """A webhook, and a second scheduler with its extender, all installed by the chart.

    The kind of the node agent is there, which the chart has the right to read.
    """
    agents = Installed(plane, tmp_path)
    release = Release(plane)
    backoff = {"restarts": 3, "window": "10m", "hold": "1h", "pending": "2s"}
    config = {"mode": "Enforce", "backoff": backoff}
    release.install({"packing": "SecondScheduler", "config": config})
    webhook, extender = Pod(plane, tmp_path), Pod(plane, tmp_path, SECOND)
    webhook.start()
    webhook.behind_the_service()
    extender.start()
    start_second(plane, extender, "second")
    yield webhook, extender
    webhook.stop()
    extender.stop()
    agents.remove()


def granted(plane: ControlPlane, account: str) -> set[Right]:
    """By the roles of ours; Kubernetes' own for schedulers are Kubernetes' affair."""
    return {
        right
        for _, rule in rules_of(plane, account, ours_only=True)
        for right in product(
            rule["apiGroups"], rule["resources"], rule.get("resourceNames", [""]), rule["verbs"]
        )
    }


def used(
    plane: ControlPlane, account: str, since: str, namespace: str = SYSTEM_NAMESPACE
) -> set[Right]:
    """What the account was answered, out of the API server's audit log; AssertionError for a 403."""
    user = f"system:serviceaccount:{namespace}:{account}"
    found: set[Right] = set()
    events = [*plane.audit_events(), *plane.audit_events("watch", stage="ResponseStarted")]
    for event in events:
        subject, status = event.get("objectRef", {}), event["responseStatus"]["code"]
        if event["user"]["username"] != user or subject.get("resource", ASKING) == ASKING:
            continue
        if event["requestReceivedTimestamp"] < since:
            continue
        assert status != 403, event
        kind = "/".join(filter(None, (subject["resource"], subject.get("subresource"))))
        where = subject.get("apiGroup", ""), kind, subject.get("name", "")
        found.add((*where, event["verb"]))
        if status == 201 and event["verb"] in ALSO_ASKED:
            found.add((*where, ALSO_ASKED[event["verb"]]))
    return found


def plain(rights: set[Right], rules: set[Right]) -> set[Right]:
    """Without the name where a rule allows any: an Event has one, the right to make it has not."""
    return {
        (group, resource, "" if (group, resource, "", verb) in rules else name, verb)
        for group, resource, name, verb in rights
    }


def crash_loop(plane: ControlPlane) -> None:
    """A rewritten pod that does not get going: its workload is held back, and it is deleted."""
    pods = Pods(plane.client, new_namespace(plane.client))
    slices = {"nvidia.com/gpu": 2, SLICE: 2}
    plane.client.create(fake_node("gpu-a", allocatable=slices, labels=a100_labels()))
    plane.start_scheduler()
    plane.start_controller_manager(CONTROLLERS)
    plane.client.create(workload("StatefulSet", "llm", pods.namespace))
    first = pods.one("llm", on=SLICE, bound=True)
    pods.run(first)
    pods.crash(first, 3)


def all_used(
    plane: ControlPlane, account: str, since: str, namespace: str = SYSTEM_NAMESPACE
) -> None:
    """Wait until the account has used each right that it has."""
    wanted = granted(plane, account)
    assert wanted

    def missing() -> set[Right]:
        return wanted - plain(used(plane, account, since, namespace), wanted)

    wait_until(lambda: not missing(), 40, lambda: f"{account} uses {missing()}")


def break_configuration(plane: ControlPlane) -> None:
    """What an Event is written about."""
    broken = {"data": {"config.yaml": "mode: Nonsense"}}
    plane.client.patch("ConfigMap", "migfit-config", broken, SYSTEM_NAMESPACE)


@pytest.mark.long
def test_each_right_of_the_chart_is_used_and_no_other_is_asked_for(
    plane: ControlPlane, pods: tuple[Pod, Pod], since: str
) -> None:
    webhook, extender = pods
    crash_loop(plane)
    break_configuration(plane)

    for pod in pods:
        all_used(plane, pod.account, since)
    wanted = granted(plane, webhook.account)
    assert plain(used(plane, webhook.account, since), wanted) == wanted
    assert webhook.account != extender.account
    for pod in pods:
        assert pod.server.metric("migfit_watch_trouble_total") == 0


async def test_so_are_those_of_an_extender_by_itself_and_of_an_agent(
    plane: ControlPlane, since: str, tmp_path: Path
) -> None:
    release = Release(plane)
    values = {"packing": "DefaultScheduler", "agent": {"enabled": True}}
    agents = Installed(plane, tmp_path, by=lambda: release.install(values))
    trustme.CA().cert_pem.write_to_path(tmp_path / "clients.crt")
    webhook, extender = Pod(plane, tmp_path), Pod(plane, tmp_path, "migfit-extender")
    try:
        webhook.start()
        extender.start(f"--extender-client-ca={tmp_path / 'clients.crt'}")
        break_configuration(plane)
        agent = agents.agent("gpu-a")
        agents.wait_for_policy(agent)
        refused_until = now()  # with which that waited
        await agent.api.write({"heartbeatTime": "2026-01-01T00:00:00Z"})
        assert await agent.api.read() is not None

        for who in (
            (extender.account, since, SYSTEM_NAMESPACE),
            (ACCOUNT, refused_until, AGENTS),
        ):
            all_used(plane, *who)
            wanted = granted(plane, who[0])
            assert plain(used(plane, *who), wanted) == wanted
    finally:
        webhook.stop()
        extender.stop()
        agents.remove()
