"""The page on reliability against the suite: each row names a test that is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/reference/reliability.md"
NAMED = re.compile(r"\[`(test_\w+)`\]\(([^)]+)\)")
PAINS = [*range(1, 17), 30, 35, 39]
TABLES = ["Faults", "Pods that would be worse off", "Abuse", "Pains of others"]


@cache
def defined_in(path: str) -> set[str]:
    """The names of the tests in a file that the page links to."""
    source = (PAGE.parent / path).resolve().read_text(encoding="utf-8")
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", source, re.MULTILINE))


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of all tables below a heading, their own headings left out."""
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[-1] != "test"]


@pytest.mark.parametrize("heading", TABLES)
def test_each_row_names_a_test_that_is_there_or_says_not_yet(heading: str) -> None:
    rows = table(heading)
    assert rows
    for row in rows:
        named = NAMED.findall(row[-1])
        assert named or row[-1] == "not yet", row
        assert all(name in defined_in(path) for name, path in named), row


def test_every_test_of_reliability_has_a_row() -> None:
    suite = Path(__file__).parents[1]
    marked = [
        path
        for path in suite.rglob("test_*.py")
        if "pytest.mark.reliability]" in path.read_text(encoding="utf-8") and path != Path(__file__)
    ]
    there = {
        name
        for path in marked
        for name in re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)
    }
    rows = [row for heading in TABLES for row in table(heading)]
    named = {name for row in rows for name, _ in NAMED.findall(row[-1])}

    assert len(there) >= 10
    assert there <= named


def test_each_pain_has_its_row_in_order() -> None:
    numbers = [int(row[0].partition(".")[0]) for row in table("Pains of others")]

    assert numbers == PAINS
