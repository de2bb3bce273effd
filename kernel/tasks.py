"""The end of tasks. Once told to end is not always enough.

On Python 3.11 ``asyncio.wait_for`` swallows a cancellation that comes in the turn of the loop in which its work ends,
and redis-py writes every command through it. A task that did nothing but such commands lived on after 205 of 1,500
cancellations; whoever then waits for its end waits for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

AGAIN_SECONDS = 2.0
"""After so long a task that was cancelled and goes on is cancelled again; its clean-up may take as long."""


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel ``tasks`` until all of them have ended. What they raise is no news to anybody by then."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def finish(*works: Coroutine[Any, Any, None]) -> None:
    """Do ``works``, one beside the other, to their ends, however often whoever waits for them is cancelled meanwhile.

    For clean-ups that take a moment: whoever is told to end twice, as ``end`` does where a machine is slow, would break
    them off and leave connections open. Each must end by itself. Then raises the cancellation, or what one raised.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    cancelled: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if cancelled is not None:
        raise cancelled
    if errors:
        raise errors[0]


async def firmly(work: Coroutine[Any, Any, None]) -> None:
    """``work``, so that a single cancellation ends it: for children of a ``TaskGroup``, which cancels once."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    finally:
        await end(task)
    task.result()


async def within(seconds: float, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work`` for so long at most; returns whether it was done. Raises what it raised by then."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        task.result()
        return True
    await end(task)
    return False


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """``work`` goes on during the block, if it waits for somebody else, and is done after it. Raises what it raises."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.sleep(0)  # it asks its question
        yield
        await task
    finally:
        if not task.done():
            await end(task)
