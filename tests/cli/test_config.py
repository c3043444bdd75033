from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result

from extender.cli import main
from extender.config import DEFAULT_DOCUMENT, LEAST_DOCUMENT, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BAD = """\
apiVersion: migfit.io/v1alpha1
kind: MigfitConfiguration
mode: Enforced
models:
  - name: asr
    gpuMemory: 9.6
"""


def check(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(
        main,
        ["config", "check", *map(str, words)],
        input=stdin,
        prog_name="migfit",
        catch_exceptions=False,
    )


@pytest.mark.parametrize("document", [DEFAULT_DOCUMENT, LEAST_DOCUMENT])
def test_a_good_file_is_valid_and_its_revision_is_that_of_the_audit_line(
    tmp_path: Path, document: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(document)

    result = check(path)

    assert result.exit_code == 0
    first, head, row = result.stdout.splitlines()
    assert first == "valid"
    assert head.split() == ["REVISION", "MODE", "MODELS", "RULES", "POOLS"]
    assert row.split() == [load(document).revision, "Enforce", "0", "0", "0"]


def test_a_dash_is_stdin() -> None:
    assert check("-", stdin=LEAST_DOCUMENT).exit_code == 0


def test_every_problem_is_a_line_with_its_path_and_what_to_write() -> None:
    result = check("-", stdin=BAD)

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "mode: 'Enforced': write Enforce (line 3)",
        "models[0].gpuMemory: 9.6 counts bytes: write 9.6G (or 9.6Gi) (line 6)",
    ]
    assert result.stderr == ""


@pytest.mark.parametrize(("output", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_problems_are_data_too(output: str, parse: Callable[[str], Any]) -> None:
    result = check("-", "-o", output, stdin=BAD)

    assert result.exit_code == 1
    found = parse(result.stdout)
    assert found["valid"] is False
    assert [(p["path"], p["line"]) for p in found["problems"]] == [
        ("mode", 3),
        ("models[0].gpuMemory", 6),
    ]


def test_a_good_file_is_data_too() -> None:
    assert json.loads(check("-", "-o", "json", stdin=LEAST_DOCUMENT).stdout) == {
        "valid": True,
        "revision": load(LEAST_DOCUMENT).revision,
        "mode": "Enforce",
        "models": 0,
        "rules": 0,
        "pools": 0,
    }


def test_the_configmap_itself_is_told_from_what_stands_in_it() -> None:
    configmap = yaml.safe_dump({"kind": "ConfigMap", "data": {"config.yaml": LEAST_DOCUMENT}})

    result = check("-", stdin=configmap)

    assert result.exit_code == 1
    assert "give the text that stands under its key config.yaml" in result.stdout


@pytest.mark.parametrize(
    ("contents", "why"),
    [(None, "No such file or directory"), (b"\xff\xfe", "it is not UTF-8 text")],
)
def test_a_file_that_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, contents: bytes | None, why: str
) -> None:
    path = tmp_path / "config.yaml"
    if contents is not None:
        path.write_bytes(contents)

    result = check(path)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"migfit config check: {path} cannot be read: {why}; give a readable file, or - for stdin\n"
    )


def test_without_a_file_the_usage_is_told() -> None:
    result = check()

    assert result.exit_code == 2
    assert "Missing argument 'FILE'" in result.stderr


def test_as_a_program_it_prints_no_colour_into_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BAD)

    done = subprocess.run(
        [sys.executable, "-m", "extender.cli", "config", "check", path],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
