# ruff: noqa: S311 - chance here decides what a clerk does, nothing secret
"""A clerk under Locust: redeems over REST what viewers of the same process won, and what nobody won."""

import random
import time
from collections import defaultdict, deque
from typing import Any, ClassVar
from uuid import uuid4

from locust import FastHttpUser, task

from loadtest.users import coupons
from loadtest.users.line import config_of

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ORDER_FEN = 20_000
TASKS = ("redeem", "mistyped", "unknown", "twice")
WRONG = 8
WRONG_AT_STORE = 36
WRONG_SECONDS = 600
"""With ten wrong codes in so many seconds a clerk may type no more, with forty a store: clerks here stay below."""


class ClerkUser(FastHttpUser):
    """Stands at whichever till the next coupon is for. A wrong code must be refused, and refused rightly: anything else
    is a failure. How often: ``[clerk]`` of the configuration."""

    weight = 2
    wrong_at: ClassVar[defaultdict[str, deque[float]]] = defaultdict(deque)
    """When wrong codes were typed, by store and by clerk and store; of all clerks of this process."""

    def on_start(self) -> None:
        """A clerk of their own, at whichever store."""
        self.name = uuid4().hex[:8]
        self.tokens: dict[str, str] = {}

    def wait_time(self) -> float:
        """Between two customers."""
        return random.uniform(*config_of(self).clerk.wait)

    @task
    def act(self) -> None:
        """The next customer."""
        habits = config_of(self).clerk
        weights = {name: getattr(habits, name) for name in TASKS}
        getattr(self, random.choices(list(weights), list(weights.values()))[0])()

    def redeem(self) -> None:
        """The code is right."""
        if (coupon := coupons.next_one()) is not None:
            self.present(*coupon, expected=frozenset({200}))

    def twice(self) -> None:
        """The same coupon again, with a new key: refused, because it is used."""
        if (coupon := coupons.next_one()) is not None:
            self.present(*coupon, expected=frozenset({200}))
            self.present(*coupon, expected=frozenset({"already_redeemed"}))

    def mistyped(self) -> None:
        """One symbol wrong; refused without a look at the database. The coupon itself is used then."""
        if (coupon := coupons.next_one()) is None:
            return
        code, store = coupon
        if self.may_err(store):
            wrong = ALPHABET[(ALPHABET.index(code[0]) + 1) % len(ALPHABET)] + code[1:]
            self.present(wrong, store, expected=frozenset({"code_mistyped"}))
        self.present(code, store, expected=frozenset({200}))

    def unknown(self) -> None:
        """A code that nobody was given; with a check symbol that is wrong as often as not."""
        code = "".join(random.choices(ALPHABET, k=17))
        store = next(iter(self.tokens), None)
        if store is not None and self.may_err(store):
            self.present(code, store, expected=frozenset({"code_unknown", "code_mistyped"}))

    def may_err(self, store: str) -> bool:
        """Whether one more wrong code still stops nobody; then it is counted."""
        now = time.monotonic()
        kept = ((self.wrong_at[store], WRONG_AT_STORE), (self.wrong_at[f"{self.name} {store}"], WRONG))
        for times, _ in kept:
            while times and now - times[0] > WRONG_SECONDS:
                times.popleft()
        if any(len(times) >= most for times, most in kept):
            return False
        for times, _ in kept:
            times.append(now)
        return True

    def present(self, code: str, store: str, expected: frozenset[int | str]) -> None:
        """Type ``code`` at the till of ``store``; what is not ``expected`` (200, or a refusal's code) is a failure."""
        token = self.till(store)
        if token is None:
            return
        name = "redeem" if 200 in expected else "redeem, wrong"
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
        body = {"code": code, "order_fen": ORDER_FEN}
        with self.client.post("/v1/redemptions", json=body, headers=headers, name=name, catch_response=True) as answer:
            said: Any = 200 if answer.status_code == 200 else _code(answer)
            if said in expected:
                answer.success()
            else:
                answer.failure(f"{said} instead of {', '.join(map(str, sorted(expected, key=str)))}")

    def till(self, store: str) -> str | None:
        """A token for the till of ``store``; None where the deployment does not give one."""
        if store not in self.tokens:
            body = {
                "brand": self.environment.parsed_options.brand, "role": "clerk", "account": f"load-{store}-{self.name}",
                "store_code": store,
            }  # fmt: skip
            with self.client.post("/v1/auth/dev", json=body, catch_response=True) as answer:
                if answer.status_code != 200:
                    answer.failure(f"no clerk for {store}: {answer.status_code}")
                    return None
                self.tokens[store] = answer.json()["token"]
        return self.tokens[store]


def _code(answer: Any) -> str:
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return str(answer.status_code)
