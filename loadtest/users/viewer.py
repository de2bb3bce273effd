# ruff: noqa: S311 - chance here decides what a viewer does, nothing secret
"""A viewer under Locust, with everything that a phone does."""

import random
import time
from collections import deque
from itertools import count
from uuid import uuid4

import gevent
from locust import task

from live import wire
from loadtest import comments
from loadtest.swarm.room import AGAIN, TAKEN
from loadtest.users import coupons
from loadtest.users.line import SPOT, RoomUser, config_of

ALLOWED = TAKEN | AGAIN
TASKS = ("comment", "like", "tap", "locate", "leave", "reconnect")
_numbers = count(1)


class ViewerUser(RoomUser):
    """Watches, chats, likes, looks at what is pinned, says where they are, claims coupons; leaves, and loses the
    network and comes back. How often: ``[viewer]`` of the configuration."""

    weight = 100

    def on_start(self) -> None:
        """Sign in; those who let themselves be located say so first."""
        self.random = random.Random()
        self.liked: deque[int] = deque()
        super().on_start()
        self.located = self.random.random() < config_of(self).viewer.located
        if self.located:
            self.ask("PUT", "/v1/me/consents/location", json={"version": "load test"})
            self.locate()

    def wait_time(self) -> float:
        """Between two things that a viewer does."""
        return self.random.uniform(*config_of(self).viewer.wait)

    def account(self) -> str:
        """Everybody their own, so that limits for one viewer do not limit the test."""
        return f"load-{next(_numbers)}-{uuid4().hex[:6]}"

    @task
    def act(self) -> None:
        """The next thing, by the configuration's weights."""
        habits = config_of(self).viewer
        getattr(self, self.choose({name: getattr(habits, name) for name in TASKS}))()

    def comment(self) -> None:
        """Say something new, as long as people's comments are."""
        id = self.new_id()
        self.command("comment", wire.Comment(id, comments.comment(self.random, int(time.time() * 1000))), id, ALLOWED)

    def like(self) -> None:
        """A few taps on the heart; not answered."""
        self.tell(wire.Like(self.random.randint(1, 10)))

    def tap(self) -> None:
        """Open the pinned product; not answered."""
        if self.pinned is not None:
            self.tell(wire.Tap(self.pinned))

    def locate(self) -> None:
        """Say where they are, if they agreed to."""
        if not self.located:
            return
        lng, lat = (each + self.random.uniform(-0.005, 0.005) for each in SPOT)
        id = self.new_id()
        self.command("locate", wire.Locate(round(lng, 7), round(lat, 7), "gcj02", 20.0, id), id, ALLOWED)

    def leave(self) -> None:
        """Go, and be somebody else who comes in."""
        self.on_stop()
        self.on_start()

    def reconnect(self) -> None:
        """Lose the network, and come back with what was missed."""
        if self.socket is not None:
            self.lose_network()

    def dropped(self, drop: wire.DropCard) -> None:
        """Try for a coupon at a moment of one's own."""
        habits = config_of(self).viewer
        if drop.mode == "claim" and self.located and self.random.random() < habits.claim:
            opens_in = max(0.0, drop.opens_at / 1000 - time.time()) + drop.spread / 1000
            gevent.spawn_later(opens_in + self.random.uniform(0, habits.claim_within), self.claim, drop)

    def claim(self, drop: wire.DropCard) -> None:
        """Ask for a coupon; asked to come again, ask again with the same id."""
        id = self.new_id()
        for _ in range(3):
            if self.leaving:
                return
            ack = self.command("claim", wire.Claim(id, drop.id), id, ALLOWED)
            if ack is None or ack.error is None or ack.error.code not in AGAIN:
                return
            gevent.sleep((ack.error.retry_after or 1.0) * self.random.uniform(1.0, 1.3))

    def won(self, coupon: wire.CouponCard) -> None:
        """Look at it, and perhaps bring it to a till."""
        self.tell(wire.Seen(coupon.id))
        coupons.won(coupon.code, coupon.store)
