"""A database with two stores, for a machine that knows nothing of loops to play on."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from world import SIGNER_SEED, World, make_world

from coupons.codes import Signer
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.errors import Refusal
from kernel.identity import Keyring
from kernel.postgres import create_engine, create_sessions, transaction
from kernel.process import Kernel
from kernel.redis import create_client
from kernel.settings import Settings

STORES = {"S1": 0.0, "S2": 2_000.0}
"""Metres north of the origin."""


class House:
    """A database with two stores, and a loop to ask it from a machine that knows nothing of loops."""

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self.happened: Counter[str] = Counter()
        self.signer = Signer(SIGNER_SEED)
        self._settings = settings

    def __enter__(self) -> "House":
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._close())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    async def _open(self) -> None:
        engine, client = create_engine(self._settings), create_client(self._settings)
        kernel = Kernel(self._settings, engine, create_sessions(engine), client, Keyring.from_settings(self._settings))
        self.world: World = await make_world(kernel)
        await self.world.store("S2", STORES["S2"])
        self.issuer = Issuer(kernel.sessions, Catchments(kernel.sessions))
        self.issuer.start()

    async def _close(self) -> None:
        await self.issuer.stop()
        await self.world.kernel.redis.aclose()
        await self.world.kernel.engine.dispose()

    async def do(self, use_case: Any, *arguments: Any) -> Any:
        """A use case in a transaction of its own: what it returns, or the code of its refusal."""
        try:
            async with transaction(self.world.kernel.sessions) as session:
                return await use_case(session, *arguments)
        except Refusal as refusal:
            return refusal.code
