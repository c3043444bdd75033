"""What is wrong with a configuration: a `Problem` per mistake, all in one `ConfigError`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 20
"""Problems that the text of an error lists; `ConfigError.problems` has them all."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where, and one line that says what, why and what to do."""

    path: str
    """`models[2].gpuMemory`; empty for the document as a whole."""
    message: str
    line: int | None = None
    """Line in the document, from 1, where known."""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        line = f" (line {self.line})" if self.line else ""
        return f"{where}{self.message}{line}"


class ConfigError(ValueError):
    """A configuration that was refused. Its text has one line per problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"and {len(self.problems) - SHOWN} more: mend these first")
        return "\n".join(lines)


def below(path: str, key: str | int) -> str:
    """The path of an entry: `.name` and `[0]`, and `["a b"]` for keys that are no plain word."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{shown(key)}]"
    return f"{path}.{shorten(key)}" if path else shorten(key)


def shorten(text: str, longest: int = 60) -> str:
    """The text, or its beginning: a message stays one line whatever the document holds."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def shown(value: object) -> str:
    """A value as a message quotes it: text in quotes, on one line, shortened."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a map"
        case list():
            return "a list"
        case str():
            return shorten(repr(value[:80]))
        case bool():
            return "true" if value else "false"
        case _:
            return shorten(str(value))
