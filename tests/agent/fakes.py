"""Time, a kubelet and an API server that a test moves by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from extender.agent.apiserver import ApiServerError
from extender.agent.assignments import Assigned, Assignments, Holder, Silence, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass
class Clock:
    """Both clocks of the agent."""

    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class SayingKubelet:
    """Says what the test wants; devices by the pod that holds them, all in namespace ml."""

    holders: Mapping[str, Iterable[str]] = field(default_factory=dict)
    claims: int = 0
    allocatable: frozenset[str] | None = None
    silent: bool = False

    async def ask(self) -> Assignments | Unknown:
        if self.silent:
            return Unknown(Silence.TOO_SLOW, "no answer within 5 s")
        return Assignments(
            tuple(
                Assigned(Holder("ml", pod, "main"), id_)
                for pod, ids in self.holders.items()
                for id_ in ids
            ),
            self.claims,
            self.allocatable,
        )


@dataclass
class KeepingStore:
    """Keeps every status that was written, with when."""

    clock: Clock
    written: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    kept: dict[str, Any] | None = None
    """The object, as a restarted agent finds it."""
    away: bool = False

    async def read(self) -> dict[str, Any] | None:
        if self.away:
            raise ApiServerError("https://10.0.0.1:443: Connection refused")
        return self.kept

    async def write(self, status: dict[str, Any]) -> None:
        if self.away:
            raise ApiServerError("https://10.0.0.1:443: Connection refused")
        self.written.append((self.clock(), status))
        self.kept = {"status": status}
