"""A kubelet's pod-resources API by Google's own gRPC, on a real unix socket.

Messages are made with the numbers of Kubernetes' `api.proto`, not with our own reading of it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

SERVICE = "v1.PodResourcesLister"
Fields = list[tuple[str, int, str]]

# Kubernetes 1.36, k8s.io/kubelet/pkg/apis/podresources/v1: (name, number, type), `*` repeated.
MESSAGES: dict[str, Fields] = {
    "NUMANode": [("ID", 1, "int64")],
    "TopologyInfo": [("nodes", 1, "*NUMANode")],
    "ContainerDevices": [
        ("resource_name", 1, "string"),
        ("device_ids", 2, "*string"),
        ("topology", 3, "TopologyInfo"),
    ],
    "ClaimResource": [
        ("driver_name", 2, "string"),
        ("pool_name", 3, "string"),
        ("device_name", 4, "string"),
    ],
    "DynamicResource": [
        ("claim_name", 2, "string"),
        ("claim_namespace", 3, "string"),
        ("claim_resources", 4, "*ClaimResource"),
    ],
    "ContainerResources": [
        ("name", 1, "string"),
        ("devices", 2, "*ContainerDevices"),
        ("cpu_ids", 3, "*int64"),
        ("dynamic_resources", 5, "*DynamicResource"),
    ],
    "PodResources": [
        ("name", 1, "string"),
        ("namespace", 2, "string"),
        ("containers", 3, "*ContainerResources"),
    ],
    "ListPodResourcesResponse": [("pod_resources", 1, "*PodResources")],
    "AllocatableResourcesResponse": [
        ("devices", 1, "*ContainerDevices"),
        ("cpu_ids", 2, "*int64"),
    ],
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/podresources.proto", package="tests", syntax="proto3"
    )
    scalars = {
        "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    }
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, number, told in fields:
            each = made.field.add(name=name, number=number)
            kind = told.lstrip("*")
            each.label = each.LABEL_OPTIONAL if kind == told else each.LABEL_REPEATED
            if kind in scalars:
                each.type = scalars[kind]
            else:
                each.type, each.type_name = each.TYPE_MESSAGE, f".tests.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.{name}"))
        for name in MESSAGES
    }


_CLASS = _classes()


def pod(
    name: str,
    devices: Mapping[str, Sequence[str]],
    *,
    namespace: str = "ml",
    container: str = "main",
    claims: Sequence[str] = (),
) -> Any:
    """A pod of one container with these devices (resource -> ids), and claims (driver names)."""
    made = {
        "name": container,
        "devices": [
            {"resource_name": resource, "device_ids": ids, "topology": {"nodes": [{"ID": 1}]}}
            for resource, ids in devices.items()
        ],
        "cpu_ids": [1, 2, 3],
        "dynamic_resources": [
            {
                "claim_name": "claim",
                "claim_namespace": namespace,
                "claim_resources": [
                    {"driver_name": driver, "pool_name": "node", "device_name": "gpu-0"}
                ],
            }
            for driver in claims
        ],
    }
    return _CLASS["PodResources"](name=name, namespace=namespace, containers=[made])


@dataclass
class FakeKubelet:
    """Serves until the context ends; its fields may change meanwhile."""

    socket: Path
    pods: list[Any] = field(default_factory=list)
    allocatable: Mapping[str, Sequence[str]] | None = field(default_factory=dict)
    """Resource -> ids; None: this kubelet has no such method."""
    delay_s: float = 0.0
    refuse: grpc.StatusCode | None = None
    service: str = SERVICE

    def __enter__(self) -> Self:
        options = (("grpc.max_send_message_length", -1),)
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        methods: dict[str, Callable[[bytes, grpc.ServicerContext], Any]] = {"List": self._list}
        if self.allocatable is not None:
            methods["GetAllocatableResources"] = self._allocatable
        handlers: dict[str, grpc.RpcMethodHandler[bytes, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=bytes,
                response_serializer=lambda answer: answer.SerializeToString(),
            )
            for name, method in methods.items()
        }
        made = grpc.method_handlers_generic_handler(self.service, handlers)
        self._server.add_generic_rpc_handlers((made,))
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _list(self, _request: bytes, context: grpc.ServicerContext) -> Any:
        if self.refuse is not None:
            context.abort(self.refuse, "not now")
        time.sleep(self.delay_s)  # a kubelet that is slow
        return _CLASS["ListPodResourcesResponse"](pod_resources=self.pods)

    def _allocatable(self, _request: bytes, _context: grpc.ServicerContext) -> Any:
        return _CLASS["AllocatableResourcesResponse"](
            devices=[
                {"resource_name": resource, "device_ids": ids}
                for resource, ids in (self.allocatable or {}).items()
            ],
            cpu_ids=[0, 1],
        )
