"""YAML text -> plain values and the line of each, the strict way.

YAML 1.2's core schema: only `true` and `false` are booleans, so `on` and `no` stay text, and `010`
is ten. Whole numbers are integers however they are written (`1e3`, `3.0`), as in JSON. Refused:
keys given twice, anchors and aliases (a few lines could unfold to gigabytes), tags, a second
document, more than 1 MiB. Built from parser events, so depth is bounded and nothing recurses.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Never

import yaml

from extender.config.problem import ConfigError, Problem, below, shorten, shown

MAX_BYTES = 1 << 20
"""What a ConfigMap may hold."""
MAX_DEPTH = 32
"""Nesting; a valid configuration needs six levels."""

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_BASED = re.compile(r"0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,300}|[0-9]{1,300}(\.[0-9]{0,300})?)([eE][-+]?[0-9]{1,9})?")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_EXACT = 1 << 53
"""Up to here a float is exact about whole numbers."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document: JSON values (maps, lists, text, numbers, booleans, None)."""

    value: object
    lines: Mapping[str, int]
    """Path -> line, from 1."""
    problems: tuple[Problem, ...]
    """Keys given twice; of their values `value` has the last."""


@dataclass(slots=True)
class _Frame:
    """A map or list that is not closed yet."""

    path: str
    into: dict[str, object] | list[object]
    key: str | None = None
    """In a map: the key whose value comes next."""
    key_lines: dict[str, int] = field(default_factory=dict)


def read(text: str | bytes) -> Document:
    """Parse one YAML document (JSON is YAML too).

    Raises:
        ConfigError: the text is too large, not UTF-8, not YAML, or uses what is refused above.
    """
    builder = _Builder()
    try:
        for event in yaml.parse(_decoded(text), Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if "nesting depth" in (
            error.problem or ""
        ):  # libyaml reads ahead, and has a limit of its own
            _refuse_depth(mark.line + 1 if mark else None)
        what = "; ".join(part for part in (error.context, error.problem) if part)
        if "scanning an alias" in what:
            what += '; a glob that begins with * needs quotes: "*/name"'
        elif "cannot start any token" in what:
            what += "; indent with spaces, and quote text that begins with @, % or `"
        _refuse(f"this is not YAML: {what}", mark.line + 1 if mark else None)
    except yaml.YAMLError as error:
        _refuse(f"this is not YAML: {shorten(str(error).splitlines()[0], 120)}")
    return Document(builder.root, builder.lines, tuple(builder.problems))


def scalar(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar under YAML 1.2's core schema, numbers as JSON has them."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return int(number) if number.is_integer() and abs(number) < _EXACT else number
    return text


class _Builder:
    """Takes parser events one by one; holds the tree so far."""

    def __init__(self) -> None:
        self.root: object = None
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self._open: list[_Frame] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        match event:
            case yaml.AliasEvent() | yaml.NodeEvent(anchor=str()):
                _refuse(
                    f"{shorten(str(event.anchor))}: anchors and aliases are not read: write the "
                    "value out, or in quotes if it is text that begins with * or &",
                    line,
                )
            case yaml.ScalarEvent(tag=str() as tag) | yaml.CollectionStartEvent(tag=str() as tag):
                _refuse(f"{shown(tag)}: tags are not read: leave it out", line)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    _refuse("a second document begins here: keep one", line)
            case yaml.ScalarEvent():
                if self._open and isinstance(self._open[-1].into, dict) and self._key_next():
                    self._take_key(event.value, line)
                else:
                    self._place(scalar(event.value) if event.implicit[0] else event.value, line)
            case yaml.MappingStartEvent():
                self._begin({}, line)
            case yaml.SequenceStartEvent():
                self._begin([], line)
            case yaml.CollectionEndEvent():
                self._open.pop()

    def _key_next(self) -> bool:
        return self._open[-1].key is None

    def _take_key(self, key: str, line: int) -> None:
        """Keys are text whatever they look like, as in JSON."""
        frame = self._open[-1]
        if key in frame.key_lines:
            message = f"given twice, first in line {frame.key_lines[key]}: keep one"
            self.problems.append(Problem(below(frame.path, key), message, line))
        frame.key_lines[key] = line
        frame.key = key

    def _begin(self, into: dict[str, object] | list[object], line: int) -> None:
        if len(self._open) >= MAX_DEPTH:
            _refuse_depth(line)
        self._open.append(_Frame(self._place(into, line), into))

    def _place(self, value: object, line: int) -> str:
        """Put a value where the open map or list expects it; its path."""
        path = ""
        if not self._open:
            self.root = value
        else:
            frame = self._open[-1]
            if isinstance(frame.into, list):
                path = below(frame.path, len(frame.into))
                frame.into.append(value)
            elif frame.key is None:
                _refuse(
                    "a key must be text; a template that was not rendered looks like this", line
                )
            else:
                path = below(frame.path, frame.key)
                line = frame.key_lines[frame.key]
                frame.into[frame.key] = value
                frame.key = None
        self.lines[path] = line
        return path


def _decoded(text: str | bytes) -> str:
    try:
        raw = text.encode() if isinstance(text, str) else text
        if len(raw) > MAX_BYTES:
            _refuse(f"{len(raw)} bytes: a configuration has at most {MAX_BYTES} (1 MiB)")
        return raw.decode().removeprefix("\ufeff")
    except UnicodeError:
        _refuse("this is not UTF-8 text: save it as UTF-8")


def _refuse(message: str, line: int | None = None) -> Never:
    raise ConfigError([Problem("", message, line)]) from None


def _refuse_depth(line: int | None) -> Never:
    _refuse(f"nested more than {MAX_DEPTH} deep: no field of ours is", line)
