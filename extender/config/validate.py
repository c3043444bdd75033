"""A parsed document against the types: every mistake, each with its path.

msgspec stops at its first error, so the document is walked here by what `msgspec.inspect` says of
the types. A document without problems converts to `MigfitConfiguration` without error.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from msgspec import inspect

from extender.config.document import Document
from extender.config.problem import Problem, below, shorten, shown
from extender.config.types import API_VERSION, KIND, MigfitConfiguration
from extender.config.values import Spelling, resource_name

MOST = 100
"""Problems after which the search ends: what has more is another kind of file."""
LEAST_DOCUMENT = f"apiVersion: {API_VERSION}\nkind: {KIND}\n"
"""The shortest valid document: all defaults."""

_LEAST = f"the least valid document is the two lines 'apiVersion: {API_VERSION}' and 'kind: {KIND}'"
_ROOT = inspect.type_info(MigfitConfiguration)


def validate(document: Document) -> tuple[Problem, ...]:
    """All that is wrong with the document, by line; empty for a good one."""
    value = document.value
    if value is None:
        return (Problem("", f"the document is empty: {_LEAST}"),)
    if not isinstance(value, dict):
        return (Problem("", f"{shown(value)} is no configuration: {_LEAST}"),)
    if value.get("kind") == "ConfigMap":
        what = "this is the ConfigMap itself: give the text that stands under its key config.yaml"
        return (Problem("", what),)
    walk = _Walk(document)
    walk.visit(value, _ROOT, "")
    for path, message in _across(value):
        walk.add(path, message)
    return tuple(sorted(walk.problems[:MOST], key=lambda problem: problem.line or 0))


class _Walk:
    """One pass over a document; collects problems."""

    def __init__(self, document: Document) -> None:
        self.problems = list(document.problems)
        self._lines = document.lines

    def add(self, path: str, message: str, *, near: str | None = None) -> None:
        """Note a problem; `near` is the path whose line to name where the own one has none."""
        line = self._lines.get(path if near is None else near)
        self.problems.append(Problem(path, message, line))

    def visit(self, value: object, kind: inspect.Type, path: str) -> None:
        if len(self.problems) >= MOST:
            return
        kind, spelling = _bare(kind)
        match kind, value:
            case inspect.StructType(), dict():
                self._struct(value, kind, path)
            case inspect.DictType(), dict():
                self._map(value, kind, path)
            case inspect.VarTupleType(), list():
                for position, entry in enumerate(value):
                    self.visit(entry, kind.item_type, below(path, position))
            case _:
                message = _scalar(value, kind, spelling)
                if message:
                    self.add(path, message)

    def _map(self, value: Mapping[str, object], kind: inspect.DictType, path: str) -> None:
        if len(value) < (kind.min_length or 0):
            self.add(path, f"empty: write at least one entry, as in {_example(kind)}")
        for key, entry in value.items():
            self.visit(key, kind.key_type, below(path, key))
            self.visit(entry, kind.value_type, below(path, key))

    def _struct(self, value: Mapping[str, object], kind: inspect.StructType, path: str) -> None:
        fields = {field.encode_name: field for field in kind.fields}
        for name, entry in value.items():
            field = fields.get(name)
            if len(self.problems) >= MOST:
                return
            if field is None:
                self.add(below(path, name), f"unknown field: {_meant(name, list(fields))}")
            elif entry is None and not field.required:
                self.add(below(path, name), "no value: write one, or leave the line out")
            else:
                self.visit(entry, field.type, below(path, name))
        for name, field in fields.items():
            if field.required and name not in value:
                what = f"write as in {name}: {_example(field.type)}" if path else _LEAST
                self.add(below(path, name), f"missing: {what}", near=path)


def _bare(kind: inspect.Type) -> tuple[inspect.Type, Spelling | None]:
    """A type without its annotations, and the spelling among them."""
    spelling = None
    while isinstance(kind, inspect.Metadata):
        spelling = spelling or (kind.extra or {}).get("spelling")
        kind = kind.type
    return kind, spelling


def _scalar(value: object, kind: inspect.Type, spelling: Spelling | None) -> str | None:
    """What is wrong with a value that is no good map or list; None when nothing is."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    for option in kinds:
        fits = _FITS.get(type(option))
        if fits and fits(value, option):
            return spelling.check(value) if spelling else None
    if not spelling:
        return f"{shown(value)}: {_expected(value, kinds)}"
    if isinstance(value, bool | int | float) and spelling.check(shown(value)) is None:
        return f"{shown(value)}: text belongs here: write '{shown(value)}', in quotes"
    return f"{shown(value)}: {spelling.say}"


def _in_range(value: object, kind: inspect.Type) -> bool:
    """Whether a number is of the type and between its bounds."""
    if not isinstance(kind, inspect.IntType | inspect.FloatType) or isinstance(value, bool):
        return False
    if not isinstance(value, int if isinstance(kind, inspect.IntType) else int | float):
        return False
    return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)


_FITS: Mapping[type[inspect.Type], Callable[[object, inspect.Type], bool]] = {
    inspect.StrType: lambda value, _: isinstance(value, str),
    inspect.BoolType: lambda value, _: isinstance(value, bool),
    inspect.IntType: _in_range,
    inspect.FloatType: _in_range,
    inspect.LiteralType: lambda value, kind: isinstance(value, str) and value in _choices(kind),
    inspect.EnumType: lambda value, kind: isinstance(value, str) and value in _choices(kind),
}


def _choices(kind: inspect.Type) -> tuple[str, ...]:
    """The words that a type allows."""
    match kind:
        case inspect.LiteralType():
            return tuple(str(word) for word in kind.values)
        case inspect.EnumType():
            return tuple(str(member.value) for member in kind.cls)
        case inspect.BoolType():
            return ("true", "false")
        case _:
            return ()


def _expected(value: object, kinds: Sequence[inspect.Type]) -> str:
    """What to write in place of a value of the wrong type or out of range."""
    choices = [word for kind in kinds for word in _choices(kind) if word]
    if len(choices) == 1:
        return f"write {choices[0]}, the only one this version reads"
    if choices:
        plain = {_folded(word): word for word in choices}
        near = get_close_matches(_folded(str(value)), plain, n=1, cutoff=0.8)
        if near:
            return f"write {plain[near[0]]}"
        return f"write {', '.join(choices[:-1])} or {choices[-1]}"
    match kinds[0]:
        case inspect.VarTupleType() if isinstance(value, str | int | float):
            return f"a list belongs here: write [{shorten(str(value))}]"
        case inspect.VarTupleType():
            return "a list belongs here: write [] or lines that begin with -"
        case inspect.IntType() as kind:
            return f"write a whole number from {kind.ge} to {kind.le}"
        case inspect.FloatType() as kind:
            return f"write a number from {kind.ge} to {kind.le}"
        case _:
            return "a map belongs here: write {} or lines of the form 'key: value'"


def _example(kind: inspect.Type) -> str:
    """A good value of a type, as YAML."""
    kind, spelling = _bare(kind)
    if spelling:
        return spelling.example
    match kind:
        case inspect.DictType():
            return f"{{{_example(kind.key_type)}: {_example(kind.value_type)}}}"
        case inspect.IntType():
            return str(kind.ge)
        case _:
            return next(iter(_choices(kind)), "{}")


def _homes(kind: inspect.Type, path: str) -> Iterator[tuple[str, str]]:
    """Every field below a type and the section it stands in: `lambda`, `consolidation`."""
    kind, _ = _bare(kind)
    if isinstance(kind, inspect.VarTupleType):
        yield from _homes(kind.item_type, f"{path}[]")
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield field.encode_name, path
            yield from _homes(field.type, below(path, field.encode_name))


_HOMES: dict[str, list[str]] = {}
for _name, _path in _homes(_ROOT, ""):
    _HOMES.setdefault(_name, []).append(_path or "the top level")


def _meant(name: str, fields: list[str]) -> str:
    """The field that was probably meant, or all that there are."""
    plain = {_folded(field): field for field in fields}
    near = get_close_matches(_folded(name), plain, n=1)
    if near:
        return f"did you mean {plain[near[0]]}?"
    if name in _HOMES:
        return f"it belongs in {' or '.join(_HOMES[name])}"
    return f"there are {', '.join(fields)}"


def _folded(word: str) -> str:
    """A word without case, - and _, which people get wrong first; cut, for the time it takes."""
    return word[:60].replace("-", "").replace("_", "").casefold()


def _across(root: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What only several values together get wrong: path and message."""
    for section in ("models", "rules", "pools"):
        entries = _list(root.get(section))
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
        yield from _repeated(names, section, ".name", "a name stands for one entry")
    yield from _repeated(_list(root.get("whenFull")), "whenFull", "", "each is tried once")
    inject = root.get("inject")
    if isinstance(inject, dict):
        for position, toleration in enumerate(_list(inject.get("tolerations"))):
            if isinstance(toleration, dict):
                yield from _toleration(toleration, f"inject.tolerations[{position}]")
    for position, pool in enumerate(_list(root.get("pools"))):
        slices = pool.get("slices") if isinstance(pool, dict) else None
        if isinstance(slices, dict):
            path = f"pools[{position}].slices"
            for name in slices:
                if name != resource_name(name) in slices:
                    what = f"the same slice as {resource_name(name)}: keep one of the two"
                    yield below(path, name), what


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _repeated(
    values: Sequence[object], path: str, suffix: str, why: str
) -> Iterator[tuple[str, str]]:
    first: dict[str, int] = {}
    for position, value in enumerate(values):
        if isinstance(value, str) and first.setdefault(value, position) != position:
            at = f"{path}[{first[value]}]{suffix}"
            yield f"{path}[{position}]{suffix}", f"{shown(value)}: also {at}: {why}"


def _toleration(given: Mapping[str, object], path: str) -> Iterator[tuple[str, str]]:
    """The API server's own rules; a pod with a toleration that breaks them would be refused."""
    exists = given.get("operator") == "Exists"
    if not given.get("key") and not exists:
        yield path, "no key: name one, or write operator: Exists to tolerate every taint"
    if exists and given.get("value"):
        yield f"{path}.value", "operator Exists takes no value: leave it out, or write Equal"
    if "tolerationSeconds" in given and given.get("effect") != "NoExecute":
        yield (
            f"{path}.tolerationSeconds",
            "only with effect: NoExecute: write that, or leave it out",
        )
