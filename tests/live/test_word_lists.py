"""Word lists of brands: kept by ops, followed by gateways."""

import asyncio

import pytest
from roomworld import World, do
from viewers import Client, gateway, until, watching

from kernel.errors import Refusal
from kernel.tasks import end
from live import wire, word_lists
from live.metrics import Tally
from live.word_lists import MAX_WORDS, WordLists


def passes(lists: WordLists, brand: str, text: str) -> bool:
    try:
        lists.review(brand, text)
    except Refusal as refusal:
        assert refusal.code == "blocked_words"
        return False
    return True


async def test_a_brands_list_takes_the_place_of_the_shipped_one_until_it_is_forgotten(world: World) -> None:
    lists = WordLists(world.kernel.sessions, Tally())
    await lists.refresh()
    assert not passes(lists, "acme", "加微信")
    await do(world, word_lists.set_words, world.ops, ["竞品"])
    await lists.refresh()
    assert passes(lists, "acme", "加微信")
    assert not passes(lists, "acme", "竞 品更好")
    assert not passes(lists, "other", "加微信")
    assert passes(lists, "other", "竞品")
    await do(world, word_lists.set_words, world.ops, [])
    await lists.refresh()
    assert passes(lists, "acme", "竞品")
    await do(world, word_lists.forget_words, "acme")
    await lists.refresh()
    assert not passes(lists, "acme", "加微信")


async def test_a_list_that_was_forgotten_and_made_anew_between_two_looks_is_noticed(world: World) -> None:
    lists = WordLists(world.kernel.sessions, Tally())
    await do(world, word_lists.set_words, world.ops, ["甲方"])
    await lists.refresh()
    await do(world, word_lists.forget_words, "acme")
    await do(world, word_lists.set_words, world.ops, ["乙方"])
    await lists.refresh()
    assert passes(lists, "acme", "甲方")
    assert not passes(lists, "acme", "乙方")


async def test_words_are_normalised_once_each_and_need_letters(world: World) -> None:
    kept = await do(world, word_lists.set_words, world.ops, ["ＡＢ", "AB", "加\u200b微信"])
    assert kept.words == ["AB", "加微信"]
    for bad in (["!!!"], ["\u200b"], [f"词{n}" for n in range(MAX_WORDS + 1)], ["\ufdfa" * 3]):
        with pytest.raises(Refusal) as refused:
            await do(world, word_lists.set_words, world.ops, bad)
        assert refused.value.code == "invalid"
    assert (await do(world, word_lists.words_of, "acme")).words == ["AB", "加微信"]


async def test_lists_stay_in_force_while_the_database_is_away(world: World) -> None:
    tally = Tally()
    lists = WordLists(world.kernel.sessions, tally)
    await do(world, word_lists.set_words, world.ops, ["竞品"])
    await lists.refresh()
    async with world.kernel.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE brand_words RENAME TO brand_words_away")
    following = asyncio.ensure_future(lists.run())
    await until(lambda: tally.failures["words"])
    assert not passes(lists, "acme", "竞品")
    await end(following)


async def test_gateways_follow_a_change(world: World) -> None:
    kernel = world.kernel
    await do(world, word_lists.set_words, world.ops, ["竞品"])
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room, world.guide) as me:
        assert await _outcome(me, "a", "加微信") is None  # the list of its own from the first comment on
        assert await _outcome(me, "b", "竞品") == "blocked_words"
        await do(world, word_lists.set_words, world.ops, ["加微信"])
        async with asyncio.timeout(60):
            n = 0
            while await _outcome(me, f"c{n}", f"加微信{n}") is None:
                n += 1
                await asyncio.sleep(0.1)
        assert await _outcome(me, "d", "竞品") is None


async def _outcome(client: Client, id: str, text: str) -> str | None:
    await client.send(wire.Comment(id, text))
    answer = await client.ack(id)
    return None if answer.error is None else answer.error.code
