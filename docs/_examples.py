"""Blocks in hand-written pages that show what a command really prints."""  # noqa: INP001  pages, no package

import os
import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from click.testing import CliRunner

from extender.cli import main

ROOT = Path(__file__).parents[1]
DEMO_COLUMNS = 100

_EXAMPLE = re.compile(r"(<!-- example: (?P<command>.+?) -->\n).*?(<!-- /example -->)", re.DOTALL)
_DEMO = re.compile(r"(<!-- demo: .+? -->\n).*?(<!-- /demo -->)", re.DOTALL)


def with_examples(page: str) -> str:
    """The page with every `<!-- example: COMMAND -->` block as the command prints it now."""
    return _EXAMPLE.sub(
        lambda found: (
            f"{found[1]}```console\n$ {found['command']}\n{_printed(found['command'])}```\n{found[3]}"
        ),
        page,
    )


def _printed(command: str) -> str:
    name, *words = shlex.split(command)
    with chdir(ROOT):
        result = CliRunner().invoke(main, words, prog_name=name)
    if result.exit_code:
        raise RuntimeError(f"{command}: {result.output}") from result.exception
    return result.stdout


def commands_shown(page: str) -> list[str]:
    """The commands of a page's example blocks."""
    return [found["command"] for found in _EXAMPLE.finditer(page)]


def with_demo(page: str, picture: str) -> str:
    """The page with a picture between its `<!-- demo: … -->` and `<!-- /demo -->`."""
    return _DEMO.sub(lambda found: f"{found[1]}```text\n{picture}```\n{found[2]}", page)


def demo() -> str:
    """What `migfit demo` draws, 100 columns wide and without colour. Takes some seconds."""
    return subprocess.run(
        [sys.executable, "-m", "extender.cli", "demo"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(DEMO_COLUMNS), "NO_COLOR": "1", "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=100,
    ).stdout
