"""The till's REST interface as clerks and ops see it, with coupons to use there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from httpx import ASGITransport, AsyncClient, Response
from world import World

from coupons import codes, ledger
from coupons.codes import Signer
from coupons.issuing import Issuer
from coupons.routes import router
from geo.catchments import Catchments
from kernel.clock import now
from kernel.http import Kernel, install_error_handlers
from kernel.identity import Principal


class Caller:
    """The API as somebody sees it."""

    def __init__(self, world: World, client: AsyncClient) -> None:
        self.world, self.client = world, client

    async def __call__(
        self, who: Principal | None, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        if who is not None:
            headers["Authorization"] = f"Bearer {self.world.kernel.keyring.issue(who)}"
        return await self.client.request(method, f"/v1{path}", json=body, headers=headers)

    async def ok(self, who: Principal | None, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = await self(who, method, path, body, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    async def refused(self, who: Principal | None, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The problem that the answer is."""
        answer = await self(who, method, path, body, **more)
        assert answer.headers["Content-Type"] == "application/problem+json", answer.text
        assert answer.status_code >= 400 and answer.status_code != 500
        return answer.json()


class Tills(Caller):
    """Everybody's till."""

    def __init__(self, world: World, client: AsyncClient, issuer: Issuer, signer: Signer) -> None:
        super().__init__(world, client)
        self.signer, self._issuer = signer, issuer

    async def coupon(self, viewer: Principal | None = None, **terms: Any) -> str:
        """A new coupon's code as people read it."""
        (viewer,) = [viewer] if viewer else await self.world.viewers(1)
        drop = await self.world.drop(await self.world.campaign(**terms))
        return (await self._issuer.claim(viewer, self.world.room, drop, "c")).code

    def qr(self, code: str, *, ago_s: float = 0) -> str:
        """What the customer's screen showed ``ago_s`` seconds ago."""
        return self.signer.show_coupon(codes.parse(code), now().timestamp() - ago_s)


def serving(
    kernel: Kernel, routes: APIRouter = router, base_url: str = "http://api", who: Principal | None = None, **state: Any
) -> AsyncClient:
    """Calls ``routes`` alone, as ``who`` if that is given; ``state`` is what they find in their application."""
    app = FastAPI()
    app.state.kernel = kernel
    for name, found in state.items():
        setattr(app.state, name, found)
    app.include_router(routes)
    install_error_handlers(app)
    transport = ASGITransport(app, raise_app_exceptions=False)
    headers = {} if who is None else {"Authorization": f"Bearer {kernel.keyring.issue(who)}"}
    return AsyncClient(transport=transport, base_url=base_url, headers=headers)


@asynccontextmanager
async def open_tills(world: World, signer: Signer) -> AsyncIterator[Tills]:
    """Tills on an API without a network; whatever was done there, the ledger must agree."""
    async with (
        Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer,
        serving(world.kernel, signer=signer, issuer=issuer) as client,
    ):
        yield Tills(world, client, issuer, signer)
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []
