"""`migfit demo`: the production server against an embedded cluster, and the result as a picture."""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from extender.config.problem import ConfigError

if TYPE_CHECKING:
    from extender.demo.picture import Line
    from extender.demo.report import Report
    from extender.demo.scenario import Scenario
    from extender.demo.stage import Stage

FINDING = 1
BAD_INPUT = 2
INTERRUPTED = 130

NARROWEST = 40


@click.command()
@click.option(
    "--scenario",
    "name",
    default="hollow-gpu",
    show_default=True,
    metavar="FILE",
    help="What to play: a YAML file, or the name of a built-in scenario.",
)
@click.option("--keep", is_flag=True, help="Leave it running, and say how to send it a pod.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw without block characters.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="The picture, or the same as data.",
)
def demo(*, name: str, keep: bool, ascii_only: bool, output: str) -> None:
    """Show what migfit does, on a cluster that lives for a few seconds.

    Starts the production server beside an embedded Kubernetes, creates the scenario's pods over TLS,
    and draws every GPU before and after. Needs no cluster and no GPU.
    """
    from extender.demo.loading import load  # noqa: PLC0415  other commands need none of this
    from extender.demo.process import ServerFailedError  # noqa: PLC0415

    try:
        scenario = load(name)
    except ConfigError as error:
        for line in str(error).splitlines():
            click.echo(f"migfit demo: {name}: {line}", err=True)
        sys.exit(BAD_INPUT)
    try:
        code = asyncio.run(_Demo(scenario, ascii_only=ascii_only, output=output).run(keep=keep))
    except ServerFailedError as error:
        click.echo(f"migfit demo: {error}", err=True)
        sys.exit(FINDING)
    except asyncio.CancelledError:
        sys.exit(INTERRUPTED)
    sys.exit(code)


class _Demo:
    """One invocation."""

    def __init__(self, scenario: "Scenario", *, ascii_only: bool, output: str) -> None:
        from extender.demo.paint import speaks_unicode  # noqa: PLC0415
        from extender.demo.picture import ASCII, BLOCKS  # noqa: PLC0415

        self.scenario = scenario
        self.output = output
        self.ascii_only = ascii_only or not speaks_unicode(sys.stdout)
        self.glyphs = ASCII if self.ascii_only else BLOCKS
        self.width = max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)

    async def run(self, *, keep: bool) -> int:
        """Play, print, and stay if asked to; the exit code."""
        from extender.demo.play import played  # noqa: PLC0415

        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_signals_cancel())
            with _progress(f"playing {self.scenario.name}: starting migfit, creating pods"):
                result, stage = await stack.enter_async_context(played(self.scenario))
            self._print(result)
            if keep:
                await self._stay(result, stage)
        for finding in result.findings:
            click.echo(f"migfit demo: {finding}", err=True)
        return FINDING if result.findings else 0

    def _print(self, result: "Report") -> None:
        from extender.demo.report import as_json, lines  # noqa: PLC0415

        if self.output == "json":
            click.echo(json.dumps(as_json(result), indent=2, ensure_ascii=False))
        elif self.output == "yaml":
            import yaml  # noqa: PLC0415

            click.echo(
                yaml.safe_dump(as_json(result), sort_keys=False, allow_unicode=True), nl=False
            )
        else:
            self._draw(lines(result, width=self.width, glyphs=self.glyphs))

    def _draw(self, page: "list[Line]") -> None:
        """Pictures go to stdout; where stdout is for data, to stderr."""
        from extender.demo.paint import coloured, text  # noqa: PLC0415

        aside = self.output != "table"
        colour = coloured(sys.stderr if aside else sys.stdout)
        page_text = text(page, colour=colour, ascii_only=self.ascii_only)
        click.echo(page_text, nl=False, err=aside, color=colour)

    async def _stay(self, result: "Report", stage: "Stage") -> None:
        """Until Ctrl-C: show each pod that comes and each that goes."""
        from extender.demo.keep import arrivals, invitation  # noqa: PLC0415
        from extender.demo.report import now_lines  # noqa: PLC0415

        click.echo(f"\n{invitation(stage)}", nl=False, err=self.output != "table")
        with contextlib.suppress(asyncio.CancelledError):
            async with contextlib.aclosing(arrivals(stage)) as pods:
                async for pod in pods:
                    run = stage.run()
                    self._draw(now_lines(result, run, pod, width=self.width, glyphs=self.glyphs))


@contextlib.contextmanager
def _signals_cancel() -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or SIGHUP ends the current task in good order; more are ignored."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    asked = False

    def end() -> None:
        nonlocal asked
        if task is not None and not asked:
            asked = True
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """A spinner on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status(what):
        yield
