"""Refusals: every way in which Nearcast says no, with one stable code for socket, REST and command line."""

from typing import Any

CATALOGUE: dict[str, tuple[int, str]] = {
    # Who are you
    "token_missing": (401, "Sign in first."),
    "token_invalid": (401, "This token is not one of ours."),
    "token_expired": (401, "This token has expired; sign in again."),
    "account_erased": (401, "This account was erased at its owner's wish."),
    "login_failed": (401, "WeChat did not accept this login code."),
    "login_unavailable": (503, "WeChat could not be reached; try again."),
    "forbidden": (403, "Your role may not do this."),
    "muted": (403, "You are muted in this room."),
    "room_muted": (403, "Only the guide and invited viewers may speak in this room now."),
    "banned": (403, "You may not be in this room for now."),
    # What did you send
    "bad_request": (400, "The request could not be read."),
    "invalid": (422, "A field has a value that is not allowed."),
    "too_large": (413, "The request is larger than this may be."),
    "too_long": (422, "The text is too long."),
    "empty": (422, "There is nothing to send."),
    "blocked_words": (422, "The text contains words that this brand does not allow."),
    "duplicate": (409, "You said just that a moment ago."),
    "idempotency_mismatch": (422, "This Idempotency-Key was used before with another request."),
    "idempotency_key_missing": (400, "This request needs an Idempotency-Key header."),
    "already_resolved": (409, "This comment was taken down already."),
    "not_found": (404, "There is no such thing here."),
    "too_fast": (429, "Slow down a little."),
    "busy": (503, "Too many at once; try again in a moment."),
    "unavailable": (503, "A service behind this one is not answering; try again in a moment."),
    "internal": (500, "Something broke on our side; it was written down."),
    # Rooms
    "room_not_live": (409, "This room is not live."),
    "room_ended": (409, "This room has ended."),
    "room_state": (409, "The room is not in a state that allows this."),
    "not_on_shelf": (409, "This product is not on the room's shelf."),
    "sold_out_product": (409, "This product is sold out."),
    # Streams
    "stream_off": (409, "No media server is set up here."),
    "stream_key_invalid": (403, "This is not the key of a stream of ours."),
    "stream_key_expired": (403, "This stream key has expired; ask for a new one."),
    # Where are you
    "consent_missing": (403, "Location needs the viewer's consent first."),
    "consent_outdated": (409, "There is a newer text to agree to."),
    "location_missing": (409, "Share your location to get a coupon from a store near you."),
    "location_stale": (409, "Your location is too old; share it again."),
    "location_uncertain": (422, "Your location is too vague to tell which store is near."),
    "out_of_range": (409, "No store with this coupon is near you."),
    "suspect": (403, "Your location looks implausible."),
    # Coupons
    "sold_out": (409, "All coupons of this drop are taken."),
    "limit_reached": (409, "You already have as many of this coupon as one person may have."),
    "not_in_room": (409, "Watch the room to claim its coupon."),
    "not_started": (409, "This drop has not started yet."),
    "ended": (409, "This drop has ended."),
    "tier": (403, "This coupon is for other members."),
    "quiet_hours": (409, "A coupon is held for you until the morning."),
    "segment": (403, "This coupon is for other customers."),
    "cap_reached": (409, "You already had as many coupons of this brand as one person may have for now."),
    "sold_out_today": (409, "Today's coupons are all taken; there are more tomorrow."),
    "drop_limit": (409, "You released as many drops today as your brand allows."),
    "under_review": (409, "Somebody looks at it first; you will hear whether you get this coupon."),
    "held_out": (409, "No coupon for you this time."),
    "campaign_state": (409, "The campaign is not in a state that allows this."),
    "review_settled": (409, "This was decided already, or its time is over."),
    "no_card": (409, "This coupon cannot be put into WeChat's card wallet."),
    "budget_conflict": (409, "The budget was changed by somebody else; look again."),
    "code_unknown": (404, "No coupon has this code."),
    "code_mistyped": (422, "This code has a typing error."),
    "qr_expired": (409, "This QR code is too old; ask the customer to show it live."),
    "wrong_store": (409, "This coupon belongs to another store."),
    "already_redeemed": (409, "This coupon was already used."),
    "coupon_expired": (409, "This coupon has expired."),
    "coupon_not_yet_valid": (409, "This coupon is not valid yet."),
    "coupon_voided": (409, "This coupon was withdrawn."),
    "outside_hours": (409, "This coupon can be used at certain hours only."),
    "below_threshold": (409, "The order is below the amount this coupon needs."),
    "stacking": (409, "This order already has as many coupons of this sort as it may have."),
    "told_too_late": (409, "This was redeemed without a network more than a day ago, which is too late to tell."),
    "not_redeemed": (409, "This coupon is not redeemed, so there is nothing to reverse."),
    "reversal_too_late": (409, "A redemption can be reversed within one hour only."),
    "webhooks_full": (409, "This brand has as many webhooks as it may have."),
}
"""Code → (HTTP status, sentence for a person). The codes are a contract: never renamed, only added."""


class Refusal(Exception):
    """A request that was understood and is not granted.

    The same object becomes ``application/problem+json`` in REST and an ``error`` in a socket's ``ack``.
    ``retry_after`` is in seconds; ``fields`` are for machines and must hold no secret and no coordinate.

    Raises KeyError for a code that is not in the catalogue, so that a typo cannot reach a client.
    """

    def __init__(
        self, code: str, message: str | None = None, *, retry_after: float | None = None, **fields: Any
    ) -> None:
        self.status, sentence = CATALOGUE[code]
        self.code = code
        self.message = message or sentence
        self.retry_after = retry_after
        self.fields = fields
        super().__init__(f"{code}: {self.message}")

    def problem(self) -> dict[str, Any]:
        """RFC 9457 members, with ``code`` (and ``retry_after`` where it applies) as extensions."""
        body: dict[str, Any] = {
            "type": f"/docs/errors#{self.code}",
            "title": CATALOGUE[self.code][1],
            "status": self.status,
            "detail": self.message,
            "code": self.code,
        }
        if self.retry_after is not None:
            body["retry_after"] = self.retry_after
        return {**body, **self.fields, **body}  # the members of the standard first, and never overwritten
