"""Inked lines to a terminal: plain text, or colour through rich, which is imported only then."""

import os
from collections.abc import Iterable
from io import StringIO
from typing import TextIO

from extender.demo.picture import Ink, Line

STYLES = {
    Ink.PLAIN: "",
    Ink.HEADING: "bold",
    Ink.NAME: "bold",
    Ink.USED: "green",
    Ink.UNTOUCHED: "yellow",
    Ink.UNKNOWN: "magenta",
    Ink.FREE: "dim",
    Ink.EDGE: "",
    Ink.QUIET: "dim",
    Ink.GOOD: "bold green",
    Ink.BAD: "bold red",
}

_IN_ASCII = str.maketrans(
    {"→": "->", "\N{MINUS SIGN}": "-", "\N{PLUS-MINUS SIGN}": "+/-", "…": "~"}
)


def coloured(stream: TextIO) -> bool:
    """Whether colour is wanted: a terminal, and neither NO_COLOR nor TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def speaks_unicode(stream: TextIO) -> bool:
    """Whether the stream can carry the blocks of a bar."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def text(lines: Iterable[Line], *, colour: bool = False, ascii_only: bool = False) -> str:
    """The lines as text, each ended by a line feed."""
    plain = [[(_spelled(part, ascii_only=ascii_only), ink) for part, ink in line] for line in lines]
    if not colour:
        return "".join("".join(part for part, _ in line).rstrip() + "\n" for line in plain)
    from rich.console import Console  # noqa: PLC0415  costs 50 ms, and only colour needs it
    from rich.text import Text  # noqa: PLC0415

    console = Console(
        file=StringIO(), force_terminal=True, color_system="standard", width=1000, highlight=False
    )
    with console.capture() as capture:
        for line in plain:
            console.print(Text.assemble(*((part, STYLES[ink]) for part, ink in line)))
    return capture.get()


def _spelled(part: str, *, ascii_only: bool) -> str:
    """The text without what could steer a terminal; in ASCII where that is asked for."""
    shown = "".join(c if c.isprintable() else " " for c in part)
    if ascii_only:
        return shown.translate(_IN_ASCII).encode("ascii", "replace").decode()
    return shown
