"""Tasks that are owned: bounded in number, never forgotten, and heard of when they fail."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Hashable
from typing import Any

import structlog

from kernel.tasks import end

log = structlog.get_logger()


class Errands:
    """Work that outlives the callback that asked for it. At most ``each`` at once for one owner, ``limit`` in all."""

    def __init__(self, limit: int, each: int) -> None:
        self._limit = limit
        self._each = each
        self._tasks: set[asyncio.Task[None]] = set()
        self._owners: Counter[Hashable] = Counter()
        self.failures = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], owner: Hashable = None, spare: int = 0) -> bool:
        """Run ``work``; False, and it is not run, when there is too much already: more than ``limit`` and ``spare``."""
        if len(self._tasks) >= self._limit + spare or (owner is not None and self._owners[owner] >= self._each):
            work.close()
            return False
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        if owner is not None:
            self._owners[owner] += 1
        task.add_done_callback(lambda done: self._done(done, owner))
        return True

    def _done(self, task: asyncio.Task[None], owner: Hashable) -> None:
        self._tasks.discard(task)
        if owner is not None:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures += 1
            log.error("errand_failed", exc_info=error)

    async def finish(self, seconds: float) -> None:
        """Wait for what runs, at most so long, then cancel the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        await end(*self._tasks)
