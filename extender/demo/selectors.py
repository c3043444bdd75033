"""Field and label selectors of list and watch requests, as predicates on objects."""

from collections.abc import Callable, Mapping
from typing import Any

from extender.demo.refusal import Refused

Predicate = Callable[[Mapping[str, Any]], bool]


def selection(fields: str, labels: str) -> Predicate:
    """Whether an object is selected by `fieldSelector` and `labelSelector`; empty ones select all.

    Fields are compared as text, a missing one as empty, as the API server does. Labels know
    equality and existence; set expressions (`in`, `notin`) are refused.

    Raises:
        Refused: 400, a selector that does not parse.
    """
    terms = [
        *(_field_term(part) for part in fields.split(",") if part.strip()),
        *(_label_term(part) for part in labels.split(",") if part.strip()),
    ]
    return lambda item: all(term(item) for term in terms)


def _split(part: str) -> tuple[str, str | None, bool]:
    """`key`, `value`, and whether they must be equal; no value for a bare key."""
    for operator, equal in (("!=", False), ("==", True), ("=", True)):
        key, found, value = part.partition(operator)
        if found:
            return key.strip(), value.strip(), equal
    return part.strip(), None, True


def _field_term(part: str) -> Predicate:
    path, value, equal = _split(part)
    if value is None or not path:
        raise Refused.bad_request(f"field selector {part!r}: write path=value or path!=value")

    def term(item: Mapping[str, Any]) -> bool:
        found: Any = item
        for step in path.split("."):
            found = found.get(step) if isinstance(found, dict) else None
        return (("" if found is None else str(found)) == value) is equal

    return term


def _label_term(part: str) -> Predicate:
    key, value, equal = _split(part)
    if value is None:
        equal, key = not key.startswith("!"), key.removeprefix("!")
    if not key or " " in key or "(" in key:
        raise Refused.bad_request(f"label selector {part!r}: write key=value, key!=value or key")

    def term(item: Mapping[str, Any]) -> bool:
        labels = item.get("metadata", {}).get("labels") or {}
        matched = key in labels if value is None else labels.get(key) == value
        return bool(matched) is equal

    return term
