"""Logs on stderr: one JSON object a line for machines, nothing that a terminal obeys for people."""

import json
import os
import pty
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

PROGRAM = """
import logging, structlog
from extender.server.logs import configure
configure()
log = structlog.get_logger("x")
pod = "a\\nlevel=error forged\\r\\x1b[31mred\\x9b\\u2028b"
log.debug("not shown")
log.info("hello", pod=pod, count=3, long="x" * 5000)
logging.getLogger("aiohttp").warning("from %s", pod)
def fail(secret):
    raise ValueError("broken by " + pod)
try:
    fail("a-secret-value")
except ValueError:
    log.exception("failed")
    logging.getLogger("aiohttp").exception("failed elsewhere")
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """What the program logs into a pipe."""
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert ran.stdout == b""
    return [json.loads(line) for line in ran.stderr.decode().splitlines()]


def test_every_line_is_an_object_of_its_own(lines: list[dict[str, Any]]) -> None:
    assert [line["event"].split()[0] for line in lines] == ["hello", "from", "failed", "failed"]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error"]
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert lines[0]["count"] == 3


def test_every_line_is_written_at_once_for_where_the_audit_goes_to_the_same_file() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        command = [sys.executable, "-c", PROGRAM]
        subprocess.run(command, stderr=theirs.fileno(), check=True, timeout=60)
        ours.setblocking(False)
        writes = []
        with suppress(BlockingIOError):
            while True:
                writes.append(ours.recv(1 << 16))

    assert len(writes) == 4
    assert all(write.endswith(b"\n") and write.count(b"\n") == 1 for write in writes)


def test_values_from_outside_are_kept_whole_up_to_a_bound(lines: list[dict[str, Any]]) -> None:
    assert lines[0]["pod"] == "a\nlevel=error forged\r\x1b[31mred\x9b\u2028b"
    assert len(lines[0]["long"]) < 2100


def test_tracebacks_are_in_the_line_and_show_no_values(lines: list[dict[str, Any]]) -> None:
    for line in lines[2:]:
        assert "ValueError: broken" in line["exception"]
        assert "a-secret-value" not in line["exception"].replace('fail("a-secret-value")', "")


def test_a_terminal_is_sent_nothing_that_it_would_obey() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs) as process:
        os.close(theirs)
        output = b""
        try:
            while piece := os.read(ours, 1 << 16):
                output += piece
        except OSError:  # how a terminal ends on Linux
            pass
        finally:
            os.close(ours)
        assert process.wait(60) == 0

    text = output.decode().replace("\r\n", "\n")
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not any(line.startswith("level=error") for line in text.splitlines())
    assert "hello" in text
    assert "ValueError: broken" in text
    assert "secret = " not in text  # locals
