"""Principals and their tokens: who is asking, in which brand, as what."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import jwt

from kernel.errors import Refusal
from kernel.ids import BrandId
from kernel.settings import SettingMissing, Settings

ALGORITHM = "HS256"
MAX_HEADERS = 64


class Role(StrEnum):
    """The four roles. A token carries exactly one."""

    VIEWER = "viewer"
    GUIDE = "guide"
    CLERK = "clerk"
    OPS = "ops"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose token was checked. ``store`` is set for clerks: the one till they stand at."""

    brand: BrandId
    subject: UUID
    role: Role
    name: str
    expires_at: datetime
    store: UUID | None = None
    tier: int = 0


class Keyring:
    """Issues and checks tokens. Keys rotate by ``kid``: the newest signs, every one that is still listed verifies."""

    def __init__(self, keys: dict[str, str]) -> None:
        if not keys:
            raise SettingMissing("no token key: set NEARCAST_TOKEN_KEYS")
        self._keys = keys
        self._signing = list(keys)[-1]
        # First segment of tokens that were good → their kid. Ours all begin alike, and reading it is half the work.
        self._headers: dict[str, str] = {}
        self._erased: set[UUID] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> "Keyring":
        """The keys of ``settings``. Raises SettingMissing when there are none."""
        return cls({kid: key.get_secret_value() for kid, key in settings.token_keys.items()})

    def issue(self, principal: Principal) -> str:
        """A signed token for ``principal``, valid until its ``expires_at``."""
        claims: dict[str, Any] = {
            "sub": str(principal.subject),
            "brand": principal.brand,
            "role": principal.role.value,
            "name": principal.name,
            "tier": principal.tier,
            "exp": int(principal.expires_at.timestamp()),
        }
        if principal.store is not None:
            claims["store"] = str(principal.store)
        return jwt.encode(claims, self._keys[self._signing], algorithm=ALGORITHM, headers={"kid": self._signing})

    def refuse(self, subject: UUID) -> None:
        """``subject`` was erased: from now on no token of theirs is good."""
        self._erased.add(subject)

    def refuses(self, subject: UUID) -> bool:
        """Whether the tokens of ``subject`` are refused."""
        return subject in self._erased

    def verify(self, token: str, now: datetime, *, even_erased: bool = False) -> Principal:
        """The principal of ``token`` at ``now``; Refusal ``token_invalid``, ``token_expired`` or ``account_erased``.

        ``even_erased`` is for the one request that somebody who was erased may repeat.
        """
        try:
            header = token.partition(".")[0]
            kid = self._headers.get(header) or jwt.get_unverified_header(token).get("kid", "")
            claims = jwt.decode(
                token,
                self._keys[kid],
                algorithms=[ALGORITHM],
                options={"require": ["sub", "exp"], "verify_exp": False},
            )
            principal = Principal(
                brand=BrandId(claims["brand"]),
                subject=UUID(claims["sub"]),
                role=Role(claims["role"]),
                name=claims["name"],
                expires_at=datetime.fromtimestamp(claims["exp"], UTC),
                store=UUID(claims["store"]) if "store" in claims else None,
                tier=int(claims.get("tier", 0)),
            )
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            raise Refusal("token_invalid") from error
        if len(self._headers) < MAX_HEADERS:
            self._headers[header] = kid
        if principal.expires_at <= now:
            raise Refusal("token_expired")
        if principal.subject in self._erased and not even_erased:
            raise Refusal("account_erased")
        return principal


def expiry(now: datetime, settings: Settings) -> datetime:
    """When a token issued at ``now`` ends, in whole seconds as tokens count."""
    return now.replace(microsecond=0) + timedelta(seconds=settings.token_ttl_seconds)
