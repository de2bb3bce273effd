"""The worker: tells what was committed, grants push drops, ends what is over, and forgets what must be forgotten.

Any number may run; each duty takes its work by row locks, so that two workers never do the same thing twice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import structlog
from prometheus_client import REGISTRY, Counter, start_http_server

from app import privacy, relay, retention
from app.notifier import CouponNotifier, Notifier
from app.processes import open_kernel, until_stopped, watch_loop
from app.retention import Rule
from coupons import drops, holding, ledger, months, push, reviews
from coupons import reminders as coupon_reminders
from coupons.deliveries import Courier
from coupons.siblings import Siblings
from guides.notices import Notices
from kernel import garbage, tracing
from kernel.clock import now
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.settings import Settings
from kernel.tasks import end
from live import comments, reminders, rooms, streams, summary
from live.bus import RedisBus
from live.life import Watch

log = structlog.get_logger()

PUSHED = Counter("nearcast_push_coupons", "Coupons granted by push drops", registry=REGISTRY)
FAILURES = Counter(
    "nearcast_worker_failures", "Turns of a duty that failed and were tried again", ["duty"], registry=REGISTRY
)
MAX_BACKOFF_SECONDS = 5.0
"""How long a duty rests after many failures, at most."""
RELAY_BACKOFF_SECONDS = 1.0
"""So long at most after Redis or PostgreSQL are back nobody tells rooms anything. Gateways open a room whose log was
lost when what was said before is told, and wait a little longer for that (``live.desk.SETTLE_SECONDS``)."""
WELL_SECONDS = 60.0
"""A turn that failed after more than this was well before."""

Duty = Callable[[], Awaitable[object]]


def _rest(name: str, failures: int) -> float:
    """Seconds until the duty ``name`` is tried again that has failed so often before this time."""
    most = RELAY_BACKOFF_SECONDS if name == "relay" else MAX_BACKOFF_SECONDS
    return min(most, 0.2 * float(2 ** min(failures, 6)))


async def _supervised(name: str, duty: Duty, pause: float) -> None:
    """Do ``duty`` again and again. A failed turn is logged with its traceback, counted, and tried again later:
    a database that restarts must not end the evening, and one sick duty must not take the others down."""
    failures = 0
    while True:
        began = monotonic()
        try:
            await duty()
            failures = 0  # else the third fault of an evening would be answered as if the first two had never ended
            await asyncio.sleep(pause)
        except Exception:
            FAILURES.labels(name).inc()
            log.exception("duty_failed", duty=name)
            if monotonic() - began > WELL_SECONDS:  # the relay's turn has no other end
                failures = 0
            await asyncio.sleep(_rest(name, failures))
            failures += 1


async def _grant_pushes(kernel: Kernel) -> None:
    async with kernel.sessions() as session:
        waiting = await drops.due(session)
    for drop in waiting:
        async with kernel.sessions() as session:
            origin = await relay.origin_of_drop(session, drop) if tracing.enabled() else ""
        with tracing.follow("push coupons", origin, drop=str(drop)) as mark:
            granted = await push.run_push(kernel.sessions, drop)
            mark.note(coupons=granted)
        PUSHED.inc(granted)
        log.info("push_granted", drop=str(drop), coupons=granted)


async def _keep_comments(kernel: Kernel) -> None:
    async with kernel.sessions() as session:
        speaking = await comments.rooms_to_drain(session, now())
    await comments.store_kept(kernel.sessions, kernel.redis, speaking)


async def _look_at_outbox(kernel: Kernel) -> None:
    async with kernel.sessions() as session:
        told = await relay.waiting(session)
    relay.WAITING.set(told.events)
    relay.OLDEST.set(told.age)


async def _unpin(kernel: Kernel) -> None:
    async with transaction(kernel.sessions) as session:
        await rooms.unpin_due(session, now())


async def _keep_figures(kernel: Kernel) -> None:
    async with transaction(kernel.sessions) as session:
        await summary.keep_figures(session, kernel.redis)


async def _notice_silence(kernel: Kernel) -> None:
    async with transaction(kernel.sessions) as session:
        if gone := await streams.forget_silent(session):
            log.info("streams_silent", connections=gone)


async def _forget(kernel: Kernel, wanted: Sequence[Rule]) -> None:
    if gone := await retention.forget(kernel.sessions, wanted, now()):
        log.info("forgotten", **gone)


async def _expire_coupons(kernel: Kernel) -> None:
    while await ledger.expire_due(kernel.sessions, now()):
        pass


async def _tell_held(kernel: Kernel) -> None:
    while await holding.tell_due(kernel.sessions, now()):
        pass


async def _announce_expiring(kernel: Kernel) -> None:
    while await coupon_reminders.announce_due(kernel.sessions, now()):
        pass


async def _keep_months(kernel: Kernel) -> None:
    async with transaction(kernel.sessions) as session:
        if made := await months.keep_ready(session, now()):
            log.info("ledger_months", made=made)


async def run(kernel: Kernel, stopping: asyncio.Event) -> None:
    """Do every duty until ``stopping`` is set."""
    async with AsyncExitStack() as optional:
        duties = _duties(kernel)
        courier = await optional.enter_async_context(Courier(kernel.sessions, kernel.settings.webhook_hosts))
        duties.append(("webhooks", courier.turn, 0.5))
        if template := kernel.settings.wechat_reminder_template:
            notices = await optional.enter_async_context(Notices(kernel.settings, kernel.sessions, template))
            notifier = Notifier(kernel.settings, notices)
            duties.append(("remind", lambda: reminders.send_due(kernel.sessions, notifier), 2.0))
        if template := kernel.settings.wechat_expiry_template:
            about_coupons = await optional.enter_async_context(Notices(kernel.settings, kernel.sessions, template))
            coupon_notifier = CouponNotifier(kernel.settings, about_coupons)
            duties.append(("remind_coupons", lambda: coupon_reminders.send_due(kernel.sessions, coupon_notifier), 10.0))
        garbage.settle()
        await _work(duties, stopping)


def _duties(kernel: Kernel) -> list[tuple[str, Duty, float]]:
    bus = RedisBus(kernel.redis, log_length=kernel.settings.room_log_length)
    watch, siblings = Watch(kernel.sessions), Siblings()
    quick, slow = retention.quick(kernel.settings), retention.rules(kernel.settings)
    return [
        ("relay", lambda: relay.run(kernel.settings, kernel.sessions, bus), 0.2),
        ("look_at_outbox", lambda: _look_at_outbox(kernel), 2.0),
        ("push", lambda: _grant_pushes(kernel), 0.2),
        ("close_drops", lambda: drops.close_due(kernel.sessions, now()), 0.5),
        ("tell_siblings", lambda: siblings.tell(kernel.sessions), 0.5),
        ("unpin", lambda: _unpin(kernel), 0.5),
        ("watch_guides", watch.turn, 1.0),
        ("notice_silence", lambda: _notice_silence(kernel), 5.0),
        ("keep_comments", lambda: _keep_comments(kernel), 0.5),
        ("keep_figures", lambda: _keep_figures(kernel), 5.0),
        ("tell_held", lambda: _tell_held(kernel), 1.0),
        ("expire_coupons", lambda: _expire_coupons(kernel), 5.0),
        ("announce_expiring", lambda: _announce_expiring(kernel), 60.0),
        ("expire_reviews", lambda: reviews.expire_due(kernel.sessions, now()), 5.0),
        ("erase", lambda: privacy.sweep(kernel.sessions, kernel.redis, now()), 2.0),
        ("forget_fixes", lambda: _forget(kernel, quick), 15.0),
        ("forget", lambda: _forget(kernel, slow), 600.0),
        ("ledger_months", lambda: _keep_months(kernel), 3600.0),
    ]


async def _work(duties: list[tuple[str, Duty, float]], stopping: asyncio.Event) -> None:
    for name, _, _ in duties:
        FAILURES.labels(name)
    tasks = {asyncio.create_task(_supervised(name, duty, pause), name=name) for name, duty, pause in duties}
    try:
        await stopping.wait()
    finally:
        await end(*tasks)


@asynccontextmanager
async def _metrics(settings: Settings) -> AsyncIterator[None]:
    """``/metrics`` in a thread of its own, if there is a port for it. Raises OSError when that is taken."""
    if not settings.worker_port:
        yield
        return
    server, thread = start_http_server(settings.worker_port, settings.worker_host, REGISTRY)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    async with open_kernel(settings) as kernel, _metrics(settings), watch_loop():
        await until_stopped(run(kernel, stopping), stopping.set)
        log.info("worker_stopped")
