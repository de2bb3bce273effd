# ruff: noqa: S311 - chance here decides what a guide does, nothing secret
"""A guide under Locust."""

import random
import time
from uuid import UUID

from locust import task

from live import wire
from loadtest import comments
from loadtest.users.line import RoomUser, config_of

BUSY = frozenset({"busy", "unavailable"})


class GuideUser(RoomUser):
    """The room's guide, exactly one: takes the chair, pins the shelf's products in turn, announces, opens drops.

    Name the classes to run without it: ``locust … ViewerUser``. ``--guide`` must be the account of the room's own
    guide; with ``--end-room`` the room is ended with the test.
    """

    role = "guide"
    fixed_count = 1

    def on_start(self) -> None:
        """Take the chair; the room goes live, if it was not."""
        super().on_start()
        self.campaign = self.running_campaign()
        id = self.new_id()
        self.command("start", wire.Start(id), id, BUSY)

    def on_stop(self) -> None:
        """End the room, if that is wanted."""
        if self.options.end_room and getattr(self, "socket", None) is not None:
            id = self.new_id()
            self.command("end", wire.End(id), id, BUSY)
        super().on_stop()

    def account(self) -> str:
        """The guide of the room."""
        return str(self.options.guide)

    def wait_time(self) -> float:
        """Between two things that a guide does."""
        return random.uniform(*config_of(self).guide.wait)

    def running_campaign(self) -> UUID | None:
        """Of the running campaigns that are for everybody, the one with most left; None where there is none."""
        found = [
            campaign
            for campaign in self.ask("GET", "/v1/campaigns")["items"]
            if campaign["state"] == "running" and not campaign["min_tier"] and not campaign["segments"]
        ]
        most = max(found, key=lambda campaign: campaign["stock"] - campaign["issued"], default=None)
        return None if most is None else UUID(most["id"])

    @task
    def act(self) -> None:
        """The next thing, by the configuration's weights."""
        habits = config_of(self).guide
        getattr(self, self.choose({name: getattr(habits, name) for name in ("pin", "announce", "drop")}))()

    def pin(self) -> None:
        """Explain the next product."""
        if self.shelf:
            self.shelf = [*self.shelf[1:], self.shelf[0]]
            id = self.new_id()
            self.command("pin", wire.Pin(id, self.shelf[0]), id, BUSY)

    def announce(self) -> None:
        """Something certain for everybody, stamped: from this the delay of certain events is known."""
        id = self.new_id()
        self.command("announce", wire.Announce(id, "今晚满减" + comments.stamp(int(time.time() * 1000))), id, BUSY)

    def drop(self) -> None:
        """Release coupons to whoever claims first."""
        if self.campaign is not None:
            habits, id = config_of(self).guide, self.new_id()
            frame = wire.Drop(id, self.campaign, "claim", habits.stock, habits.drop_seconds)
            self.command("drop", frame, id, BUSY | {"sold_out", "campaign_state", "invalid"})
