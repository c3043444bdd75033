"""Names of metrics are API; their labels come from closed lists."""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from extender.cluster.objects import GpuNodeObject, PodObject
from extender.core.reason import Action, Reason
from extender.server.metrics import Metrics
from tests.build import bound, mig, node, state
from tests.server.serving import Serving, gpu_pod, request, review_of

OURS = {
    "migfit_audit_dropped": "counter",
    "migfit_certificate_expiry_seconds": "gauge",
    "migfit_agents": "gauge",
    "migfit_config_valid": "gauge",
    "migfit_decisions": "counter",
    "migfit_dry_run_reviews": "counter",
    "migfit_events_dropped": "counter",
    "migfit_events_waiting": "gauge",
    "migfit_held_workloads": "gauge",
    "migfit_holds": "counter",
    "migfit_list_duration_seconds": "gauge",
    "migfit_memory_given_back_bytes": "gauge",
    "migfit_missed": "counter",
    "migfit_pods_deleted": "counter",
    "migfit_reconciler_leader": "gauge",
    "migfit_request_duration_seconds": "histogram",
    "migfit_requests": "counter",
    "migfit_snapshot_age_seconds": "gauge",
    "migfit_synced": "gauge",
    "migfit_unmet_demand": "gauge",
    "migfit_watch_events": "counter",
    "migfit_watch_trouble": "counter",
}
ROUTES = {
    "", "/mutate", "/scheduler/filter", "/scheduler/prioritize", "/healthz", "/readyz", "/metrics",
}  # fmt: skip


RESOURCES = ("nodes", "pods", "namespaces", "resourcequotas", "limitranges", "gpunodes")
LABELS = {
    "verb", "action", "reason", "profile", "code", "resource", "cause", "le", "state",
}  # fmt: skip


def test_names_and_kinds_are_these(serving: Serving) -> None:
    text = serving.ask("ops", "GET", "/metrics").body.decode()

    families = {f.name: f.type for f in text_string_to_metric_families(text)}

    assert {name: kind for name, kind in families.items() if name in OURS} == OURS
    assert "process_resident_memory_bytes" in families
    ours = {name.removesuffix("_created") for name in families if name.startswith("migfit")}
    assert ours == OURS.keys()


def test_what_clients_send_does_not_become_labels(serving: Serving) -> None:
    odd = gpu_pod("odd", memory="none of your business")
    odd["metadata"]["annotations"]["migfit.io/profile"] = "9g.made-up"
    serving.review(review_of(odd))
    serving.review(review_of(gpu_pod("model", memory="1Ki")))
    for path in ("/made/up", "/mutate/../x", "/scheduler/filter?made=up"):
        serving.ask("webhook", "POST", path, b"{}")
        serving.ask("extender", "POST", path, b"{}")
        serving.ask("ops", "DELETE", path)
    with serving.wire("ops") as wire:
        wire.send(request("MADEUP", "/healthz"))
        wire.answer()

    text = serving.ask("ops", "GET", "/metrics").body.decode()

    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("migfit"):
            for sample in family.samples:
                for label, value in sample.labels.items():
                    seen.setdefault(label, set()).add(value)
    assert seen["verb"] <= ROUTES
    assert seen["action"] <= set(Action)
    assert seen["reason"] <= set(Reason)
    assert seen["profile"] <= {"", "1g.10gb", "2g.20gb", "3g.40gb"}
    assert all(re.fullmatch("[1-5][0-9][0-9]", code) for code in seen["code"])
    assert seen["resource"] <= set(RESOURCES)
    assert seen.keys() <= LABELS
    assert "made" not in text.lower()


def test_every_answer_is_counted_by_route_and_status(serving: Serving) -> None:
    def count(code: int, verb: str) -> float:
        name = f'migfit_requests_total{{code="{code}",verb="{verb}"}}'
        return serving.metrics().get(name, 0)

    asked = {(200, "/mutate"): review_of(), (400, "/mutate"): b"not json"}
    before = {key: count(*key) for key in (*asked, (404, ""))}

    for body in asked.values():
        serving.ask("webhook", "POST", "/mutate", body)
    serving.ask("webhook", "POST", "/nowhere", b"")

    assert {key: count(*key) - before[key] for key in before} == dict.fromkeys(before, 1)


def test_a_decision_is_counted_with_its_reason(serving: Serving) -> None:
    name = 'migfit_decisions_total{action="rewritten",profile="2g.20gb",reason="Fits"}'
    before = serving.metrics().get(name, 0)

    serving.review(review_of())

    assert serving.metrics()[name] == before + 1


@pytest.mark.parametrize("good", [True, False])
def test_gauges_are_read_when_somebody_looks(good: bool) -> None:
    metrics = Metrics()
    now = {"age_s": 1.5, "good": not good}
    metrics.observe(
        age_s=lambda: now["age_s"],
        synced=lambda: bool(now["good"]),
        config_valid=lambda: bool(now["good"]),
        given_back_bytes=lambda: 7 << 30,
    )
    now.update(age_s=2.5, good=good)

    read = metrics.registry.get_sample_value

    assert read("migfit_snapshot_age_seconds") == 2.5
    assert read("migfit_synced") == good
    assert read("migfit_config_valid") == good
    assert read("migfit_memory_given_back_bytes") == 7 << 30


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns a thousand times more often."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("hasty")
def test_somebody_may_look_from_another_thread_while_the_cluster_changes() -> None:
    metrics, cluster = Metrics(), state(node())
    metrics.observe(
        age_s=cluster.age_s,
        synced=lambda: cluster.synced,
        config_valid=lambda: True,
        given_back_bytes=cluster.given_back_bytes,
    )
    metrics.observe_agents(cluster.gpu_nodes.heard, cluster.gpu_nodes.silent)
    beat = {"heartbeatTime": "2026-11-25T00:00:00Z"}
    there = []
    for number in range(5000):
        on = f"gpu-{number}"
        pod = bound(on, on, {mig("2g.20gb"): 1})
        pod["metadata"]["labels"] = {"migfit.io/rewritten": "true"}
        agent = {"metadata": {"name": on}, "status": beat}
        there.append((msgspec.convert(pod, PodObject), msgspec.convert(agent, GpuNodeObject)))

    def change() -> None:
        for pod, agent in there:
            cluster.pods.remove(pod)
            cluster.pods.upsert(pod)
            cluster.gpu_nodes.held.remove(agent)
            cluster.gpu_nodes.held.upsert(agent)

    change()
    with ThreadPoolExecutor(1) as operations:
        looking = operations.submit(lambda: [generate_latest(metrics.registry) for _ in range(100)])
        while not looking.done():
            change()

    assert len(looking.result()) == 100


def test_what_watches_do_is_counted_by_resource() -> None:
    metrics = Metrics()
    metrics.listed("pods", 7, 0.25)
    metrics.event("pods")
    metrics.event("pods")
    metrics.trouble("pods", "410")

    read = metrics.registry.get_sample_value
    pods = {"resource": "pods"}
    assert read("migfit_list_duration_seconds", pods) == 0.25
    assert read("migfit_watch_events_total", pods) == 2
    assert read("migfit_watch_trouble_total", {**pods, "cause": "410"}) == 1
