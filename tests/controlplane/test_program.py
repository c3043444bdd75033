from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from tests.controlplane.objects import wait_until
from tests.controlplane.program import Program, ProgramError

# Prints the id of a child that would outlive it, then waits.
WITH_A_CHILD = "sleep 600 & echo $!; wait"
DEAF = "trap '' TERM; echo ready; sleep 600 & wait; wait"


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and only waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  a kernel file, not a path of ours
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def first_line(file: Path) -> str:
    def line() -> str:
        return file.read_text().partition("\n")[0] if file.exists() else ""

    return wait_until(line, 10, f"{file} has a line")


def test_stopping_a_program_ends_what_it_started(tmp_path: Path) -> None:
    program = Program("parent", ["sh", "-c", WITH_A_CHILD], tmp_path)
    child = int(first_line(program.log))
    assert alive(child)

    assert program.stop() == -signal.SIGTERM

    wait_until(lambda: not alive(child), 5, "the child has ended")
    assert not program.running


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    program = Program("deaf", ["sh", "-c", DEAF], tmp_path)
    first_line(program.log)

    assert program.stop(grace_s=0.2) == -signal.SIGKILL


def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    program = Program("short", ["true"], tmp_path)

    assert program.stop() == program.stop()


def test_a_program_ends_with_the_test_run_that_started_it(tmp_path: Path) -> None:
    starts_one = (
        "import pathlib, signal, sys; from tests.controlplane.program import Program;"
        "print(Program('orphan', ['sleep', '600'], pathlib.Path(sys.argv[1])).pid, flush=True);"
        "signal.pause()"
    )
    command = [sys.executable, "-c", starts_one, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        orphan = int(run.stdout.readline())
        assert alive(orphan)
        run.kill()

    wait_until(lambda: not alive(orphan), 5, "the program has ended")


def test_a_program_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    started: list[Program] = []
    thread = Thread(
        target=lambda: started.append(Program("shell", ["sh", "-c", WITH_A_CHILD], tmp_path))
    )
    thread.start()
    thread.join()
    (program,) = started
    first_line(program.log)

    assert program.running
    program.stop()


def test_waiting_for_a_program_that_ended_shows_its_last_words(tmp_path: Path) -> None:
    program = Program("broken", ["sh", "-c", "echo no such flag; exit 3"], tmp_path)

    with pytest.raises(ProgramError, match=r"broken ended with 3:\nno such flag"):
        program.wait_ready(lambda: False)


def test_waiting_for_a_program_that_is_never_ready_ends(tmp_path: Path) -> None:
    program = Program("slow", ["sh", "-c", "echo loading; sleep 600"], tmp_path)
    first_line(program.log)

    with pytest.raises(ProgramError, match=r"slow was not ready within 0\.1 s:\nloading"):
        program.wait_ready(lambda: False, timeout_s=0.1)
    program.stop()


def test_a_program_gets_only_the_environment_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    program = Program("env", ["env"], tmp_path, env={"PATH": os.defpath, "ONLY": "this"})

    wait_until(lambda: not program.running, 10, "env has ended")

    assert "ONLY=this" in program.tail()
    assert "HTTPS_PROXY" not in program.tail()
