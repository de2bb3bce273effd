from sqlalchemy import text

from kernel.http import Kernel


async def test_postgis_is_there(kernel: Kernel) -> None:
    async with kernel.engine.connect() as connection:
        assert await connection.scalar(text("SELECT postgis_version()"))
        assert await connection.scalar(text("SELECT count(*) FROM outbox_lanes")) == 8
async def test_again_postgis_is_there(kernel: Kernel) -> None:
    async with kernel.engine.connect() as connection:
        assert await connection.scalar(text("SELECT postgis_version()"))
        assert await connection.scalar(text("SELECT count(*) FROM outbox_lanes")) == 8
