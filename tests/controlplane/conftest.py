"""The real control plane as fixtures: one for the session, empty before each test."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.build import Binaries, MissingError, find
from tests.controlplane.objects import new_namespace
from tests.controlplane.plane import ControlPlane
from tests.controlplane.reset import reset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from tests.controlplane.program import Program

    class StartPlane(Protocol):
        """What the fixture `start_plane` gives."""

        def __call__(
            self, *, enable_admission: tuple[str, ...] = (), flags: tuple[str, ...] = ()
        ) -> ControlPlane: ...


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """The programs of the control plane: required where CI=true."""
    try:
        return find()
    except MissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))  # it says: run `make controlplane`


@pytest.fixture(scope="session")
def running_planes(
    binaries: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartPlane]:
    """The planes of the session, each started when first wanted: one for each set of options."""
    planes: dict[object, ControlPlane] = {}
    with ExitStack() as stack:

        def start(
            *, enable_admission: tuple[str, ...] = (), flags: tuple[str, ...] = ()
        ) -> ControlPlane:
            key = (enable_admission, flags)
            if key not in planes:
                folder = tmp_path_factory.mktemp("controlplane")
                planes[key] = stack.enter_context(
                    ControlPlane(binaries, folder, enable_admission=enable_admission, flags=flags)
                )
            return planes[key]

        yield start


@pytest.fixture
def start_plane(running_planes: StartPlane) -> Iterator[StartPlane]:
    """Gives a plane with options of ControlPlane, `enable_admission=` …; reset after the test."""
    used: list[ControlPlane] = []

    def start(
        *, enable_admission: tuple[str, ...] = (), flags: tuple[str, ...] = ()
    ) -> ControlPlane:
        used.append(running_planes(enable_admission=enable_admission, flags=flags))
        return used[-1]

    yield start
    for plane in used:
        plane.stop_components()
        reset(plane.client)


@pytest.fixture
def plane(start_plane: StartPlane) -> ControlPlane:
    """The session's control plane, without scheduler and controllers, with nothing in it.

    What a test starts or creates there is stopped and removed after it.
    """
    return start_plane()


@pytest.fixture
def namespace(plane: ControlPlane) -> str:
    """A namespace of the test's own."""
    return new_namespace(plane.client)


@pytest.fixture
def scheduler(plane: ControlPlane) -> Program:
    """A kube-scheduler as it comes, without extenders."""
    return plane.start_scheduler()
