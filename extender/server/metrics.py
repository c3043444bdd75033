"""Every metric we have, on a registry of its own. Names are API; labels come from closed lists."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from extender.core.finding import Cause
from extender.core.reason import Action, Reason

_ALERTED = (Reason.INTERNAL_ERROR, Reason.NO_FREE_SLICE)
"""Told as 0 from the start, as causes are: Prometheus sees no increase in what begins with 1."""
_LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 3.0)


class Metrics:
    """Counters and histograms that the parts of the server feed. Counts also what watches do."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.decisions = Counter(
            "migfit_decisions",
            "Pods decided on, dry runs of the API server not counted.",
            ["action", "reason", "profile"],
            registry=self.registry,
        )
        for reason in _ALERTED:
            self.decisions.labels(Action.LEFT, reason, "")
        self.dry_runs = Counter(
            "migfit_dry_run_reviews",
            "Reviews of requests that the API server does not store (`--dry-run=server`).",
            registry=self.registry,
        )
        self.requests = Counter(
            "migfit_requests",
            "Requests answered, by what was asked and HTTP status, dry runs not counted.",
            ["verb", "code"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "migfit_request_duration_seconds",
            "From the whole request read to the answer ready, dry runs not counted.",
            ["verb"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.audit_dropped = Counter(
            "migfit_audit_dropped",
            "Audit lines given up because stdout could not keep up.",
            registry=self.registry,
        )
        self.events_waiting = Gauge(
            "migfit_events_waiting",
            "Kubernetes Events that the API server has not taken yet.",
            registry=self.registry,
        )
        self.events_dropped = Counter(
            "migfit_events_dropped",
            "Kubernetes Events given up: refused, or too many waited for the API server.",
            registry=self.registry,
        )
        self.watch_events = Counter(
            "migfit_watch_events",
            "Lines taken in from watches, bookmarks included.",
            ["resource"],
            registry=self.registry,
        )
        self.watch_trouble = Counter(
            "migfit_watch_trouble",
            "Failed lists and watches, by HTTP status or `unreachable`, `unreadable`, `closed`.",
            ["resource", "cause"],
            registry=self.registry,
        )
        self.list_duration = Gauge(
            "migfit_list_duration_seconds",
            "How long the last full list took.",
            ["resource"],
            registry=self.registry,
        )
        self.missed = Counter(
            "migfit_missed",
            "GPU pods found to have been created without a decision.",
            registry=self.registry,
        )
        self.unmet = Gauge(
            "migfit_unmet_demand",
            "Slices that rewritten pods wait for because none is free; of the replica that reconciles.",
            ["profile"],
            registry=self.registry,
        )
        self.holds = Counter(
            "migfit_holds",
            "Workloads newly held back, by why: Crashes, Fails, Pends.",
            ["cause"],
            registry=self.registry,
        )
        for cause in Cause:
            self.holds.labels(cause)
        self.recreated = Counter(
            "migfit_pods_deleted",
            "Rewritten pods deleted so that they come back whole.",
            registry=self.registry,
        )
        self._held = Gauge(
            "migfit_held_workloads", "Workloads held back now.", registry=self.registry
        )
        self._reconciles = Gauge(
            "migfit_reconciler_leader",
            "1 on the replica that holds the Lease, and reconciles.",
            registry=self.registry,
        )
        self._snapshot_age = Gauge(
            "migfit_snapshot_age_seconds",
            "Since the watch that is silent longest was last heard of.",
            registry=self.registry,
        )
        self._synced = Gauge(
            "migfit_synced", "1 once every list has arrived.", registry=self.registry
        )
        self._config_valid = Gauge(
            "migfit_config_valid",
            "0 while the configuration last read is refused and an older one stays in force.",
            registry=self.registry,
        )
        self._agents = Gauge(
            "migfit_agents",
            "Nodes with a GpuNode: `heard` of lately, or `silent` and not used. None without agents.",
            ["state"],
            registry=self.registry,
        )
        self._given_back = Gauge(
            "migfit_memory_given_back_bytes",
            "GPU memory that bound, rewritten pods do not hold: a whole card less the slice, of each.",
            registry=self.registry,
        )
        self._certificate_expiry = Gauge(
            "migfit_certificate_expiry_seconds",
            "Until the webhook's certificate expires, negative afterwards; NaN without a webhook.",
            registry=self.registry,
        )
        self._certificate_expiry.set(float("nan"))

    def observe(
        self,
        *,
        age_s: Callable[[], float],
        synced: Callable[[], bool],
        config_valid: Callable[[], bool],
        given_back_bytes: Callable[[], int],
    ) -> None:
        """Read these when somebody scrapes."""
        self._snapshot_age.set_function(age_s)
        self._synced.set_function(lambda: float(synced()))
        self._config_valid.set_function(lambda: float(config_valid()))
        self._given_back.set_function(given_back_bytes)

    def observe_reconciler(self, *, held: Callable[[], int], leads: Callable[[], bool]) -> None:
        """The same for what the reconciler knows."""
        self._held.set_function(held)
        self._reconciles.set_function(lambda: float(leads()))

    def observe_agents(self, heard: Callable[[], int], silent: Callable[[], int]) -> None:
        """The same for the node agents."""
        self._agents.labels("heard").set_function(heard)
        self._agents.labels("silent").set_function(silent)

    def observe_certificate(self, left_s: Callable[[], float]) -> None:
        """The same for the certificate that the webhook shows."""
        self._certificate_expiry.set_function(left_s)

    # --- what a watch tells (extender.cluster.watch.Meter) ---------------------------------------

    def listed(self, resource: str, items: int, duration_s: float) -> None:  # noqa: ARG002
        """A full list is through."""
        self.list_duration.labels(resource).set(duration_s)

    def event(self, resource: str) -> None:
        """A line of a watch was taken in."""
        self.watch_events.labels(resource).inc()

    def trouble(self, resource: str, cause: str) -> None:
        """A list or watch failed."""
        self.watch_trouble.labels(resource, cause).inc()
