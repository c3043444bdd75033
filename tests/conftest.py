"""Hypothesis without time limits: the machines that run this differ by an order of magnitude.

`pytest --hypothesis-profile=deep` looks much longer. And the stub of NVML, for whoever wants hardware.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.agent.stub import NoCompilerError, Stub, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

settings.register_profile("migfit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", settings.get_profile("migfit"), max_examples=3000)
settings.load_profile("migfit")


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`libnvidia-ml.so.1`, made of our source; a C compiler is required where CI=true."""
    try:
        return build(tmp_path_factory.mktemp("nvml"))
    except NoCompilerError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


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
    loaded_stub.stub_reset()
