"""The agent's metrics, on a registry of its own. Labels are bounded by the cards of one node."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from extender.core.quantity import MIB


class AgentMetrics:
    """What a sample and a write leave to be scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.gpus = Gauge(
            "migfit_agent_gpus", "GPUs of the node.", ["health"], registry=self.registry
        )
        self.slices = Gauge(
            "migfit_agent_slices",
            "Slices by profile: `used`, `free`, or `unknown` while the kubelet does not tell.",
            ["profile", "state"],
            registry=self.registry,
        )
        self.peak = Gauge(
            "migfit_agent_observed_peak_bytes",
            "Most memory a pod was seen to use of a device; `preallocates` tells that it is no need.",
            ["namespace", "pod", "uuid", "device", "preallocates"],
            registry=self.registry,
        )
        self.known = Gauge(
            "migfit_agent_known",
            "1 while a source tells: `Hardware` is NVML, `Holders` the kubelet.",
            ["source"],
            registry=self.registry,
        )
        self.writes = Counter(
            "migfit_agent_writes",
            "Writes of the node's GpuNode: `written` or `failed`.",
            ["result"],
            registry=self.registry,
        )
        self.samples = Counter(
            "migfit_agent_samples",
            "Samples taken.",
            registry=self.registry,
        )

    def sampled(self, status: Mapping[str, Any]) -> None:
        """Show one sample in place of the one before."""
        self.samples.inc()
        for each in (self.gpus, self.slices, self.peak, self.known):
            each.clear()
        for condition in status["conditions"]:
            self.known.labels(condition["type"]).set(condition["status"] != "Unknown")
        for gpu in status.get("gpus", ()):
            self.gpus.labels(gpu["health"]).inc()
            for uuid, device, holder in _holders(gpu):
                if "peakMiB" in holder:
                    told = str(holder.get("preallocates", False)).lower()
                    self.peak.labels(holder["namespace"], holder["pod"], uuid, device, told).set(
                        holder["peakMiB"] * MIB
                    )
            for each in gpu.get("slices", ()):
                state = "unknown"
                if "holders" in each:
                    state = "used" if each["holders"] else "free"
                self.slices.labels(each.get("profile", "unknown"), state).inc()


def _holders(gpu: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for holder in gpu.get("holders", ()):
        yield gpu.get("uuid", ""), "gpu", holder
    for each in gpu.get("slices", ()):
        for holder in each.get("holders", ()):
            yield each["uuid"], each.get("profile", "unknown"), holder
