"""The world of the coupons' tests."""

from collections.abc import AsyncIterator

import pytest
from crms import Crm, listening
from tills import Tills, open_tills
from world import SIGNER_SEED, World, make_world

from coupons import ledger
from coupons.codes import Signer
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.process import Kernel


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


@pytest.fixture
def signer() -> Signer:
    return Signer(SIGNER_SEED)


@pytest.fixture
async def tills(world: World, signer: Signer) -> AsyncIterator[Tills]:
    async with open_tills(world, signer) as opened:
        yield opened


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    async with listening() as running:
        yield running


@pytest.fixture
async def issuer(world: World) -> AsyncIterator[Issuer]:
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        yield issuer
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []
