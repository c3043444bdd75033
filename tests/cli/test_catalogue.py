from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result

from extender.cli import main
from extender.core.catalogue import PRODUCTS, describe

if TYPE_CHECKING:
    from collections.abc import Callable


def catalogue(*words: str) -> Result:
    return CliRunner().invoke(
        main, ["catalogue", *words], prog_name="migfit", catch_exceptions=False
    )


def test_every_product_is_a_row_with_its_profiles() -> None:
    head, *rows = catalogue().stdout.splitlines()

    assert head.split() == ["PRODUCT", "COMPUTE", "MEMORY", "GB/S", "PROFILES"]
    assert [row.split()[0] for row in rows] == list(PRODUCTS)
    assert "1g.10gb, 1g.10gb+me, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb" in rows[1]


@pytest.mark.parametrize("name", ["A100-80GB", "a100-80gb", "NVIDIA-A100-SXM4-80GB"])
def test_a_product_is_found_by_its_name_and_by_a_node_label(name: str) -> None:
    result = catalogue(name)

    assert result.exit_code == 0
    title, _, *rows = result.stdout.splitlines()
    assert title == "A100-80GB: 78 layouts without special profiles, 28 of them full"
    assert rows[3].split() == (
        ["2g.20gb", "nvidia.com/mig-2g.20gb", "2", "2", "19968", "484", "3", "0", "2", "4", "yes"]
    )
    assert len(rows) == len(PRODUCTS["A100-80GB"].profiles)


def test_a_part_of_a_name_finds_every_product_with_it() -> None:
    titles = [line for line in catalogue("A100").stdout.splitlines() if "layouts" in line]

    assert [title.partition(":")[0] for title in titles] == [
        name for name in PRODUCTS if "A100" in name
    ]


def test_memory_that_no_source_confirms_is_not_shown() -> None:
    [row] = [line for line in catalogue("B200-180GB").stdout.splitlines() if "3g.90gb" in line]

    assert row.split()[4] == "-"
    assert row.split()[-1] == "no"


@pytest.mark.parametrize(("output", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
@pytest.mark.parametrize("name", [None, "A30"])
def test_it_is_data_too(output: str, parse: Callable[[str], object], name: str | None) -> None:
    result = catalogue(*([name] if name else []), "-o", output)

    wanted = [describe(each) for each in PRODUCTS.values() if name is None or name in each.name]
    assert parse(result.stdout) == wanted


@pytest.mark.parametrize("name", ["H900", "", " "])
def test_an_unknown_product_is_one_line_and_exit_code_2(name: str) -> None:
    result = catalogue(name)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"migfit catalogue: no product '{name}' in the catalogue; `migfit catalogue` lists them\n"
    )


def test_a_full_disk_is_told_in_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "extender.cli", "catalogue"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 2
    assert done.stderr == (
        "migfit: cannot write: No space left on device; make room, or write elsewhere\n"
    )


def test_a_pipe_that_closes_early_ends_it_quietly() -> None:
    source, sink = os.pipe()
    os.close(source)
    done = subprocess.run(
        [sys.executable, "-m", "extender.cli", "catalogue"],
        stdout=sink,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(sink)

    assert done.stderr == ""


def test_as_a_program_it_prints_no_colour_into_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extender.cli", "catalogue", "A30"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "1g.6gb" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
