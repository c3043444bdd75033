import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.config.document import MAX_BYTES, MAX_DEPTH, read
from extender.config.problem import ConfigError, Problem

PRINTABLE = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=8)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(PRINTABLE, values, max_size=4),
    max_leaves=12,
)  # fmt: skip


def plain(text: str) -> object:
    """What an unquoted scalar is read as."""
    value = read(f"a: {text}").value
    assert isinstance(value, dict)
    return value["a"]


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (problem,) = caught.value.problems
    return str(problem)


@given(JSON)
def test_json_reads_as_json(value: Any) -> None:
    assert read(json.dumps(value, ensure_ascii=False)).value == value


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_is_read_or_refused_with_one_line(text: str | bytes) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        read(text)
    except ConfigError as error:
        problems = error.problems
    assert all(len(str(problem).splitlines()) == 1 for problem in problems)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "N", "On", "tRue"])
def test_only_true_and_false_are_booleans(word: str) -> None:
    assert read(f"a: {word}").value == {"a": word}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e10", 10**10),
        ("3.0", 3),
        ("-.5", -0.5),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("2026-01-01", "2026-01-01"),
        ("20%", "20%"),
        ("'1'", "1"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = plain(text)
    assert found == value
    assert type(found) is type(value)


def test_whole_numbers_are_integers_only_where_a_float_is_exact() -> None:
    number = plain("1e300")
    assert isinstance(number, float)
    assert math.isclose(number, 1e300)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert read("1: a\ntrue: b\n~: c").value == {"1": "a", "true": "b", "~": "c"}


def test_every_key_given_twice_is_named_with_both_lines() -> None:
    document = read("a: 1\nb:\n  - {c: 1, c: 2}\na: 2\n")
    assert [str(problem) for problem in document.problems] == [
        "b[0].c: given twice, first in line 3: keep one (line 3)",
        "a: given twice, first in line 1: keep one (line 4)",
    ]


def test_every_path_knows_its_line() -> None:
    assert read("a:\n  b:\n  - 1\n  - c d: 2\n").lines == {
        "": 1,
        "a": 1,
        "a.b": 2,
        "a.b[0]": 3,
        "a.b[1]": 4,
        "a.b[1]['c d']": 4,
    }


def test_a_billion_laughs_is_refused_at_the_first_anchor() -> None:
    lines = ["a0: &a0 [ha, ha]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)
    ]
    assert refusal("\n".join(lines)) == (
        "a0: anchors and aliases are not read: write the value out, or in quotes if it is text "
        "that begins with * or & (line 1)"
    )


@pytest.mark.parametrize("glob", ["*/jupyter-*", "*-notebook", "*"])
def test_a_glob_without_quotes_is_refused_and_the_quotes_are_named(glob: str) -> None:
    message = refusal(f"x:\n- {glob}\n")
    assert "quotes" in message
    assert "(line 2)" in message or "(line 3)" in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: !!python/object:os.system x", "tags are not read"),
        ("a: !!binary eA==", "tags are not read"),
        ("a: 1\n---\nb: 2\n", "a second document begins here: keep one (line 2)"),
        ("{{ .Values.config }}", "a template that was not rendered"),
        ("? [a]\n: b", "a key must be text"),
        ("a:\n\t- b", "indent with spaces"),
        ("a: [1,", "this is not YAML"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: \x00", "this is not YAML"),
        (b"a: \xff", "not UTF-8"),
        ("a: \ud800", "not UTF-8"),
        ("a: " + "[" * (MAX_DEPTH + 1), "nested more than 32 deep"),
        ("[" * 100_000, "nested more than 32 deep"),
        (" " * (MAX_BYTES + 1), "at most 1048576 (1 MiB)"),
    ],
)  # fmt: skip
def test_what_is_no_plain_yaml_document_is_refused(text: str | bytes, what: str) -> None:
    assert what in refusal(text)


def test_a_mebibyte_is_still_read() -> None:
    text = "a: '" + "é" * ((MAX_BYTES - 6) // 2) + "' "
    assert len(text.encode()) == MAX_BYTES
    assert read(text).problems == ()


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert read("a: 1".encode("utf-8-sig")).value == {"a": 1}
