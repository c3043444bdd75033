"""Play a scenario: without migfit, then with it under every layout, the runs side by side."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from extender.demo.loading import policy_of
from extender.demo.outcome import Run
from extender.demo.report import Report, report
from extender.demo.scenario import Scenario
from extender.demo.stage import Stage


@contextlib.asynccontextmanager
async def played(
    scenario: Scenario, *, command: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Report, Stage]]:
    """The report, and the stage of the last run, which stays up until the `async with` ends.

    Args:
        scenario: what to play.
        command: what to start instead of `migfit serve`.

    Raises:
        ServerFailedError: a server did not start, or ended in between.
    """
    async with Stage(scenario, "", scenario.nodes, migfit=False) as plain:
        before = await plain.play()
    *stages, last = (
        Stage(scenario, name, nodes, migfit=True, command=command)
        for name, nodes in scenario.runs()
    )
    at_once = asyncio.Semaphore(max(2, os.cpu_count() or 2))

    async def passing(stage: Stage) -> Run:
        async with at_once, stage:
            return await stage.play()

    async def lasting() -> Run:
        async with at_once:
            await stack.enter_async_context(last)
            return await last.play()

    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.TaskGroup() as group:
                runs = [group.create_task(passing(stage)) for stage in stages]
                runs.append(group.create_task(lasting()))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        yield report(scenario, policy_of(scenario), before, [run.result() for run in runs]), last
