"""The kubelet's pod-resources API, v1: gRPC on a unix socket that only root may use.

https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/#monitoring-device-plugin-resources
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from grpclib import GRPCError, Status
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import ProtocolError, StreamTerminatedError

from extender.agent import podresources_pb2 as wire
from extender.agent.assignments import (
    DRA_DRIVER,
    RESOURCES,
    Assigned,
    Assignments,
    Holder,
    Silence,
    Unknown,
)

SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
SERVICE = "/v1.PodResourcesLister"
TIMEOUT_S = 5.0

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Kubelet:
    """Asks the kubelet of this node. Nothing it answers, or fails to answer, raises.

    Args:
        socket: of the API.
        timeout_s: for each answer.
    """

    def __init__(self, socket: Path = SOCKET, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._channel: Channel | None = None

    async def ask(self) -> Assignments | Unknown:
        """Who holds which device now, or why that cannot be known."""
        try:
            listed = await self._call("List", wire.ListRequest(), wire.ListResponse)
            devices = await self._allocatable()
            return _read(listed, devices)
        except TimeoutError:
            why = f"no answer within {self._timeout_s:g} s"
            found = Unknown(Silence.TOO_SLOW, f"{self._socket}: {why}")
        except GRPCError as error:
            found = self._refused(error)
        except (FileNotFoundError, ConnectionRefusedError):
            message = f"{self._socket}: nobody listens there; is the kubelet's root elsewhere?"
            found = Unknown(Silence.NO_SOCKET, message)
        except (OSError, ProtocolError, StreamTerminatedError, DecodeError) as error:
            what = str(error) or type(error).__name__
            found = Unknown(Silence.REFUSED, f"{self._socket}: {what}"[:300])
        self.close()
        return found

    def close(self) -> None:
        """Hang up; the next call connects anew."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _allocatable(self) -> frozenset[str] | None:
        """Ids of all our devices; None from a kubelet before 1.23, or with that gate off."""
        try:
            found = await self._call(
                "GetAllocatableResources", wire.AllocatableRequest(), wire.AllocatableResponse
            )
        except GRPCError:
            return None
        return frozenset(id_ for each in _ours(found.devices) for id_ in each.ids)

    async def _call(self, method: str, request: Q, answer: type[R]) -> R:
        if self._channel is None:
            self._channel = Channel(path=str(self._socket))
        call = UnaryUnaryMethod[Q, R](self._channel, f"{SERVICE}/{method}", type(request), answer)
        # The deadline of gRPC does not cover connecting.
        async with asyncio.timeout(self._timeout_s):
            return await call(request, timeout=self._timeout_s)

    def _refused(self, error: GRPCError) -> Unknown:
        if error.status is Status.UNIMPLEMENTED:
            message = f"{self._socket}: this kubelet has no pod-resources v1 (Kubernetes 1.20)"
            return Unknown(Silence.TOO_OLD, message)
        told = f"{error.status.name}: {error.message}"[:300]
        return Unknown(Silence.REFUSED, f"{self._socket}: {told}")


def _ours(devices: Iterable[wire.Devices]) -> Iterable[wire.Devices]:
    return (each for each in devices if each.resource.startswith(RESOURCES))


def _read(listed: wire.ListResponse, allocatable: frozenset[str] | None) -> Assignments:
    assigned: list[Assigned] = []
    claims = 0
    for pod in listed.pods:
        for container in pod.containers:
            for devices in _ours(container.devices):
                holder = Holder(pod.namespace, pod.name, container.name)
                assigned += [Assigned(holder, id_) for id_ in devices.ids]
            for claim in container.claims:
                claims += sum(each.driver == DRA_DRIVER for each in claim.devices)
    return Assignments(tuple(assigned), claims, allocatable)
