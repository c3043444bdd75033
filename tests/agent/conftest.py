"""The stub of NVML, compiled once a session and loaded in place of NVIDIA's library."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).with_name("nvml_stub.c")


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`libnvidia-ml.so.1`, made of our source; a C compiler is required where CI=true."""
    compiler = shutil.which("cc")
    if compiler is None:
        message = "no C compiler `cc`: install gcc or clang"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    made = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run(
        [
            *(compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
            *(f"-Wl,-soname,{made.name}", "-o", made, SOURCE),
        ],
        check=True,
        timeout=60,
    )
    return made


@pytest.fixture(scope="session")
def loaded_stub(stub_library: Path) -> ctypes.CDLL:
    """The stub in this process: whoever loads a library of that name from now on gets it."""
    return ctypes.CDLL(str(stub_library))


@pytest.fixture
def stub(
    loaded_stub: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stub]:
    """Hardware of the test's own; none until it is set up."""
    made = Stub(tmp_path / "hardware")
    monkeypatch.setenv("NVML_STUB_FILE", str(made.path))
    made.set_up()
    yield made
    loaded_stub.nvmlShutdown()
