"""The Dockerfile as a list of instructions, and its build stage run without Docker."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.manifests import ROOT, project

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `COPY`, and what follows it on its lines."""

    name: str
    value: str


def stages() -> list[list[Instruction]]:
    """The stages of the Dockerfile, each beginning with its FROM."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        if name:
            found[-1].append(Instruction(name, value.strip()))
    return found


def values(stage: Iterable[Instruction], name: str) -> list[str]:
    """What the instructions of that name say, in order."""
    return [instruction.value for instruction in stage if instruction.name == name]


def pairs(stage: Iterable[Instruction], name: str) -> dict[str, str]:
    """The `key=value` of all LABEL or ENV instructions."""
    words = [word for value in values(stage, name) for word in shlex.split(value)]
    return dict(word.split("=", 1) for word in words)


def copied(stage: Iterable[Instruction]) -> set[str]:
    """The files and folders of the checkout that a stage copies."""
    lines = [shlex.split(value) for value in values(stage, "COPY")]
    return {source for *sources, _ in lines for source in sources if source[0] != "-"}


def dependencies(extra: str = "") -> dict[str, Distribution]:
    """What the project needs at run time by its own word, and what that needs, and so on."""
    found: dict[str, Distribution] = {}
    more = project()["optional-dependencies"][extra] if extra else []
    wanted = [Requirement(line) for line in (*project()["dependencies"], *more)]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = distribution(name)
        wanted += [Requirement(line) for line in found[name].requires or ()]
    return found


def build(root: Path, extras: str = "", *, there: str = "") -> Path:
    """Runs the build stage under `root` in place of `/`; gives the environment it installs.

    As by `--build-arg EXTRAS=…`, where what that extra needs can be had only if it is `there`.

    The registry is not asked: the dependencies lie in the environment before pip begins, so that
    pip checks them and the constraints against what the wheel demands, and finds all there.
    """
    stage, _ = stages()
    environment: str
    (environment,) = re.findall(r"venv --without-pip (\S+)", " ".join(values(stage, "RUN")))
    (folder,) = values(stage, "WORKDIR")
    source = root / folder.lstrip("/")
    source.mkdir(parents=True)
    target = root / environment.lstrip("/")
    _provide(target, there)
    environ = _environ() | ({"EXTRAS": extras} if extras else {})
    for instruction in stage:
        if instruction.name == "COPY":
            *names, where = shlex.split(instruction.value)
            for name in names:
                _copy(ROOT / name, source / where)
        elif instruction.name == "RUN":
            command = re.sub(r"(?<=\s)/(?=\w)", f"{root}/", instruction.value)
            subprocess.run(["sh", "-ec", command], cwd=source, env=environ, check=True)
    return target


def _environ() -> dict[str, str]:
    """Ours, with `python` being this one, and pip kept from the network where it can be."""
    folder = os.path.dirname(sys.executable)  # noqa: PTH120  a link that must not be followed
    environ = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    if importlib.util.find_spec("hatchling"):  # else pip fetches it, as for every wheel it builds
        environ |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0 is pip's yes
    return environ


def _provide(environment: Path, extra: str) -> None:
    """Links the dependencies, and nothing else of ours, into an environment yet to be made."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    for found in dependencies(extra).values():
        files = found.files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(str(found.locate_file(top)))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
