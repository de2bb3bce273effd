"""One frozen ``Settings``, read once from the environment and passed to whoever needs it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "NEARCAST_"


class SettingMissing(ValueError):
    """Something cannot be done without a setting that was not made; the message names it."""


def _play_urls(value: object) -> object:
    """One address as CDNs have it, where all three ways are served under one name; or what JSON says of each."""
    if not isinstance(value, str):
        return value
    if value.startswith("{"):
        return json.loads(value)
    host = urlsplit(value).hostname
    path = urlsplit(value).path
    return {"hls": value, "flv": value, "rtmp": f"rtmp://{host}{path}"} if value else {}


class Settings(BaseSettings):
    """Every knob, each an environment variable with the prefix ``NEARCAST_``.

    ``docs/operations.md`` holds the same list as a table; a test keeps the two equal.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    database_url: str | None = Field(
        None, description="PostgreSQL with PostGIS; unset: an embedded server under the state folder"
    )
    redis_url: str | None = Field(
        None, description="Redis ≥ 7, `redis://` or `redis+cluster://`; unset: an embedded server"
    )
    state_dir: Path = Field(Path(".nearcast"), description="Where embedded servers and generated keys live")

    api_host: str = Field("127.0.0.1", description="Address the API listens on")
    api_port: int = Field(8080, description="Port the API listens on")
    gateway_host: str = Field("127.0.0.1", description="Address a gateway listens on")
    gateway_port: int = Field(8090, description="Port a gateway listens on; several share it by SO_REUSEPORT")
    gateway_public_url: str | None = Field(
        None, description="What clients are told to connect to, when it is not host and port (`wss://…`)"
    )
    allowed_origins: Annotated[
        tuple[str, ...], Field(description="Browser origins that may open sockets; empty: any")
    ] = ()

    token_keys: dict[str, SecretStr] = Field(
        default_factory=dict, description="Signing keys by key id, as JSON; the last one signs, all verify"
    )
    token_ttl_seconds: int = Field(7200, gt=0, description="Life of an access token")
    coupon_key: SecretStr | None = Field(
        None, description="Ed25519 seed (32 bytes, base64) that signs the QR codes of coupons"
    )
    dev_login: bool = Field(False, description="Allow `POST /v1/auth/dev`: anyone becomes anyone. Never in production")

    wechat_base_url: str = Field(
        "https://api.weixin.qq.com", description="Where `code2session` and `msgSecCheck` are asked"
    )
    wechat_app_id: str = Field("", description="The mini-program's app id")
    wechat_secret: SecretStr = Field(SecretStr(""), description="The mini-program's secret")
    wechat_reminder_template: str = Field(
        "", description="Subscribe message that reminds of a room; empty: reminders are only counted"
    )
    wechat_reminder_fields: tuple[str, str, str] = Field(
        ("thing1", "time2", "thing3"), description="That template's fields for title, time and guide, as JSON"
    )
    wechat_reminder_page: str = Field(
        "pages/room/index?room={room}", description="Page of the mini-program that a reminder opens"
    )
    wechat_expiry_template: str = Field(
        "", description="Subscribe message that reminds of a coupon a day before it expires; empty: none is sent"
    )
    wechat_expiry_fields: tuple[str, str, str] = Field(
        ("thing1", "time2", "thing3"), description="That template's fields for title, end and store, as JSON"
    )
    wechat_expiry_page: str = Field(
        "pages/coupon/index?coupon={coupon}", description="Page of the mini-program that such a reminder opens"
    )

    wechat_card_app_id: str = Field(
        "",
        description="App id of the official account that made the cards of `wx.addCard`; empty: coupons are no cards",
    )
    wechat_card_secret: SecretStr = Field(SecretStr(""), description="That official account's secret")

    msg_sec_check: bool = Field(False, description="Ask WeChat's `msgSecCheck` about viewers' comments")
    msg_sec_check_down: Literal["pass", "refuse"] = Field(
        "pass", description="What becomes of a comment when WeChat does not answer within 300 ms: `pass` or `refuse`"
    )

    stream_push_url: str = Field(
        "", description="Where guides push to, such as `rtmp://push.example.com/live`; empty: no media server"
    )
    stream_key: SecretStr = Field(
        SecretStr(""), description="Key that signs push addresses; the media server's or the CDN's own"
    )
    stream_play_url: Annotated[dict[Literal["hls", "flv", "rtmp"], str], NoDecode, BeforeValidator(_play_urls)] = Field(
        default_factory=dict,
        description="Where viewers play from, such as `https://play.example.com/live`, or JSON with an address for "
        "each of `hls`, `flv`, `rtmp`",
    )
    stream_play_key: SecretStr = Field(
        SecretStr(""), description="Key that signs playback addresses; empty: they are not signed"
    )
    stream_ttl_seconds: int = Field(
        43_200, gt=0, description="How long a push or playback address may be used to begin"
    )

    webhook_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts, as JSON, that webhooks may call although they are not public, and by plain `http` too; "
        "empty: only `https` to public addresses",
    )

    keep_fixes_minutes: int = Field(15, gt=0, le=60, description="How long a viewer's newest fix is kept at most")
    keep_doubts_days: int = Field(7, gt=0, description="How long a sign of doubt is kept after it was last seen")
    keep_comments_days: int = Field(
        180, ge=60, description="How long comments and reports of them are kept after their room's end"
    )
    keep_attendance_days: int = Field(
        365, gt=0, description="How long it is kept who was in a room, after its end; the funnel then forgets it"
    )
    keep_decisions_days: int = Field(
        365, gt=0, description="How long it is kept who got no coupon of a drop and why, after the drop's end"
    )
    keep_visits_days: int = Field(365, gt=0, description="How long visits to stores are kept")
    keep_reminders_days: int = Field(30, gt=0, description="How long reminders are kept after they were settled or due")
    keep_reviews_days: int = Field(30, gt=0, description="How long a settled review of a coupon can be looked up")
    keep_sanctions_days: int = Field(30, gt=0, description="How long mutes and bans are kept after they ended")
    keep_told_hours: int = Field(6, gt=0, description="How long events of the outbox are kept after they were told")
    keep_answers_hours: int = Field(48, gt=0, description="How long a retry finds the answer under its Idempotency-Key")

    worker_host: str = Field("127.0.0.1", description="Address the worker serves `/metrics` on")
    worker_port: int = Field(0, ge=0, description="Port the worker serves `/metrics` on; 0: it does not")
    database_pool: int = Field(
        10, gt=0, description="Connections to PostgreSQL for each process, besides four for claims"
    )
    room_log_length: int = Field(10_000, gt=0, description="Certain events kept for resume, per room")
    otlp_endpoint: str = Field(
        "",
        description="Base address of an OpenTelemetry collector (OTLP over HTTP) that gets traces; "
        "empty: none are made",
    )
    log_level: str = Field("INFO", description="Level of the structured log on standard error")
    log_format: str = Field(
        "auto",
        pattern="^(auto|console|json)$",
        description="`console` or `json`; `auto`: for people on a terminal, else a JSON object a line",
    )

    def environment(self) -> dict[str, str]:
        """The environment variables that make another process read these very settings. Holds secrets in the clear."""
        chosen = {name: _plain(getattr(self, name)) for name in self.model_fields_set}
        return {
            f"{PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in chosen.items()
            if value is not None
        }


def _plain(value: Any) -> Any:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case Path():
            return str(value)
        case _:
            return value
