"""What large requests took is not kept."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from extender.config.load import load
from extender.server import serve as module
from extender.server.metrics import Metrics
from extender.server.serve import Server
from extender.server.settings import Settings
from tests.server.serving import CONFIG, PATIENCE_S

Begun = tuple[Server, asyncio.Queue[bool]]

LARGE_AND_SMALL = """
from pathlib import Path
from extender.server.memory import give_back

def resident_mb():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

bytes(5 << 20)  # from one that came and went, malloc learns that such large ones come and go
{give_back}
before_mb, large, small = resident_mb(), [], []
for number in range(40):
    large.append(b"x" * (5 << 20))
    small.append(bytes([number]) * 1000)  # what stays, and would hold on to the memory around it
del large
print(resident_mb() - before_mb)
"""


def kept_mb(give_back: str) -> float:
    """What a process holds on to of 200 MB, in MB."""
    code = LARGE_AND_SMALL.format(give_back=give_back)
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(told.stdout)


def test_what_large_requests_took_goes_back_to_the_system_whatever_small_ones_stay() -> None:
    assert kept_mb("give_back()") < 20
    assert kept_mb("") > 100, "this C library needs not be told"


@pytest.fixture
async def begun(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], Begun]]:
    """Start a server on no port; each time it gives memory back, whether it knew everything."""
    async with AsyncExitStack() as stack:

        def begin() -> Begun:
            settings = Settings(webhook_port=0, extender_port=0, ops_port=0, lame_duck_s=0)
            server = Server(settings, Metrics(), load(CONFIG))
            told: asyncio.Queue[bool] = asyncio.Queue()
            monkeypatch.setattr(module, "give_back", lambda: told.put_nowait(server.state.synced))
            stop = asyncio.Event()
            running = asyncio.create_task(server.run(stop, asyncio.Event()))

            async def end() -> None:
                stop.set()
                await running

            stack.push_async_callback(end)
            return server, told

        yield begin


async def test_a_process_gives_back_once_everything_is_listed(begun: Callable[[], Begun]) -> None:
    server, told = begun()
    server.state.fill()
    assert await asyncio.wait_for(told.get(), PATIENCE_S) is True


async def test_it_does_not_wait_for_that_forever(
    begun: Callable[[], Begun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_PATIENCE_S", 0.0)
    _, told = begun()
    assert await asyncio.wait_for(told.get(), PATIENCE_S) is False
