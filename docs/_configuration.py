"""The page about the configuration, made from its types."""  # noqa: INP001  pages, no package

import json
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import inspect

from docs._markdown import NOTE, code, table
from extender.config import DEFAULT_DOCUMENT
from extender.config.schema import field_docs
from extender.config.types import MigfitConfiguration
from extender.config.values import Spelling

_COUNTABLE = 1 << 32
"""A bound above this one is no bound that anybody would want to read."""


def configuration() -> str:
    """docs/reference/configuration.md."""
    sections = "\n".join(_section(path, name, kind) for path, name, kind in _sections())
    return (
        f"{NOTE}# Configuration\n\n"
        "The key `config.yaml` of the ConfigMap `migfit-config`, or the file of `--config`. A change\n"
        "is in force within seconds, without a restart. A change with a mistake is refused as a whole:\n"
        "the last good one stays, every mistake is logged with its path, `migfit_config_valid` goes to\n"
        "0, and the ConfigMap gets an Event, `ConfigurationRefused`. At start a mistake ends the\n"
        "process with exit code 2. Check before you apply:\n\n"
        "```console\n$ migfit config check config.yaml\n"
        "$ kubectl -n migfit-system get configmap migfit-config -o jsonpath='{.data.config\\.yaml}' | "
        "migfit config check -\n```\n\n"
        "For editors there is a [JSON Schema](config.schema.json). The least document is its first two\n"
        "lines; this one says nothing but the defaults:\n\n"
        f"```yaml\n{DEFAULT_DOCUMENT}```\n\n{sections}"
    )


def _bare(kind: inspect.Type) -> tuple[inspect.Type, Spelling | None]:
    """A type without its annotations, and the spelling among them."""
    spelling = None
    while isinstance(kind, inspect.Metadata):
        spelling = spelling or (kind.extra or {}).get("spelling")
        kind = kind.type
    return kind, spelling


def _sections(
    kind: inspect.Type | None = None, path: str = ""
) -> Iterator[tuple[str, str, inspect.StructType]]:
    """Every part of the configuration: path, name of its type, type; outer ones first."""
    kind, _ = _bare(inspect.type_info(MigfitConfiguration) if kind is None else kind)
    if isinstance(kind, inspect.VarTupleType):
        yield from _sections(kind.item_type, f"{path}[]")
    elif isinstance(kind, inspect.StructType):
        yield path, kind.cls.__name__, kind
        for field in kind.fields:
            below = f"{path}.{field.encode_name}" if path else field.encode_name
            yield from _sections(field.type, below)


def fields() -> list[str]:
    """The path of every field: `inject.tolerations[].key`."""
    return [
        f"{path}.{field.encode_name}" if path else field.encode_name
        for path, _, kind in _sections()
        for field in kind.fields
    ]


def _section(path: str, name: str, kind: inspect.StructType) -> str:
    docs = field_docs()[name]
    rows = [
        [
            code(f"{path}.{field.encode_name}" if path else field.encode_name),
            _value(field.type, path, field.encode_name),
            _default(field),
            docs[field.encode_name],
        ]
        for field in kind.fields
    ]
    about = " ".join((kind.cls.__doc__ or "").split())
    head = code(path) if path else "Top level"
    return f"## {head}\n\n{about}\n\n" + table(["field", "value", "default", "meaning"], rows)


def _value(kind: inspect.Type, path: str, name: str) -> str:
    """What may stand there: the words to choose from, the range, or an example."""
    plain, spelling = _bare(kind)
    below = f"{path}.{name}" if path else name
    match plain:
        case inspect.StructType():
            return "map, below"
        case inspect.VarTupleType() if isinstance(_bare(plain.item_type)[0], inspect.StructType):
            return f"list of `{below}[]`, below"
        case inspect.IntType() | inspect.FloatType():
            most = "or more" if (plain.le or 0) > _COUNTABLE else f"to {plain.le}"
            return f"{plain.ge} {most}"
        case inspect.VarTupleType() if words := _words(plain.item_type):
            return f"list of {_or(words)}"
    if spelling is None and (words := _words(plain)):
        return _or(words)
    return f"as in {code(_example(kind))}"


def _words(kind: inspect.Type) -> list[str]:
    match kind:
        case inspect.EnumType():
            return [str(word.value) for word in kind.cls]
        case inspect.LiteralType():
            return [str(word) for word in kind.values if word]
        case inspect.BoolType():
            return ["true", "false"]
        case inspect.UnionType():
            return [word for each in kind.types for word in _words(each)]
        case _:
            return []


def _or(words: Sequence[str]) -> str:
    *most, last = map(code, words)
    return f"{', '.join(most)} or {last}" if most else last


def _example(kind: inspect.Type) -> str:
    plain, spelling = _bare(kind)
    if spelling is not None:
        return spelling.example
    match plain:
        case inspect.VarTupleType():
            return f"[{_example(plain.item_type)}]"
        case inspect.DictType():
            return f"{{{_example(plain.key_type)}: {_example(plain.value_type)}}}"
        case inspect.IntType():
            return str(plain.ge)
        case _:
            raise AssertionError(plain)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory() if callable(field.default_factory) else msgspec.UNSET
    if value is msgspec.UNSET:
        return "none"
    if isinstance(value, msgspec.Struct):
        return ""
    if value == "":
        return '`""`'
    plain = msgspec.to_builtins(value)
    return code(json.dumps(0 if plain == 0.0 and plain is not False else plain).replace('"', ""))
