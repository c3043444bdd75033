"""A program beside a test: output in a file, stopped by its handle, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

POLL_S = 0.02

# The kernel kills the program when the thread that started it ends, also when pytest is killed. The
# setting survives execve, so a small Python makes it and becomes the program: a preexec_fn would be
# simpler, but Python 3.12 warns of one as soon as there is a second thread.
_LAUNCH = """
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGKILL = 1, 9
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the test that started this is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""
# That thread must therefore outlive every program: one that does nothing else.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


class ProgramError(Exception):
    """A program ended or did not become ready; the message carries the end of its output."""


class Program:
    """One running program in a session of its own."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | os.PathLike[str]],
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        url: str = "",
    ) -> None:
        """Starts `argv`; output is appended to `folder/name.log`, `env` replaces ours."""
        self.name = name
        self.url = url
        self.log = folder / f"{name}.log"
        self._stopped = False
        command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *argv]
        with self.log.open("ab") as log:
            self._popen = _STARTER.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=folder,
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int:
        """The process id, which is also that of its session and process group."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._popen.poll() is None

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Polls until `ready()`; ProgramError if the program ends first or the time is over."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise ProgramError(
                    f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}"
                )
            if time.monotonic() > deadline_s:
                msg = f"{self.name} was not ready within {timeout_s:g} s:\n{self.tail()}"
                raise ProgramError(msg)
            time.sleep(POLL_S)

    def tail(self, lines: int = 40) -> str:
        """The last lines of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, grace_s: float = 10.0) -> int:
        """Ends the whole group: SIGTERM, then SIGKILL after `grace_s`; gives the exit status."""
        if self._stopped:  # by now another group may have the number
            return self._popen.wait()
        self._stopped = True
        if grace_s > 0:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace_s)
        self._signal(signal.SIGKILL)
        return self._popen.wait()

    def kill(self) -> None:
        """SIGKILL to the whole group: how a crash looks."""
        self.stop(grace_s=0)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
