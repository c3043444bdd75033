"""An event loop in a thread, for what stands between the processes of a test: proxies and a load."""

from __future__ import annotations

import asyncio
import selectors
import threading
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractAsyncContextManager
    from typing import Any

T = TypeVar("T")

_CLOSING_S = 5.0
_ROUNDS = 5
"""Of the loop, in which connections that were aborted are closed."""


class Background:
    """Coroutines beside a test that is none; a context manager that ends what was entered, last first."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._loop.run_forever, name="background")
        self._entered: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self._leave())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns or raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enters an asynchronous context manager, to be left at the end by the same task."""
        return self.run(self._enter(manager))

    async def _enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        entered: asyncio.Future[T] = self._loop.create_future()
        leave = asyncio.Event()

        async def hold() -> None:
            try:
                async with manager as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        task = asyncio.create_task(hold())
        value = await entered
        self._entered.append((leave, task))
        return value

    async def _leave(self) -> None:
        while self._entered:
            leave, task = self._entered.pop()
            leave.set()
            await task
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        # TLS says good-bye to the other side and waits for its answer.
        deadline_s = self._loop.time() + _CLOSING_S
        while len(self._selector.get_map()) > 1 and self._loop.time() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
