"""What pages name beside whole commands: values of the chart, flags, variables. Each of them exists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from docs._chart import values
from extender.cli import main
from tests.docs.test_docs import CODE_SPAN, PAGES, prose, shell_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

OF_KUBECTL_AND_HELM = {"--dry-run", "--reuse-values"}
OF_INFERENCE_SERVERS = {
    "--gpu-memory-utilization",
    "--kv-cache-memory-bytes",
    "--max-model-len",
    "--max-num-batched-tokens",
    "--max-num-seqs",
    "--mem-fraction-static",
}
OF_BENCHES = {"--resume", "--write"}


def parameters(command: click.Command = main) -> Iterator[click.Parameter]:
    """Of all commands."""
    yield from command.params
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from parameters(found)


def spans() -> set[str]:
    """All code in running text."""
    return {span for page in PAGES for span in CODE_SPAN.findall(prose(page))}


def test_every_value_of_the_chart_that_a_page_names_is_one() -> None:
    known = {value.path for value in values()}
    sections = {path for path in known if "." not in path}
    named = {
        span.partition(":")[0]
        for span in spans()
        if re.fullmatch(r"\w+(\.\w+)+(: .*)?", span) and not span.endswith(".yaml")
    }
    named |= {
        path
        for _, line in shell_lines()
        for path in re.findall(r"--set[ =]([\w.]+)=", line)
        if "." in path
    }

    of_the_chart = {path for path in named if path.partition(".")[0] in sections}
    assert len(of_the_chart) > 20
    assert of_the_chart <= known


def test_every_flag_that_a_page_names_is_one() -> None:
    known = {option for parameter in parameters() for option in parameter.opts}
    named = {found[0] for span in spans() if (found := re.match(r"--[a-z][a-z-]*", span))}

    assert len(named & known) > 5
    assert named <= known | OF_KUBECTL_AND_HELM | OF_INFERENCE_SERVERS | OF_BENCHES


def test_every_variable_of_ours_is_named_and_no_other() -> None:
    known = {
        variable
        for parameter in parameters()
        for variable in ([parameter.envvar] if isinstance(parameter.envvar, str) else ())
    }
    named = {
        variable
        for page in PAGES
        for variable in re.findall(r"\bMIGFIT_[A-Z_]+", page.read_text(encoding="utf-8"))
    }

    assert named == known
