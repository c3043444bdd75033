"""`migfit config check`: is this a configuration the server would take?"""

from pathlib import Path
from typing import Any

import click

from extender.cli.output import FINDING, columns, emit, output_option, read
from extender.config import ConfigError, load
from extender.core.policy import Policy


@click.group()
def config() -> None:
    """Work with configuration files."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@output_option
def check(file: Path, output: str) -> None:
    """Check a configuration; every problem is printed at once. Exit code 1 if there is any."""
    try:
        policy = load(read(file))
    except ConfigError as error:
        problems = [{"path": p.path, "line": p.line, "message": p.message} for p in error.problems]
        lines = str(error)
        emit({"valid": False, "problems": problems}, output, lambda: lines)
        raise SystemExit(FINDING) from None
    emit({"valid": True, **_summary(policy)}, output, lambda: _table(policy))


def _summary(policy: Policy) -> dict[str, Any]:
    return {
        "revision": policy.revision,
        "mode": str(policy.mode),
        "models": len(policy.models),
        "rules": len(policy.rules),
        "pools": len(policy.pools),
    }


def _table(policy: Policy) -> str:
    summary = _summary(policy)
    return "valid\n" + columns([key.upper() for key in summary], [list(summary.values())])
