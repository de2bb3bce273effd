"""The world of the coupons' tests."""

import pytest
from world import SIGNER_SEED, World, make_world

from coupons.codes import Signer
from kernel.process import Kernel


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


@pytest.fixture
def signer() -> Signer:
    return Signer(SIGNER_SEED)
