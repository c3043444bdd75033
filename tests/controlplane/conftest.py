"""The real control plane as fixtures: one for the session, empty before each test."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.controlplane.background import Background
from tests.controlplane.build import Binaries, MissingError, find
from tests.controlplane.installed import chart_account
from tests.controlplane.migfit import Migfit
from tests.controlplane.objects import new_namespace
from tests.controlplane.plane import ControlPlane
from tests.controlplane.reset import reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Protocol, TypeAlias

    from tests.controlplane.load import Load
    from tests.controlplane.program import Program

    Options: TypeAlias = tuple[str, ...]

    class Figure(Protocol):
        """What the fixture `figure` gives."""

        def __call__(self, what: str, load: Load | None = None) -> None: ...

    class StartPlane(Protocol):
        """What the fixture `start_plane` gives."""

        def __call__(self, *, enable_admission: Options = ()) -> ControlPlane: ...


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
) -> Iterator[Callable[[Options], ControlPlane]]:
    """The planes of the session, each started when first wanted: one for each set of plugins."""
    with ExitStack() as stack:

        @cache
        def start(enable_admission: Options) -> ControlPlane:
            folder = tmp_path_factory.mktemp("controlplane")
            plane = ControlPlane(binaries, folder, enable_admission=enable_admission)
            return stack.enter_context(plane)

        yield start


@pytest.fixture
def start_plane(
    running_planes: Callable[[Options], ControlPlane],
) -> Iterator[StartPlane]:
    """Gives a plane with more admission plugins; reset after the test."""
    used: list[ControlPlane] = []

    def start(*, enable_admission: Options = ()) -> ControlPlane:
        used.append(running_planes(enable_admission))
        return used[-1]

    yield start
    for plane in used:
        plane.stop_components()
        reset(plane.client)
        plane.forget_requests()


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


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the webhook's certificate."""
    return trustme.CA()


@pytest.fixture
def migfit(plane: ControlPlane, authority: trustme.CA, tmp_path: Path) -> Iterator[Migfit]:
    """The production server, configured with the defaults and registered as a webhook.

    It has the rights that the chart gives its ServiceAccount, and no others.
    """
    server = Migfit(plane, tmp_path, authority, kubeconfig=chart_account(plane).kubeconfig)
    server.configure()
    server.start()
    server.register()
    yield server
    server.kill()


@pytest.fixture
def background() -> Iterator[Background]:
    """Where the proxies and the load of a test run."""
    with Background() as background:
        yield background


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Notes what a test has measured, to be told at the end."""

    def note(what: str, load: Load | None = None) -> None:
        record_property(FIGURE, what if load is None else f"{what}; {load.told}")

    return note


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end no worker has one to itself while the others are idle."""
    items.sort(key=lambda item: not any(map(item.get_closest_marker, ("long", "reliability"))))


FIGURE = "figure"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures, of failed tests too."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
    ]
    figures = [
        (report.nodeid.rpartition("::")[2], value)
        for report in reports
        for name, value in report.user_properties
        if name == FIGURE
    ]
    if figures:
        terminalreporter.section("figures")
    for name, value in figures:
        terminalreporter.write_line(f"{name}:\n  {value}")
