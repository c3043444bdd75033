"""`migfit demo` as people start it, with the production server."""

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extender.cli.demo import demo as demo_command
from extender.demo.loading import built_in_names
from extender.demo.process import Server, ServerFailedError

Curl = Callable[[list[str]], Awaitable[str]]

HOLLOW_GPU = [
    "Before: 96.2 of 240 GB, 40 %; ASR + TTS use 23 of 160 GB, 137 GB (86 %) wasted.",
    "After: 96.2 of 160 GB, 60 %; GPU 2 free; 4,320 → 2,880 $ a month, \N{MINUS SIGN}1,440 $.",
    (
        "After: 96.2 of 120 GB, 80 %; GPU 2 and 1 x 3g.40gb free; "
        "4,320 → 2,880 $ a month, \N{MINUS SIGN}1,440 $."
    ),
]


@asynccontextmanager
async def started(*flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extender.cli", "demo", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "PYTHONIOENCODING": "utf-8"},
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def demo(*flags: str) -> tuple[int, str, str]:
    async with started(*flags) as running:
        out, err = await running.communicate()
        assert running.returncode is not None
        return running.returncode, out.decode(), err.decode()


def sentences(picture: str) -> list[str]:
    found = re.findall(r"^ ((?:Before|After): .*?\.)$", picture, re.MULTILINE | re.DOTALL)
    return [" ".join(sentence.split()) for sentence in found]


async def test_the_hollow_gpu_case_comes_to_the_figures_it_is_known_for() -> None:
    code, out, err = await demo()
    assert (code, err) == (0, "")
    assert sentences(out) == HOLLOW_GPU
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80


async def test_as_data_it_has_the_decisions_of_the_served_process() -> None:
    code, out, err = await demo("-o", "json")
    assert (code, err) == (0, "")
    halves, quarters = json.loads(out)["after"]
    assert [to(pod) for pod in halves["pods"]] == [
        ("TooLarge", None),
        ("Fits", "nvidia.com/mig-3g.40gb"),
        ("Fits", "nvidia.com/mig-3g.40gb"),
    ]
    assert [to(pod) for pod in quarters["pods"]] == [
        ("TooLarge", None),
        ("Fits", "nvidia.com/mig-2g.20gb"),
        ("Fits", "nvidia.com/mig-2g.20gb"),
    ]
    assert quarters["freeSlices"] == {"3g.40gb": 1}
    assert all(pod["decision"]["id"] for pod in quarters["pods"])
    assert any("migfit" in warning for warning in quarters["pods"][1]["warnings"])


def to(pod: dict[str, Any]) -> tuple[str, str | None]:
    return pod["decision"]["reason"], pod["decision"]["containers"][0]["to"]


@pytest.mark.parametrize("name", built_in_names()[1:])
async def test_every_other_built_in_scenario_plays_also_in_ascii(name: str) -> None:
    code, out, err = await demo("--scenario", name, "--ascii")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert out.startswith(f"{name}: ")


async def test_the_extender_keeps_one_node_free() -> None:
    _, out, _ = await demo("--scenario", "small-models", "-o", "json")
    data = json.loads(out)
    assert {pod["node"] for pod in data["before"]["pods"]} == {"node-a", "node-b", None}
    assert {pod["node"] for pod in data["after"][0]["pods"]} == {"node-a"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nnodes: []\npods: []\n", "nodes: Expected array of length >= 1 (line 2)"),
        ("kind: Pod\n", "Object contains unknown field kind (line 1)"),
        (
            "nodes: [\n",
            "this is not YAML: while parsing a flow node; did not find expected node content (line 2)",
        ),
        ("", "the document is empty: write name, nodes, pods, title, layouts, price, config"),
    ],
)
async def test_a_scenario_with_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    code, out, err = await demo("--scenario", str(path))
    assert (code, out) == (2, "")
    assert err == f"migfit demo: {path}: {said}\n"


def test_a_server_that_does_not_start_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise ServerFailedError("the server did not start (exit 3): no way to the cluster")

    monkeypatch.setattr(Server, "start", fail)
    result = CliRunner().invoke(demo_command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "migfit demo: the server did not start (exit 3): no way to the cluster\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_kept_it_takes_a_pod_by_its_own_curl_command_and_ends_without_a_trace(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curl: Curl
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with started("--keep") as running:
        assert running.stdout
        text = await until(running.stdout, "Ctrl-C ends it.")
        (child,) = children(running.pid)
        words = text.replace("\\\n", " ").split("\n  curl", 1)[1].splitlines()[0]
        assert (await curl(["curl", *shlex.split(words)])).startswith("HTTP/1.1 201")
        assert "FitsLarger" in await until(running.stdout, "rewritten")
        running.send_signal(number)
        assert await running.wait() == 0
    assert left_behind(tmp_path, child) == []


async def test_interrupted_while_it_plays_it_ends_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with started() as running:
        async with asyncio.timeout(60):
            while not (found := children(running.pid)):  # noqa: ASYNC110  no event tells us
                await asyncio.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert await running.wait() == 130
    assert left_behind(tmp_path, *found) == []


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in found.split()]


def left_behind(folder: Path, *pids: int) -> list[Path]:
    processes = [Path(f"/proc/{pid}") for pid in pids]
    return [path for path in processes if path.exists()] + list(folder.glob("migfit-demo-*"))


async def until(stream: asyncio.StreamReader, word: str) -> str:
    """What the stream says, up to the first line that holds the word."""
    text = ""
    async with asyncio.timeout(60):
        while word not in text:
            line = await stream.readline()
            assert line, f"it ended before it said {word!r}: {text}"
            text += line.decode()
    return text
