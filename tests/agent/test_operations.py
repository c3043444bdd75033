"""The agent's port, and what a sample leaves to be scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from extender.agent.apiserver import in_cluster_url
from extender.agent.metrics import AgentMetrics
from extender.agent.operations import SILENT_S, listening, operations_app

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS: Mapping[str, Any] = {
    "conditions": [
        {"type": "Hardware", "status": "True"},
        {"type": "Holders", "status": "Unknown"},
    ],
    "gpus": [
        {
            "uuid": "GPU-0",
            "health": "Healthy",
            "holders": [
                {"namespace": "ml", "pod": "asr", "peakMiB": 9604},
                {"namespace": "ml", "pod": "unseen"},
            ],
        },
        {
            "uuid": "GPU-1",
            "health": "Lost",
            "slices": [
                {"uuid": "MIG-1", "profile": "1g.10gb", "holders": []},
                {"uuid": "MIG-2", "profile": "1g.10gb"},
                {
                    "uuid": "MIG-3",
                    "profile": "3g.40gb",
                    "holders": [
                        {"namespace": "ml", "pod": "llm", "peakMiB": 36000, "preallocates": True}
                    ],
                },
            ],
        },
    ],
}


async def asked(metrics: AgentMetrics, age_s: float, path: str) -> tuple[int, str]:
    app = operations_app(metrics.registry, lambda: age_s)
    async with (
        listening(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def scraped(metrics: AgentMetrics) -> list[str]:
    status, text = await asked(metrics, 0, "/metrics")
    assert status == 200
    return [line for line in text.splitlines() if line.startswith("migfit_agent_")]


async def test_health_ends_when_no_sample_has_been_taken_for_long() -> None:
    assert await asked(AgentMetrics(), SILENT_S, "/healthz") == (200, "ok\n")
    status, text = await asked(AgentMetrics(), SILENT_S + 1, "/healthz")
    assert (status, text) == (503, "no sample for 121 s\n")


async def test_a_sample_is_shown_whole_and_what_is_unknown_as_unknown() -> None:
    metrics = AgentMetrics()
    metrics.sampled(STATUS)

    lines = await scraped(metrics)

    for line in (
        'migfit_agent_gpus{health="Healthy"} 1.0',
        'migfit_agent_gpus{health="Lost"} 1.0',
        'migfit_agent_slices{profile="1g.10gb",state="free"} 1.0',
        'migfit_agent_slices{profile="1g.10gb",state="unknown"} 1.0',
        'migfit_agent_slices{profile="3g.40gb",state="used"} 1.0',
        'migfit_agent_known{source="Hardware"} 1.0',
        'migfit_agent_known{source="Holders"} 0.0',
    ):
        assert line in lines
    peaks = {line for line in lines if "observed_peak" in line}
    assert len(peaks) == 2
    [reserved] = [line for line in peaks if 'preallocates="true"' in line]
    assert 'pod="llm"' in reserved
    assert float(reserved.rpartition(" ")[2]) == 36000 * 1024 * 1024


async def test_what_the_next_sample_does_not_tell_is_gone() -> None:
    metrics = AgentMetrics()
    metrics.sampled(STATUS)
    metrics.sampled({"conditions": [{"type": "Hardware", "status": "Unknown"}]})

    lines = await scraped(metrics)

    told = [line for line in lines if not line.partition(" ")[0].endswith(("_total", "_created"))]
    assert told == ['migfit_agent_known{source="Hardware"} 0.0']
    assert "migfit_agent_samples_total 2.0" in lines


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("10.0.0.1", "443", "https://10.0.0.1:443"),
        ("fd00::1", "6443", "https://[fd00::1]:6443"),
        ("", "443", None),
        ("10.0.0.1", "", None),
    ],
)
def test_the_api_server_is_where_pods_are_told(
    monkeypatch: pytest.MonkeyPatch, host: str, port: str, url: str | None
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)

    assert in_cluster_url() == url
