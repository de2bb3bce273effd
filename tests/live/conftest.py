"""What many tests of rooms begin with."""

from collections.abc import AsyncIterator

import pytest
from hubhouse import House, listening


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    async with listening(house):
        yield house
