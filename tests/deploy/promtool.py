"""promtool, by which alerts are tested: of PATH, else built by Go into the cache: `make promtool`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.controlplane import build

MODULE = Path(__file__).with_suffix("")
PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"
FLAGS = ("-tags", "remove_all_sd", "-ldflags", "-s -w")
"""Without the ways to discover targets, which are most of it, it takes two minutes on two cores."""


class MissingError(Exception):
    """There is no promtool; the message says what to do."""


def find() -> Path:
    """The file; MissingError if there is none yet."""
    if on_path := shutil.which("promtool"):
        return Path(on_path)
    file = _cached()
    if not file.is_file():
        raise MissingError("there is no promtool: run `make promtool`, or put one on PATH")
    return file


def provide() -> Path:
    """Makes sure that there is one; MissingError if that cannot be done."""
    try:
        return find()
    except MissingError:
        file = _cached()
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():  # else the one we waited for built it
            _build(file)
    return file


def _cached() -> Path:
    digest = hashlib.sha256()
    for part in (
        (MODULE / "go.mod").read_bytes(),
        (MODULE / "go.sum").read_bytes(),
        repr((PACKAGE, FLAGS, build.GO_SETTINGS)).encode(),
        f"{platform.system()} {platform.machine()}".encode(),
    ):
        digest.update(len(part).to_bytes(8, "big") + part)
    return build.cache().parent / "promtool" / digest.hexdigest()[:12] / "promtool"


def _build(file: Path) -> None:
    sys.stdout.write("building promtool, some minutes when cold\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix=".building-", dir=file.parent) as folder:
        half = Path(folder) / file.name
        try:
            done = subprocess.run(
                [build.find_go(), "build", *FLAGS, "-o", half, PACKAGE],
                cwd=MODULE,
                env={**os.environ, **build.GO_SETTINGS},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        except build.MissingError as error:
            raise MissingError(f"promtool cannot be built: {error}; or put one on PATH") from None
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-30:])
            raise MissingError(f"promtool cannot be built; put one on PATH:\n{tail}")
        half.rename(file)


def main() -> int:
    """Makes sure that there is one, and prints where."""
    try:
        sys.stdout.write(f"{provide()}\n")
    except MissingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
