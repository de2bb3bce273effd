"""Tasks end, also those that swallow a cancellation."""

import asyncio

import pytest

from kernel import tasks
from kernel.tasks import end, firmly


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_SECONDS", 0.01)


async def deaf(times: int) -> None:
    """Goes on after having been cancelled so often."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            times -= 1
            if times < 0:
                raise


async def test_a_task_that_swallows_cancellations_is_ended_all_the_same() -> None:
    working = asyncio.ensure_future(deaf(2))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await end(working)
        await end()
    assert working.cancelled()


async def test_a_group_whose_child_swallows_its_cancellation_ends() -> None:
    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(firmly(deaf(1)))

    working = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    working.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait({working})
    assert working.cancelled()


async def test_what_breaks_under_a_firm_hand_is_heard_of() -> None:
    async def breaks() -> None:
        raise ValueError("as a defect would")

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(firmly(breaks()))
            group.create_task(firmly(deaf(1)))


async def test_a_clean_up_is_finished_however_often_its_task_is_told_to_end() -> None:
    hung_up: list[str] = []

    async def hang_up(name: str, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0.02)
        hung_up.append(name)

    async def serve() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await tasks.finish(hang_up("slow", 5), hang_up("quick", 1))

    serving = asyncio.ensure_future(serve())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await end(serving)  # tells it a few times
    assert hung_up == ["quick", "slow"]
    assert serving.cancelled()


async def test_what_a_clean_up_raises_is_raised_when_all_of_them_have_ended() -> None:
    hung_up: list[str] = []

    async def fail() -> None:
        raise LookupError

    async def hang_up() -> None:
        await asyncio.sleep(0.02)
        hung_up.append("there")

    with pytest.raises(LookupError):
        await tasks.finish(fail(), hang_up())
    assert hung_up == ["there"]


async def test_work_goes_on_meanwhile_and_is_done_after_the_block() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("asks")
        await asyncio.sleep(0)
        steps.append("is answered")

    async with tasks.meanwhile(work()):
        steps.append("meanwhile")
    assert steps == ["asks", "meanwhile", "is answered"]


async def test_what_the_work_raises_is_raised_and_a_block_that_fails_ends_the_work() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError

    built = False
    with pytest.raises(LookupError):
        async with tasks.meanwhile(fail()):
            built = True
    assert built
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    with pytest.raises(ValueError, match="block"):
        async with tasks.meanwhile(work()):
            raise ValueError("block")
    assert ended.is_set()
