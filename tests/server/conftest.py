"""One embedded cluster and one server for all tests here that leave both as they were."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from tests.server.serving import Embedded, Pair, Serving

Start = Callable[..., Serving]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    running = Embedded(tmp_path_factory.mktemp("cluster"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def serving(
    tmp_path_factory: pytest.TempPathFactory, embedded: Embedded, authority: trustme.CA
) -> Iterator[Serving]:
    """Shared: a test may send it anything, and counts only what it adds itself."""
    folder = tmp_path_factory.mktemp("serving")
    running = Serving(folder, embedded.kubeconfig, Pair(folder, authority))
    try:
        yield running.wait_ready()
    finally:
        running.clean_up()


@pytest.fixture
def pair(tmp_path: Path, authority: trustme.CA) -> Pair:
    return Pair(tmp_path / "pair", authority)


@pytest.fixture
def start(tmp_path: Path, embedded: Embedded, pair: Pair) -> Iterator[Start]:
    """Start a server of the test's own, which need not survive it."""
    with ExitStack() as stack:

        def begin(*flags: object, kubeconfig: Path = embedded.kubeconfig, **more: Any) -> Serving:
            running = Serving(tmp_path / "serving", kubeconfig, pair, *flags, **more)
            stack.callback(running.clean_up)
            return running

        yield begin


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened
