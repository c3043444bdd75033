"""Runs with a stand-in for the server: the same flags, ports and audit lines, no decisions."""

import asyncio
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from extender.demo import process
from extender.demo.keep import arrivals, invitation
from extender.demo.kubelet import Spot
from extender.demo.loading import load, parse
from extender.demo.play import played
from extender.demo.process import Server, ServerFailedError, free_ports
from extender.demo.stage import Stage

Curl = Callable[[list[str]], Awaitable[str]]

STAND_IN = Path(__file__).parent / "stand_in.py"
SCENARIO = load("hollow-gpu")


def command(mode: str) -> tuple[str, ...]:
    return (sys.executable, str(STAND_IN), mode)


def stage(mode: str = "") -> Stage:
    return Stage(SCENARIO, "", SCENARIO.nodes, migfit=bool(mode), command=command(mode))


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


async def test_without_migfit_every_pod_takes_a_whole_card() -> None:
    async with stage() as plain:
        run = await plain.play()
    assert run.held == {
        Spot("gpu-node", 0, 0): "llm",
        Spot("gpu-node", 1, 0): "asr",
        Spot("gpu-node", 2, 0): "tts",
    }
    assert [(pod.node, pod.decision, pod.problem) for pod in run.pods] == [("gpu-node", {}, "")] * 3


async def test_with_a_server_every_pod_carries_the_servers_word() -> None:
    async with stage("ok") as served:
        run = await served.play()
    assert [(pod.decision["reason"], pod.decision["message"]) for pod in run.pods] == [
        ("Fake", "saw llm"),
        ("Fake", "saw asr"),
        ("Fake", "saw tts"),
    ]


async def test_a_run_leaves_no_process_and_no_file(temporary_folder: Path) -> None:
    async with stage("ok") as served:
        assert served.server
        pid = served.server.pid
        assert is_alive(pid)
        assert entries(temporary_folder)
    assert not is_alive(pid)
    assert not entries(temporary_folder)


async def test_a_server_that_does_not_start_is_told_with_its_last_words(
    temporary_folder: Path,
) -> None:
    with pytest.raises(ServerFailedError) as failed:
        async with stage("crash"):
            pass
    line = str(failed.value)
    assert re.fullmatch(r"the server did not start \(exit 3\): .*no way to the cluster.*", line)
    assert "\x1b" not in line
    assert not entries(temporary_folder)


async def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(ServerFailedError, match=r"did not start: .*No such file"):
        async with Stage(SCENARIO, "", SCENARIO.nodes, migfit=True, command=("/no/such/program",)):
            pass


async def test_a_server_that_never_gets_ready_is_given_up_and_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "START_S", 1.0)
    with pytest.raises(ServerFailedError, match="not ready after 1 s"):
        async with stage("unready"):
            pass


async def test_an_audit_line_that_does_not_come_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "AUDIT_S", 0.1)
    async with stage("mute") as served:
        with pytest.raises(ServerFailedError, match="no audit line for review"):
            await served.play()


async def test_a_server_that_dies_leaves_the_pods_as_they_came() -> None:
    async with stage("mortal") as served:
        run = await served.play()
    assert [pod.node for pod in run.pods] == ["gpu-node"] * 3
    assert all("the webhook did not answer" in pod.problem for pod in run.pods)


async def test_stopping_in_the_middle_of_a_start_leaves_no_process(
    temporary_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: Callable[[], list[int]],
) -> None:
    """Ctrl-C arrives as a cancellation."""
    started = asyncio.Event()

    async def never_ready(_: Server) -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Server, "_ready", never_ready)
    starting = asyncio.create_task(stage("ok").__aenter__())
    await started.wait()
    (pid,) = children()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_alive(pid)
    assert not entries(temporary_folder)


def every_child() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


@pytest.fixture
def children() -> Callable[[], list[int]]:
    """The processes started since: other tests of the session may have theirs still running."""
    before = every_child()
    return lambda: sorted(every_child() - before)


async def test_settings_of_a_real_server_do_not_reach_the_demos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIGFIT_CONFIGMAP", "a/b")
    monkeypatch.setenv("NO_PROXY", "example.org")
    environment = process._environment()
    assert "MIGFIT_CONFIGMAP" not in environment
    assert environment["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_free_ports_are_different_ones() -> None:
    assert len(set(free_ports(20))) == 20


async def test_all_layouts_are_played_and_the_last_stage_stays_up(
    children: Callable[[], list[int]],
) -> None:
    async with played(SCENARIO, command=command("ok")) as (result, last):
        assert [shown.run.name for shown in result.after] == [
            layout.name for layout in SCENARIO.layouts
        ]
        assert not result.findings
        assert last.server
        pid = last.server.pid
        assert is_alive(pid)
        assert len(children()) == 1
    assert not is_alive(pid)


async def test_one_server_that_fails_ends_the_others(
    children: Callable[[], list[int]],
) -> None:
    with pytest.raises(ServerFailedError):
        async with played(SCENARIO, command=command("crash")):
            pass
    assert children() == []


async def test_a_pod_that_is_refused_is_told() -> None:
    scenario = parse(
        "name: x\nnodes: [{name: n, product: A30, gpus: [whole]}]\n"
        "pods: [{name: a, footprint: 1G, namespace: other}]\n"
    )
    async with Stage(scenario, "", scenario.nodes, migfit=False) as plain:
        pod = scenario.pods[0]
        await plain.create(pod, "a", "a")
        await plain.create(pod, "a", "a")
    first, second = plain.outcomes
    assert (first.problem, "already exists" in second.problem) == ("", True)


async def test_the_commands_that_keep_prints_work(curl: Curl) -> None:
    async with stage("ok") as served:
        await served.play()
        text = invitation(served).replace("\\\n", " ")
        create, show, delete = (
            shlex.split(line) for line in text.splitlines() if line.startswith("  curl")
        )
        pods = arrivals(served)
        coming = asyncio.ensure_future(anext(pods))
        await asyncio.sleep(0)
        reply = await curl(create)
        assert reply.startswith("HTTP/1.1 201")
        outcome = await coming
        assert outcome
        assert re.fullmatch("asr-.....", outcome.name)
        assert outcome.footprint_bytes == 9_600_000_000
        assert outcome.decision["reason"] == "Fake"
        assert outcome.problem.startswith("pending: 0/1 nodes")
        names = [item["metadata"]["name"] for item in json.loads(await curl(show))["items"]]
        assert sorted(names) == sorted(["llm", "asr", "tts", outcome.name])
        await curl(delete)
        assert await anext(pods) is None
        await served.cluster.scheduler.settled()
        assert outcome.name in served.run().held.values()
        await pods.aclose()
