"""What we ship is listed, and asked about: `make sbom` and `make audit`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.utils import canonicalize_name

from tests.deploy.dockerfile import build, dependencies
from tests.deploy.manifests import ROOT, project

if TYPE_CHECKING:
    from tests.deploy.manifests import JSON

MAKE = ("make", "--no-print-directory", "--old-file=.venv", f"BIN={Path(sys.executable).parent}")
"""With the environment that the tests run in, as it is; and itself perhaps run by make."""
CYCLONEDX = "build/cyclonedx/bin"
VALIDATE = """
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
validator = JsonStrictValidator(SchemaVersion.V1_6)
print(json.dumps([validator.validate_str(line) is None for line in sys.stdin]))
"""


def valid(*documents: JSON) -> list[bool]:
    """What the standard's own validator says of each, in the environment that has what it needs."""
    argv = [f"{ROOT}/{CYCLONEDX}/python", "-c", VALIDATE]
    lines = "".join(f"{json.dumps(each)}\n" for each in documents)
    found: list[bool] = json.loads(subprocess.check_output(argv, input=lines, text=True))
    return found


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> JSON:
    """What the last command of `make sbom` writes about the environment that the Dockerfile makes."""
    root = tmp_path_factory.mktemp("image")
    environment, file = build(root), root / "bill.json"
    subprocess.run([*MAKE, f"{CYCLONEDX}/cyclonedx-py"], cwd=ROOT, check=True)
    dry_run = subprocess.check_output([*MAKE, "--dry-run", "sbom"], cwd=ROOT, text=True)
    command = dry_run.replace("\\\n", " ").splitlines()[-1]
    assert "--output-file dist/migfit.cdx.json build/sbom/bin/python" in " ".join(command.split())
    here = {"dist/migfit.cdx.json": file, "build/sbom/bin/python": environment / "bin" / "python"}
    words = [str(here.get(word, word)) for word in shlex.split(command)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    found: JSON = json.loads(file.read_text())
    return found


def test_the_bill_of_materials_names_what_the_image_installs_and_nothing_else(bill: JSON) -> None:
    listed = {canonicalize_name(each["name"]): each["version"] for each in bill["components"]}

    assert listed == {name: found.version for name, found in dependencies().items()}
    ours = bill["metadata"]["component"]
    assert (ours["name"], ours["version"]) == ("migfit", project()["version"])
    assert all(each["purl"].startswith("pkg:pypi/") for each in bill["components"])


def test_it_is_what_readers_of_cyclonedx_expect(bill: JSON) -> None:
    assert valid(bill, {**bill, "components": "none"}) == [True, False]


def test_it_says_nothing_of_where_and_when_it_was_made(bill: JSON) -> None:
    text = json.dumps(bill)

    assert str(ROOT) not in text
    assert "timestamp" not in bill["metadata"]
    assert "serialNumber" not in bill


def test_an_audit_that_could_not_ask_fails_and_says_so(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:1"  # where nothing listens
    caches = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "PIP_CACHE_DIR"), str(tmp_path))

    done = subprocess.run(
        [*MAKE, "audit"],
        cwd=ROOT,
        env={**os.environ, **caches, "HTTPS_PROXY": nobody, "https_proxy": nobody},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "or why pypi.org could not be asked" in done.stderr
    assert "--requirement constraints.txt" in (ROOT / "Makefile").read_text()
