"""The Dockerfile: clean, without root, and its install steps run as they are written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from tests.deploy.dockerfile import build, copied, dependencies, pairs, stages, values
from tests.deploy.manifests import ROOT, container, pod_template, project, served_by

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build stage makes, in a folder that stands for the image's root."""
    root = tmp_path_factory.mktemp("image")
    build(root)
    return root


def run(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs the image's entry point with the image's environment, far from the checkout."""
    stage = stages()[-1]
    (entry,) = values(stage, "ENTRYPOINT")
    told = pairs(stage, "ENV")
    path = told["PATH"].partition(":")[0]
    program, *fixed = json.loads(entry)
    return subprocess.run(
        [root / path.lstrip("/") / program, *fixed, *args],
        env=told | {"PATH": ""},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    done = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN pip install migfit\n")

    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), tmp_path / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "DL3007" in done.stdout


def test_the_environment_is_shipped_with_the_interpreter_it_was_made_with() -> None:
    build_stage, shipped = stages()

    base = values(build_stage, "FROM")[0].removesuffix(" AS build")

    assert values(shipped, "FROM") == [base]
    assert base == "python:3.11-slim-bookworm"
    assert values(shipped, "COPY") == ["--from=build /opt/migfit /opt/migfit"]
    assert values(shipped, "RUN") == []


def test_nothing_in_it_is_for_one_kind_of_machine_and_nothing_is_compiled() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))

    assert re.findall(r"--platform|amd64|x86_64|arm64|aarch64", text) == []
    assert "--only-binary=:all:" in text


def test_the_user_is_the_number_the_pods_run_as() -> None:
    context = pod_template()["spec"]["securityContext"]

    (user,) = values(stages()[-1], "USER")

    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_the_pods_arguments_go_to_the_images_entry_point() -> None:
    shipped = stages()[-1]
    (entry,), (command,) = values(shipped, "ENTRYPOINT"), values(shipped, "CMD")

    assert json.loads(entry) == list(project()["scripts"]) == ["migfit"]
    assert json.loads(command) == container()["args"][:1] == ["serve"]
    assert "command" not in container()


def test_the_image_tells_the_ports_of_the_pods() -> None:
    told = served_by(container()["args"])

    (ports,) = values(stages()[-1], "EXPOSE")

    assert ports.split() == [str(told.webhook_port), str(told.ops_port)]


def test_the_labels_say_what_the_project_says() -> None:
    told, ours = project(), "org.opencontainers.image."

    assert pairs(stages()[-1], "LABEL") == {
        f"{ours}title": told["name"],
        f"{ours}description": told["description"].partition(":")[0],
        f"{ours}version": told["version"],
        f"{ours}licenses": told["license"],
        f"{ours}source": told["urls"]["Source"],
        f"{ours}documentation": told["urls"]["Documentation"],
    }


def test_docker_is_sent_what_the_dockerfile_copies_and_nothing_else() -> None:
    first, *rest = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]

    assert first == "*"
    assert {line[1:] for line in rest if line[0] == "!"} == copied(stages()[0])
    assert [line for line in rest if line[0] != "!"] == ["**/__pycache__"]
    assert all((ROOT / name).exists() for name in copied(stages()[0]))


def test_every_dependency_is_pinned_for_the_image_and_to_what_is_tested() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {
        name.lower().replace("_", "-"): pin for name, _, pin in (x.partition("==") for x in lines)
    }

    assert {name: pins.get(name) for name in dependencies()} == {
        name: found.version for name, found in dependencies().items()
    }


def test_the_wheel_holds_every_file_of_the_package(installed: Path) -> None:
    (wheel,) = (installed / "wheels").iterdir()

    def files() -> Iterator[str]:
        for file in (ROOT / "extender").rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(ROOT))

    assert set(ZipFile(wheel).namelist()) >= set(files())
    assert "extender/core/catalogue.json" in set(files())


def test_the_install_steps_give_a_migfit_that_runs(installed: Path) -> None:
    done = run(installed, "--version")

    assert (done.stdout, done.stderr) == (f"migfit {project()['version']}\n", "")


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_what_is_installed_needs_nothing_of_the_tools_for_development(
    installed: Path, command: str
) -> None:
    done = run(installed, command, "--help")

    assert done.returncode == 0, done.stderr
    assert f"migfit {command}" in done.stdout


def test_the_image_by_itself_says_in_one_line_what_it_lacks(installed: Path) -> None:
    (command,) = values(stages()[-1], "CMD")

    done = run(installed, *json.loads(command))

    assert done.returncode == 2
    assert done.stderr.startswith("migfit serve: no way to the cluster")
    assert done.stderr.count("\n") == 1


def test_the_environment_is_empty_but_for_what_the_project_names(installed: Path) -> None:
    (environment,) = (installed / "opt").iterdir()
    code = "from importlib.metadata import distributions as d; print(*{x.name for x in d()})"

    told = subprocess.check_output([environment / "bin" / "python", "-I", "-c", code], text=True)

    names = {name.lower().replace("_", "-") for name in shlex.split(told)}
    assert names == {"migfit", *dependencies()}


def test_what_traces_need_is_in_an_image_that_is_built_for_them_and_pinned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert values(stages()[0], "ARG") == ['EXTRAS=""']

    environment = build(tmp_path / "with", "[otel]", there="otel")

    program = "import opentelemetry.exporter.otlp.proto.http.trace_exporter, extender.server.traces"
    subprocess.check_call([environment / "bin" / "python", "-I", "-c", program])
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    for name, found in dependencies("otel").items():
        assert f"{name}=={found.version}" in pins
    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path / "without", "[otel]")
    assert "migfit[otel]" in capfd.readouterr().err  # pip looks for more, and finds nothing
