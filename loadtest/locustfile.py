"""Nearcast for Locust: viewers, guides, clerks, and swarms of thousands, through the real login and the room socket.

    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080                        # web UI at :8089
    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8080 -u 200 -r 20 -t 60s ViewerUser GuideUser
    locust -f loadtest/locustfile.py --headless -H … --shape peak --viewers 5000 --seconds 120 SwarmUser

Needs an API with ``NEARCAST_DEV_LOGIN=true``. A SwarmUser makes rooms of its own (or joins ``--room``); the others
watch ``--room``, or the newest live room of ``--brand``. Besides HTTP it reports ``WS join``, ``resume``, ``comment``,
``claim``, … (asked to answered) and ``EVENT certain``, ``latest``, ``lossy``: from the sender's stamp to this viewer,
so both clocks must agree; ``missed`` are certain events that came with a resume. A certain event that is lost or out of
order is a failure.
"""

import logging
import sys
from pathlib import Path
from typing import Any

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest import config
from loadtest.shapes import SHAPES, users_at
from loadtest.users.clerk import ClerkUser
from loadtest.users.guide import GuideUser
from loadtest.users.swarm import SwarmUser
from loadtest.users.viewer import ViewerUser

__all__ = ["ClerkUser", "GuideUser", "SwarmUser", "ViewerUser"]


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--brand", default="demo", help="Brand to sign in with")
    parser.add_argument(
        "--room", default="", help="Room to watch; left out: the newest live one (swarms make their own)"
    )
    parser.add_argument("--guide", default="guide-01", help="Account of the room's guide, for GuideUser")
    parser.add_argument("--end-room", action="store_true", help="GuideUser ends the room with the test")
    parser.add_argument("--evening", default="", help="TOML that changes some of loadtest/evening.toml")
    parser.add_argument("--shape", choices=["", *SHAPES], default="", help="How the load goes; with it -u is the most")
    parser.add_argument("--seconds", type=float, default=60.0, help="How long the shape lasts")
    parser.add_argument("--viewers", type=int, default=1000, help="Viewers of all swarms together")
    parser.add_argument("--swarms", type=int, default=1, help="SwarmUsers; with workers, as many as there are")
    parser.add_argument("--plan", default="", include_in_web_ui=False, help="Plan for the swarm (make loadtest's)")
    parser.add_argument("--timeline", default="", include_in_web_ui=False, help="File for the swarm's seconds, as JSON")


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    """Read the configuration once, and put on the shape that was asked for. A bad file ends Locust with its reason."""
    options = environment.parsed_options
    try:
        settings = config.load(Path(options.evening) if options.evening else None)
    except config.BadConfig as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(2)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for everybody who signs in
    environment.nearcast_config = settings
    ViewerUser.weight, ClerkUser.weight = settings.users.viewer, settings.users.clerk
    GuideUser.fixed_count = settings.users.guide
    SwarmUser.fixed_count = max(1, options.swarms)
    if options.shape:
        environment.shape_class = Chosen(options)
        environment.shape_class.runner = environment.runner


class Chosen(LoadTestShape):
    """The shape of ``--shape`` for Locust's own users: swarms are there from the beginning and play it themselves."""

    abstract = True  # else Locust would impose it on every test of this file
    use_common_options = True

    def __init__(self, options: Any) -> None:
        super().__init__()
        classes = set(options.user_classes or [])
        self._fixed = options.swarms if not classes or "SwarmUser" in classes else 0
        self._alone = classes == {"SwarmUser"}
        # A swarm ends the test itself: its seconds count from when its rooms are live, which many rooms take long for.
        self._grace = 300.0 if self._fixed else 0.0
        self._seconds = options.seconds
        self._at = users_at(SHAPES[options.shape], options.num_users or 1, options.seconds)

    def tick(self) -> tuple[int, float] | None:
        """See ``LoadTestShape``."""
        at = self.get_run_time()
        wanted = self._at(min(at, self._seconds - 1e-3))
        if wanted is None or at >= self._seconds + self._grace:
            return None
        users, rate = wanted
        return (0 if self._alone else users) + self._fixed, rate
