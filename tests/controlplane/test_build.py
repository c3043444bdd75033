from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.controlplane import build

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A copy of our go.mod and go.sum, to be changed."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(build.MODULE / name, tmp_path / name)
    return tmp_path


def programs(folder: Path, names: Iterable[str], text: str = "#!/bin/sh\n") -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("file", ["go.mod", "go.sum"])
def test_the_key_changes_with(file: str, module: Path) -> None:
    before = build.key(module)
    assert before == build.key()

    (module / file).write_text((module / file).read_text() + "\n")

    assert build.key(module) != before


def test_the_key_names_the_release(module: Path) -> None:
    text = (module / "go.mod").read_text()
    (module / "go.mod").write_text(
        text.replace("k8s.io/kubernetes v1.36.3", "k8s.io/kubernetes v1.99.0")
    )

    assert build.key(module).startswith("v1.99.0-")


def test_every_program_is_a_tool_of_the_module() -> None:
    """Or `go mod tidy` would drop what it needs."""
    tools = (build.MODULE / "go.mod").read_text().partition("tool (")[2].partition(")")[0]

    assert set(tools.split()) == set(build.PACKAGES.values())


def test_all_staging_modules_are_of_the_release_and_none_is_left_at_v0_0_0() -> None:
    text = (build.MODULE / "go.mod").read_text()
    required = {line.split()[0] for line in text.splitlines() if " v0.0.0 // indirect" in line}
    replaced = dict(line.split("=>") for line in text.splitlines() if "=>" in line)

    assert required <= {name.strip() for name in replaced}
    staging = build.kubernetes_version().replace("v1.", "v0.")
    assert all(target.endswith(f" {staging}") for target in replaced.values())


def test_envtest_assets_come_first(tmp_path: Path) -> None:
    assets = programs(tmp_path / "assets", ["etcd", "kube-apiserver", "kubectl", "kube-scheduler"])

    found = build.find({"KUBEBUILDER_ASSETS": str(assets), "XDG_CACHE_HOME": str(tmp_path)})

    assert found.path("kubectl") == assets / "kubectl"
    with pytest.raises(build.MissingError, match="has no kube-controller-manager: put it there"):
        found.path("kube-controller-manager")


def test_what_assets_lack_is_named(tmp_path: Path) -> None:
    assets = programs(tmp_path / "assets", ["etcd", "kubectl"])

    with pytest.raises(build.MissingError, match="lacks kube-apiserver, kube-scheduler: put them"):
        build.find({"KUBEBUILDER_ASSETS": str(assets)})


def test_an_empty_cache_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(build.MissingError, match="run `make controlplane`"):
        build.find({"XDG_CACHE_HOME": str(tmp_path)})


def test_a_go_that_is_too_old_is_passed_over_for_the_one_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = programs(tmp_path / "old", ["go"], "#!/bin/sh\necho go1.19.8\n")
    new = programs(tmp_path / "new", ["go"], "#!/bin/sh\necho go1.99.0\n")
    monkeypatch.setenv("PATH", str(old))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(new))
    assert build.find_go() == str(new / "go")

    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(build.MissingError, match=r"needs Go 1\.26\.0 or newer \(\S+ is go1\.19\.8"):
        build.find_go()


FAKE_GO = """#!/bin/sh
[ "$1" = env ] && { echo go1.99.0; exit; }
while [ "$1" != -o ]; do shift; done
case "$2" in *kubectl) [ -n "$BREAK" ] && { echo "no such module"; exit 1; };; esac
mkdir -p "$(dirname "$2")" && echo binary > "$2" && chmod +x "$2"
"""


def test_a_build_is_whole_or_not_there_and_a_second_one_waits_for_the_first(
    tmp_path: Path,
) -> None:
    path = f"{programs(tmp_path / 'bin', ['go'], FAKE_GO)}:/usr/bin:/bin"
    environ = {"PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "tests.controlplane.build"]
    root = build.MODULE.parents[1]
    target = tmp_path / "cache" / "migfit" / "controlplane" / build.key()

    broken = subprocess.run(
        command,
        env=environ | {"BREAK": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert broken.returncode == 1
    assert "kubectl could not be built" in broken.stderr
    assert "no such module" in broken.stderr
    assert [left.name for left in target.parent.iterdir()] == [".lock"]

    both = [
        subprocess.Popen(command, env=environ, cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [one.communicate(timeout=30)[0] for one in both]

    assert [one.returncode for one in both] == [0, 0]
    assert sorted(program.name for program in target.iterdir()) == sorted(build.PACKAGES)
    assert sum(text.count("building kubectl (5 of 5)") for text in told) == 1
    assert all(text.endswith(f"control plane: {target}\n") for text in told)
