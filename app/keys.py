"""Signing keys for a checkout whose environment names none: made once, kept beside the embedded servers' data."""

import base64
import json
import secrets
from pathlib import Path

from pydantic import SecretStr

from kernel.settings import Settings


def _kept(path: Path) -> dict[str, str]:
    """The keys at ``path``, made on first use: ``token`` (text) and ``coupon`` (Ed25519 seed, base64)."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {"token": secrets.token_urlsafe(32), "coupon": base64.b64encode(secrets.token_bytes(32)).decode()}
        fresh = path.with_suffix(".new")
        fresh.touch(0o600)
        fresh.write_text(json.dumps(made))
        fresh.rename(path)
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def with_keys(settings: Settings) -> Settings:
    """``settings``, with this checkout's own keys where the environment named none."""
    if settings.token_keys and settings.coupon_key:
        return settings
    kept = _kept(settings.state_dir / "keys.json")
    return settings.model_copy(
        update={
            "token_keys": settings.token_keys or {"checkout": SecretStr(kept["token"])},
            "coupon_key": settings.coupon_key or SecretStr(kept["coupon"]),
        }
    )
