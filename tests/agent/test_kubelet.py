"""Our gRPC client against Google's server, on a unix socket."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from extender.agent.assignments import Assigned, Assignments, Holder, Silence, Unknown
from extender.agent.kubelet import Kubelet
from tests.agent.podresources import FakeKubelet, pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
SLICE = "nvidia.com/mig-1g.10gb"


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "kubelet.sock"


@pytest.fixture
async def kubelet(socket: Path) -> AsyncIterator[Kubelet]:
    asked = Kubelet(socket)
    yield asked
    asked.close()


async def known(kubelet: Kubelet) -> Assignments:
    found = await kubelet.ask()
    assert isinstance(found, Assignments), found
    return found


async def test_every_gpu_device_of_every_container_is_told_and_no_other_device(
    kubelet: Kubelet, socket: Path
) -> None:
    pods = [
        pod("asr-0", {SLICE: ["MIG-1"], "intel.com/qat": ["qat-7"]}),
        pod("llm-0", {"nvidia.com/gpu": ["GPU-1", "GPU-2"]}, namespace="prod", container="vllm"),
        pod("web-0", {}),
    ]
    with FakeKubelet(socket, pods, {SLICE: ["MIG-1", "MIG-2"], "intel.com/qat": ["qat-7"]}):
        found = await known(kubelet)

    llm = Holder("prod", "llm-0", "vllm")
    assert found == Assignments(
        assigned=(
            Assigned(Holder("ml", "asr-0", "main"), "MIG-1"),
            Assigned(llm, "GPU-1"),
            Assigned(llm, "GPU-2"),
        ),
        claims=0,
        allocatable=frozenset({"MIG-1", "MIG-2"}),
    )


async def test_devices_held_by_claims_are_counted_since_they_have_no_ids(
    kubelet: Kubelet, socket: Path
) -> None:
    pods = [pod("a", {}, claims=["gpu.nvidia.com"]), pod("b", {}, claims=["nic.example.com"])]
    with FakeKubelet(socket, pods):
        found = await known(kubelet)

    assert (found.assigned, found.claims) == ((), 1)


async def test_a_kubelet_that_cannot_say_what_is_allocatable_still_says_who_holds_what(
    kubelet: Kubelet, socket: Path
) -> None:
    with FakeKubelet(socket, [pod("a", {SLICE: ["MIG-1"]})], allocatable=None):
        found = await known(kubelet)

    assert (len(found.assigned), found.allocatable) == (1, None)


async def test_ten_thousand_pods_are_read(kubelet: Kubelet, socket: Path) -> None:
    pods = [pod(f"{'long-name-' * 10}{n}", {SLICE: [f"MIG-{n}"]}) for n in range(10_000)]
    with FakeKubelet(socket, pods):
        found = await known(kubelet)

    assert [each.device for each in found.assigned] == [f"MIG-{n}" for n in range(10_000)]


async def test_a_missing_socket_is_named_and_found_again_once_it_is_there(
    kubelet: Kubelet, socket: Path
) -> None:
    found = await kubelet.ask()

    assert isinstance(found, Unknown)
    assert found.reason is Silence.NO_SOCKET
    assert str(socket) in found.message
    with FakeKubelet(socket):
        assert await known(kubelet) == Assignments(allocatable=frozenset())


async def test_a_kubelet_that_was_restarted_is_asked_again(kubelet: Kubelet, socket: Path) -> None:
    with FakeKubelet(socket, [pod("a", {SLICE: ["MIG-1"]})]):
        await known(kubelet)
    assert isinstance(await kubelet.ask(), Unknown)

    with FakeKubelet(socket, [pod("b", {SLICE: ["MIG-1"]})]):
        found = await known(kubelet)

    assert [each.holder.pod for each in found.assigned] == ["b"]


async def test_a_kubelet_that_is_too_slow_is_not_waited_for(socket: Path) -> None:
    kubelet = Kubelet(socket, timeout_s=0.2)
    with FakeKubelet(socket, delay_s=1.5):
        found = await kubelet.ask()

    assert isinstance(found, Unknown)
    assert (found.reason, "within 0.2 s" in found.message) == (Silence.TOO_SLOW, True)


async def test_a_kubelet_that_is_too_old_is_told_from_one_that_refuses(
    kubelet: Kubelet, socket: Path
) -> None:
    with FakeKubelet(socket, service="v1alpha1.PodResourcesLister"):
        old = await kubelet.ask()
    with FakeKubelet(socket, refuse=grpc.StatusCode.RESOURCE_EXHAUSTED):
        busy = await kubelet.ask()

    assert isinstance(old, Unknown)
    assert old.reason is Silence.TOO_OLD
    assert isinstance(busy, Unknown)
    assert busy.reason is Silence.REFUSED
    assert "RESOURCE_EXHAUSTED: not now" in busy.message


async def test_whoever_else_listens_there_is_no_kubelet(kubelet: Kubelet, socket: Path) -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(babble, socket):
        found = await kubelet.ask()

    assert isinstance(found, Unknown)
    assert found.reason is Silence.REFUSED


def test_the_messages_are_what_protoc_makes_of_the_proto_file(tmp_path: Path) -> None:
    source = "extender/agent/podresources.proto"
    made = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]

    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", *made, source],
        cwd=ROOT,
        check=True,
        timeout=60,
    )

    for name in ("podresources_pb2.py", "podresources_pb2.pyi"):
        fresh = (tmp_path / "extender/agent" / name).read_text()
        assert fresh == (ROOT / "extender/agent" / name).read_text(), "run `make podresources`"
