"""The REST process: every domain's routes, the pages, health and metrics, on one FastAPI application."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic, perf_counter
from urllib.parse import urlsplit

import structlog
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Histogram, generate_latest
from sqlalchemy import text
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import coupons.routes
import coupons.wallet_routes
import coupons.webhook_routes
import geo.routes
import guides.routes
import live.routes
from app import health_routes, privacy_routes
from app.processes import open_kernel, sessions_for_claims, until_stopped, watch_loop
from coupons.codes import Signer
from coupons.issuing import Issuer
from coupons.wechat_card import Cards
from geo.catchments import Catchments
from kernel import tracing
from kernel.bodies import Bounded
from kernel.described import complete
from kernel.erasures import Erasures
from kernel.errors import Refusal
from kernel.http import install_error_handlers, problem_response, request_id
from kernel.process import Kernel
from kernel.redis import answers
from kernel.settings import Settings
from kernel.tasks import end
from live import asyncapi
from live.streams import Studio

log = structlog.get_logger()

WEB = Path(__file__).parent.parent / "web"
PAGES = {"/": "index", "/watch": "watch", "/guide": "guide", "/clerk": "clerk", "/ops": "ops"}
_A_LIST = 1 << 20
LARGER = {
    "/v1/campaigns": _A_LIST,  # of stores
    "/v1/campaigns/import": 4 << 20,
    "/v1/ops/words": _A_LIST,
    "/v1/stores": _A_LIST,  # a trade area
    "/v1/till/sync": _A_LIST,
}
"""Bytes that bodies may have where the common bound is too small. ``deploy/nginx.conf`` lets through the largest."""
ANSWER_SECONDS = 25.0
"""Within which every answer begins: a server behind us that stands still keeps connections open and says nothing."""
READY_SECONDS = 2
"""How long a dependency may take to answer before we call ourselves not ready."""
LEAVE_SECONDS = 3.0
"""How long we serve on after SIGTERM while connections are open, and ask each to close: longer than `deploy/nginx.conf`
keeps an idle one, so that no request is on its way into a connection that ends."""

# Pages load only what this host serves, and play what the media server does; sockets may live on another port.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; media-src 'self' blob:{}; "
    "connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Others are counted as one: a client may make up any word."""
REQUEST_SECONDS = Histogram(
    "nearcast_http_request_seconds", "Time to answer, by route", ["method", "route", "status"], registry=REGISTRY
)


def create_app(kernel: Kernel) -> FastAPI:
    """The application around ``kernel``, which the caller opens and closes."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(Erasures(kernel.sessions, kernel.keyring).run(), name="erasures")
        try:
            async with (
                AsyncExitStack() as optional,
                watch_loop(),
                Catchments(kernel.sessions) as catchments,
                sessions_for_claims(kernel.settings) as sessions,
                Issuer(sessions, catchments) as issuer,
            ):
                app.state.issuer = issuer
                app.state.cards = None
                if kernel.settings.wechat_card_app_id:
                    app.state.cards = await optional.enter_async_context(Cards(kernel.settings))
                yield
        finally:
            await end(following)

    app = FastAPI(
        title="Nearcast",
        version="1",
        summary="Live shopping rooms, and coupons from the stores near each viewer.",
        description="Refusals are `application/problem+json` with a stable `code`. Money is in fen. "
        "The room socket is described in `docs/protocol.md`, and for machines in `/asyncapi.json`.",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.kernel = kernel
    app.state.leaving = False
    # Here, so that a missing key is noticed at the start.
    app.state.signer = Signer.from_settings(kernel.settings)
    Studio.from_settings(kernel.settings)
    install_error_handlers(app)
    coupon_routes = (coupons.routes, coupons.wallet_routes, coupons.webhook_routes)
    for routes in (guides.routes, geo.routes, live.routes, *coupon_routes, health_routes, privacy_routes):
        app.include_router(routes.router)
    app.add_middleware(Bounded, keyring=kernel.keyring, larger=LARGER)
    app.add_middleware(_Measured, policy=CONTENT_SECURITY_POLICY.format(_played_from(kernel.settings)))
    _add_health(app, kernel)
    _add_room_protocol(app)
    _add_pages(app)
    by_routes = app.openapi
    app.openapi = lambda: complete(by_routes())  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _played_from(settings: Settings) -> str:
    """The media server's origin, as one more source of a policy; empty without one."""
    address = urlsplit(settings.stream_play_url.get("hls", ""))
    return f" {address.scheme}://{address.netloc}" if address.netloc else ""


class _Measured:
    """Times every request by its route, adds the headers that every answer carries, and answers for defects and for
    what takes too long.

    Plain ASGI: it is on the path of every redemption and login, and the framework's own middleware base costs a task
    and a stream for each.
    """

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = perf_counter()
        request = request_id(scope)
        begun = False
        structlog.contextvars.bind_contextvars(request=request)

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                # The route's template, not the path: identifiers must not become label values.
                route = getattr(scope.get("route"), "path", "unmatched")
                method = scope["method"] if scope["method"] in METHODS else "other"
                REQUEST_SECONDS.labels(method, route, message["status"]).observe(perf_counter() - started)
                mark.note(f"{method} {route}", status=message["status"])
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if scope["app"].state.leaving:
                    headers["Connection"] = "close"
                if scope["path"].startswith(("/pages/", "/client/", "/art/")) or route in PAGES:
                    # Kept, but asked for again each time: a deploy in the afternoon must not mix with this morning.
                    headers.setdefault("Cache-Control", "no-cache")
                if route in PAGES:
                    headers["Content-Security-Policy"] = self._policy
                    headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        async def in_time(message: Message) -> None:
            deadline.reschedule(None)  # once begun, a long answer may take its time
            await answer(message)

        with tracing.span("request", request=request) if scope["path"].startswith("/v1/") else tracing.UNTRACED as mark:
            try:
                async with asyncio.timeout(ANSWER_SECONDS) as deadline:
                    await self._app(scope, receive, in_time)
            except Exception:
                if deadline.expired():
                    log.warning("request_given_up", request=request)
                    return await problem_response(Refusal("unavailable", retry_after=2))(scope, receive, answer)
                log.exception("request_failed", request=request)
                if begun:
                    raise  # what was promised cannot be kept: the connection ends
                await problem_response(Refusal("internal", request=request))(scope, receive, answer)


async def _failing(kernel: Kernel) -> list[str]:
    """Which of the services behind us do not answer."""

    async def asked() -> None:
        async with kernel.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    asking = {"postgresql": asyncio.create_task(asked()), "redis": asyncio.create_task(answers(kernel.redis))}
    await asyncio.wait(asking.values(), timeout=READY_SECONDS)
    failing = [name for name, task in asking.items() if not task.done() or task.exception() is not None]
    for task in asking.values():
        task.cancel()  # not waited for: hanging up on a server that stands still takes another while
    return failing


def _add_health(app: FastAPI, kernel: Kernel) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        failing = await _failing(kernel)
        if app.state.leaving:
            failing.append("leaving")
        return JSONResponse(
            {"status": "not ready" if failing else "ready", "failing": failing}, 503 if failing else 200
        )

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


def _add_room_protocol(app: FastAPI) -> None:
    @app.get("/asyncapi.json", include_in_schema=False)
    async def room_protocol() -> Response:
        return Response(asyncapi.encoded(), media_type="application/json")


def _add_pages(app: FastAPI) -> None:
    for path, page in PAGES.items():
        app.add_api_route(
            path,
            lambda page=page: FileResponse(WEB / "pages" / f"{page}.html"),
            include_in_schema=False,
            response_class=FileResponse,
        )
    for folder in ("pages", "client", "art"):
        app.mount(f"/{folder}", StaticFiles(directory=WEB / folder), name=folder)


class _Server(uvicorn.Server):
    """Leaves signals to us: its own handler would stop listening at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _leave(app: FastAPI, server: uvicorn.Server, stop: asyncio.Event) -> None:
    """Once ``stop`` is set: turn red, let connections go, then end ``server``, which answers what it has begun."""
    await stop.wait()
    app.state.leaving = True
    leave_at = monotonic() + LEAVE_SECONDS
    while server.server_state.connections and monotonic() < leave_at:  # noqa: ASYNC110 - nobody tells when they end
        await asyncio.sleep(0.05)
    server.should_exit = True


async def _serve(app: FastAPI, server: uvicorn.Server, stop: asyncio.Event) -> None:
    leaving = asyncio.ensure_future(_leave(app, server, stop))
    try:
        await server.serve()
    finally:
        await end(leaving)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then leave without dropping a request."""
    async with open_kernel(settings) as kernel:
        app = create_app(kernel)
        server = _Server(
            uvicorn.Config(
                app,
                host=settings.api_host,
                port=settings.api_port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=10,
            )
        )
        log.info("api_started", url=f"http://{settings.api_host}:{settings.api_port}")
        stop = asyncio.Event()
        await until_stopped(_serve(app, server, stop), stop.set)
