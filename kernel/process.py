"""What a process holds open. Apart from ``kernel.http``, because a gateway has no use for a web framework."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from kernel.identity import Keyring
from kernel.postgres import Sessions
from kernel.redis import Client
from kernel.settings import Settings


@dataclass(frozen=True, slots=True)
class Kernel:
    """What one process holds open for as long as it lives; the composition root makes it, routes read it."""

    settings: Settings
    engine: AsyncEngine
    sessions: Sessions
    redis: Client
    keyring: Keyring
