"""What commands print and how they fail: one line what and why, exit codes, three formats."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

FINDING = 1
BAD_INPUT = 2
UNREACHABLE = 3

DEEPEST = 200
"""Levels of nesting in a file; Kubernetes' own objects stay far below."""
_TOO_DEEP = f"it nests deeper than {DEEPEST} levels"

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to print.",
)
debug_option = click.option("--debug", is_flag=True, help="Show tracebacks.")


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """End the command with a message on stderr, each line of it under the command's name."""
    path = click.get_current_context().command_path
    for line in message.splitlines():
        click.echo(f"{path}: {line}", err=True)
    sys.exit(code)


def named(path: Path | str) -> str:
    """What messages call a file."""
    return "stdin" if str(path) == "-" else str(path)


def read(path: Path | str) -> str:
    """The text of a file, or of stdin for `-`; ends the command if it cannot be read."""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read().decode()  # strictly, whatever the locale
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        fail(f"{named(path)} cannot be read: {why}; give a readable file, or - for stdin")


def documents(path: Path | str, wanted: str) -> list[dict[str, Any]]:
    """The Kubernetes objects of a YAML or JSON file; ends the command if it holds none.

    Lists are taken apart; items of a raw `PodList`, which do not say so themselves, are Pods.

    Args:
        path: the file, or `-` for stdin.
        wanted: what to give instead, for the message.
    """
    text = read(path)
    try:
        every = _from_json(text) or _from_yaml(text)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        fail(f"{named(path)} is neither JSON nor YAML: {_where_and_what(error)}; give {wanted}")
    objects = list(_flat(every))
    if not objects or not all(isinstance(each.get("kind"), str) for each in objects):
        fail(f"{named(path)} is no list of Kubernetes objects: give {wanted}")
    return objects


def _where_and_what(error: Exception) -> str:
    """One line of what a parser says in several."""
    if isinstance(error, yaml.MarkedYAMLError) and "nesting depth" in (error.problem or ""):
        return _TOO_DEEP  # libyaml reads ahead, and has a limit of its own
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def _from_json(text: str) -> list[Any]:
    """The document, if it is JSON: much faster than as YAML, which it is too."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        return []


def _from_yaml(text: str) -> list[Any]:
    """The documents as JSON would hold them, since that is what kubectl makes of YAML."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # libyaml would overrun its stack
            raise ValueError(_TOO_DEEP)
    loaded = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    plain: list[Any] = json.loads(json.dumps(loaded, default=str))
    return plain


def _flat(found: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for each in found:
        if not isinstance(each, dict):
            if each is not None:
                yield {}
        elif str(each.get("kind")).endswith("List"):
            of = str(each["kind"]).removesuffix("List")
            items = each.get("items")
            for item in _flat(items if isinstance(items, list) else ()):
                yield {"kind": of, **item} if of and item else item
        else:
            yield each


def emit(data: object, output: str, table: Callable[[], str]) -> None:
    """Print in the format asked for. Names in the data cannot steer a terminal."""
    if output == "json":
        text = json.dumps(data, indent=2, ensure_ascii=False)
        click.echo(text if _harmless(text) else json.dumps(data, indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())
    else:
        text = table()
        click.echo(text if _harmless(text) else "".join(c if _harmless(c) else "?" for c in text))


def _harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def columns(head: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "") -> str:
    """Left-aligned columns as kubectl prints them; numbers are right-aligned."""
    cells = [list(head), *(["-" if c is None else str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        for i in range(len(head))
    ]
    lines = [
        indent
        + "   ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)
