"""What was found in a cluster, as the doctor judges it: plain objects, and what could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extender.core import pod as podlib
from extender.core.policy import Policy

JSON = Mapping[str, Any]
"""An object of the API server. Nothing in it is taken for granted."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that the API server is shown, or would be. Times in seconds since the epoch."""

    where: str
    """What shows it: a Service, a URL, a Secret."""
    begins_s: float
    ends_s: float
    distrust: str
    """Why somebody who trusts the webhook's caBundle does not trust it; empty if he does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything asked once. What is named in `unread` is empty for want of knowledge."""

    namespace: str
    """migfit's own."""
    now_s: float
    """By the API server's clock, in seconds since the epoch."""
    skew_s: float = 0.0
    """How far ours is ahead of it."""
    kubernetes: str = ""
    """Version of the API server: `v1.36.3`."""
    webhook: JSON | None = None
    """The MutatingWebhookConfiguration; None: there is none."""
    certificate: Certificate | None = None
    """What the webhook shows; None: not known."""
    certificate_missing: str = ""
    """Where there should be one and is none."""
    endpoints: int | None = None
    """Ready ones behind the webhook's Service; None: it has no Service, or they were not asked for."""
    config: str | None = None
    """Where the configuration was found; None: nowhere."""
    policy: Policy | None = None
    """What it says, if it was taken."""
    problems: tuple[str, ...] = ()
    """Why it was refused."""
    scheduler_configurations: Mapping[str, JSON] = field(default_factory=dict)
    """Where it was found -> KubeSchedulerConfiguration."""
    nodes: tuple[JSON, ...] = ()
    pods: tuple[JSON, ...] = ()
    """Those that ask for any device, and those of migfit's own namespace."""
    namespaces: tuple[JSON, ...] = ()
    leases: tuple[JSON, ...] = ()
    """Those named like the scheduler of `inject.schedulerName`."""
    plugins: tuple[JSON, ...] = ()
    """DaemonSets of NVIDIA's device plugin."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """What could not be read -> why, in one line."""

    def knows(self, *kinds: str) -> bool:
        """Whether these could all be read."""
        return not any(kind in self.unread for kind in kinds)

    @property
    def gpu_resource(self) -> str:
        """What pods ask for."""
        return (self.policy or Policy()).gpu_resource


def name_of(item: JSON) -> str:
    """The object's name."""
    return podlib.text(podlib.metadata(item).get("name"))


def namespace_of(item: JSON) -> str:
    """The object's namespace."""
    return podlib.text(podlib.metadata(item).get("namespace"))
