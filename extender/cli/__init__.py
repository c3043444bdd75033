"""The command line: one module per command, imported only when it is called."""

import errno
import importlib
import os
from typing import Any

import click

COMMANDS = {
    "demo": "See it work in a terminal, without a cluster.",
    "explain": "Say what would become of a pod, and why.",
    "doctor": "Find out what is wrong with an installation.",
    "config": "Check a configuration file.",
    "catalogue": "Print GPU products, their MIG profiles and layouts.",
    "serve": "Run the webhook, the extender and the operations port.",
    "agent": "Tell what the GPUs of a node hold and use; runs on each node.",
}
"""Command -> one line of help. The module `extender.cli.NAME` holds the command of the same name."""

_NO_ROOM = frozenset({errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC})


class Lazy(click.Group):
    """A group that imports a command's module when the command is used, not before."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; output that finds no room is told in one line."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            click.echo(
                f"migfit: cannot write: {error.strerror}; make room, or write elsewhere", err=True
            )
            os._exit(2)  # what is left in stdout's buffer would fail again on the way out

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Names, in order of the help text."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in COMMANDS:
            return None
        command: Any = getattr(importlib.import_module(f"extender.cli.{name}"), name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Lazy, context_settings={"auto_envvar_prefix": "MIGFIT", "max_content_width": 100}
)
@click.version_option(package_name="migfit", message="migfit %(version)s")
def main() -> None:
    """Right-size GPU pods into NVIDIA MIG slices on Kubernetes."""
