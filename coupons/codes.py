"""Coupon codes for the counter, and the signed QR payloads that change every 30 s.

A code is 80 random bits as 16 symbols of Crockford's base32 and a check symbol (mod 37), which finds every single
wrong symbol and every swap of two neighbours. Reading one is forgiving: case, hyphens, O for 0, I and L for 1.

The opening of a drop is signed too: the bytes of ``NO1.``, the drop's id, and, big-endian, its opening and its end
(64 bits each, milliseconds since 1970) and spread (32 bits, milliseconds); the signature is in base64.

A QR payload is ``NC1.`` (coupon) or ``NM1.`` (member) and base32 of: subject, time step, Ed25519 signature. It can be
checked with the public key alone, so a till may check it without a network.
"""

import base64
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kernel.errors import Refusal
from kernel.settings import SettingMissing, Settings

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CHECK_ALPHABET = ALPHABET + "*~$=U"
CODE_BYTES = 10
CODE_LENGTH = 16
STEP_SECONDS = 30
SKEW_SECONDS = 5
"""How far a till's or server's clock may be off without turning a live QR code away."""
COUPON_PREFIX = "NC1."
MEMBER_PREFIX = "NM1."
OPENING_PREFIX = "NO1."

_VALUES = {symbol: value for value, symbol in enumerate(CHECK_ALPHABET)}
_FORGIVEN = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})
# Standard base32 and Crockford's order the same 5-bit groups with other letters.
_FROM_STANDARD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ALPHABET.encode())
_TO_STANDARD = bytes.maketrans(ALPHABET.encode(), b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_TO_DIGITS = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")
"""The same 5-bit groups as `int` reads them."""
_DIGITS = np.zeros(256, np.int64)
_DIGITS[np.frombuffer(ALPHABET.encode(), np.uint8)] = np.arange(32)
_WEIGHTS = np.array([pow(32, place, 37) for place in reversed(range(CODE_LENGTH))])
"""What each symbol of a code counts for, modulo 37."""
_CHECKS = np.frombuffer(CHECK_ALPHABET.encode(), np.uint8)
_GROUPS = [place + place // 4 for place in range(CODE_LENGTH)]
_SHOWN_LENGTH = CODE_LENGTH + 5
"""Four groups of four symbols, and the check symbol, with hyphens between them."""
_SYMBOLS = (ALPHABET * 8).encode()
"""For each byte the symbol of its five lowest bits."""
_SIGNATURE_BYTES = 64


def new_code() -> str:
    """A code nobody can guess, without its check symbol: the form that is stored."""
    return new_codes(1)[0]


def new_codes(n: int) -> list[str]:
    """``n`` codes at the price of few: each symbol is five bits of a random byte of its own."""
    symbols = secrets.token_bytes(CODE_LENGTH * n).translate(_SYMBOLS).decode()
    return [symbols[start : start + CODE_LENGTH] for start in range(0, len(symbols), CODE_LENGTH)]


def _bytes_of(code: str) -> bytes:
    return base64.b32decode(code.encode().translate(_TO_STANDARD))


def display_all(stored: Sequence[str]) -> list[str]:
    """``display`` of each: all check symbols in one go."""
    symbols = np.frombuffer("".join(stored).encode(), np.uint8).reshape(-1, CODE_LENGTH)
    shown = np.full((len(symbols), _SHOWN_LENGTH), ord("-"), np.uint8)
    shown[:, _GROUPS] = symbols
    shown[:, -1] = _CHECKS[_DIGITS[symbols] @ _WEIGHTS % 37]
    text = shown.tobytes().decode()
    return [text[start : start + _SHOWN_LENGTH] for start in range(0, len(text), _SHOWN_LENGTH)]


def check_symbol(code: str) -> str:
    """The check symbol of a stored ``code``."""
    return CHECK_ALPHABET[int(code.translate(_TO_DIGITS), 32) % 37]


def display(code: str) -> str:
    """``code`` with its check symbol, in groups that people can read out: ``XXXX-XXXX-XXXX-XXXX-C``."""
    return f"{code[:4]}-{code[4:8]}-{code[8:12]}-{code[12:]}-{check_symbol(code)}"


def parse(typed: str) -> str:
    """The stored form of what somebody typed; Refusal ``code_mistyped`` if it cannot be a code."""
    symbols = typed.strip().upper().translate(_FORGIVEN)
    code, check = symbols[:CODE_LENGTH], symbols[CODE_LENGTH:]
    if len(symbols) != CODE_LENGTH + 1 or any(_VALUES.get(symbol, 37) > 31 for symbol in code):
        raise Refusal("code_mistyped")
    if check != check_symbol(code):
        raise Refusal("code_mistyped")
    return code


@dataclass(frozen=True, slots=True)
class Shown:
    """What a genuine QR payload says: whose it is, and the time step (30 s since 1970) it was made for."""

    subject: bytes
    step: int

    def require_fresh(self, now: float) -> None:
        """Refusal ``qr_expired`` unless made for the current or the previous step at ``now`` (seconds since 1970)."""
        begin = self.step * STEP_SECONDS
        if not begin - SKEW_SECONDS <= now < begin + 2 * STEP_SECONDS + SKEW_SECONDS:
            raise Refusal("qr_expired")

    @property
    def code(self) -> str:
        """The stored form of the coupon's code."""
        return base64.b32encode(self.subject).translate(_FROM_STANDARD).decode()

    @property
    def member(self) -> UUID:
        """The member's id."""
        return UUID(bytes=self.subject)


def step_at(now: float) -> int:
    """The time step of ``now`` (seconds since 1970)."""
    return int(now // STEP_SECONDS)


class Signer:
    """Makes and checks QR payloads."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """With the key of ``settings``. Raises SettingMissing, or ValueError for one that is not 32 bytes in base64."""
        if settings.coupon_key is None:
            raise SettingMissing("no coupon key: set NEARCAST_COUPON_KEY to 32 random bytes in base64")
        return cls(base64.b64decode(settings.coupon_key.get_secret_value(), validate=True))

    @property
    def public_key(self) -> bytes:
        """The 32 bytes with which anybody can check a payload."""
        return self._public.public_bytes_raw()

    def show_coupon(self, code: str, now: float) -> str:
        """The QR payload of a coupon's stored ``code`` at ``now`` (seconds since 1970)."""
        return self._sign(COUPON_PREFIX, _bytes_of(code), step_at(now))

    def show_member(self, member: UUID, now: float) -> str:
        """The QR payload of a member at ``now`` (seconds since 1970)."""
        return self._sign(MEMBER_PREFIX, member.bytes, step_at(now))

    def sign_opening(self, drop: UUID, opens_at: int, ends_at: int, spread: int) -> str:
        """What shows that a drop opens when its card says so (times in milliseconds): see ``opening_is_ours``."""
        message = _opening(drop, opens_at, ends_at, spread)
        return base64.b64encode(self._key.sign(message)).decode()

    def _sign(self, prefix: str, subject: bytes, step: int) -> str:
        message = subject + struct.pack(">I", step)
        # Upper-case letters, digits and the point: QR's alphanumeric mode, so the picture has fewer, larger squares.
        return prefix + base64.b32encode(message + self._key.sign(prefix.encode() + message)).decode().rstrip("=")

    def read_coupon(self, payload: str) -> Shown:
        """What a coupon's QR code says, however old it is; Refusal ``code_mistyped`` if it is not one of ours."""
        return read(self._public, COUPON_PREFIX, payload, CODE_BYTES)

    def read_member(self, payload: str) -> Shown:
        """What a member's QR code says, however old it is; Refusal ``code_mistyped`` if it is not one of ours."""
        return read(self._public, MEMBER_PREFIX, payload, 16)


def _opening(drop: UUID, opens_at: int, ends_at: int, spread: int) -> bytes:
    return OPENING_PREFIX.encode() + drop.bytes + struct.pack(">QQI", opens_at, ends_at, spread)


def opening_is_ours(key: Ed25519PublicKey, drop: UUID, opens_at: int, ends_at: int, spread: int, signed: str) -> bool:
    """Whether a drop's card says the times that we announced, by the public key alone."""
    try:
        key.verify(base64.b64decode(signed, validate=True), _opening(drop, opens_at, ends_at, spread))
    except (ValueError, InvalidSignature):
        return False
    return True


def read(key: Ed25519PublicKey, prefix: str, payload: str, subject_bytes: int) -> Shown:
    """Check ``payload`` with the public key alone; Refusal ``code_mistyped``. Its age is for the caller to judge."""
    body = payload.strip().removeprefix(prefix)
    try:
        raw = base64.b32decode(body.encode("ascii") + b"=" * (-len(body) % 8))
        if not payload.strip().startswith(prefix) or len(raw) != subject_bytes + 4 + _SIGNATURE_BYTES:
            raise Refusal("code_mistyped", "This is not one of our QR codes.")
        message, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
        key.verify(signature, prefix.encode() + message)
    except (ValueError, InvalidSignature) as error:
        raise Refusal("code_mistyped", "This is not one of our QR codes.") from error
    return Shown(message[:-4], struct.unpack(">I", message[-4:])[0])
