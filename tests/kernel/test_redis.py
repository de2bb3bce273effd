"""The client of a single Redis or of a Cluster."""

from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from kernel.redis import create_client, slot_of
from kernel.settings import SettingMissing, Settings


def test_cluster_address_may_name_several_nodes_and_a_password() -> None:
    client = create_client(Settings(redis_url="redis+cluster://:p%40ss@10.0.0.1:7000,10.0.0.2,10.0.0.3:7002"))
    assert isinstance(client, RedisCluster)
    assert {(node.host, int(node.port)) for node in client.startup_nodes} == {
        ("10.0.0.1", 7000), ("10.0.0.2", 6379), ("10.0.0.3", 7002),
    }  # fmt: skip
    assert {node.connection_kwargs["password"] for node in client.startup_nodes} == {"p@ss"}


def test_single_address_is_a_single_client() -> None:
    assert isinstance(create_client(Settings(redis_url="redis://127.0.0.1:1/0")), Redis)


def test_without_an_address_the_setting_is_named() -> None:
    with pytest.raises(SettingMissing, match="NEARCAST_REDIS_URL"):
        create_client(Settings(redis_url=None))


async def test_cluster_that_is_away_fails_as_redis_does() -> None:
    client = create_client(Settings(redis_url="redis+cluster://127.0.0.1:1"))
    for command in (client.get("x"), client.ping(), client.evalsha("0" * 40, 1, "x")):
        with pytest.raises(RedisError):
            await command
    await client.aclose()


def test_slot_is_that_of_the_hash_tag() -> None:
    assert slot_of("nearcast:{a}:log") == slot_of("nearcast:{a}:channel") == slot_of("a")


async def test_a_connection_hung_up_while_another_task_opens_it_is_a_redis_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = create_client(Settings(redis_url="redis+cluster://127.0.0.1:1"))
    writer: Any = None

    async def hung_up(*_: Any, **__: Any) -> None:
        writer.writelines([])

    async def defect(*_: Any, **__: Any) -> None:
        client.no_such_thing  # noqa: B018

    monkeypatch.setattr(RedisCluster, "execute_command", hung_up)
    with pytest.raises(RedisError):
        await client.get("x")
    monkeypatch.setattr(RedisCluster, "execute_command", defect)
    with pytest.raises(AttributeError):
        await client.get("x")
    monkeypatch.undo()
    await client.aclose()
