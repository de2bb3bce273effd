"""How much a request may say. Bodies are parsed before anybody asks who sends them, so they are bounded first."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import problem_response
from kernel.identity import Keyring, Role

MOST_BYTES = 64 << 10
"""What a body may have where nothing else is said; everything but lists stays far below."""


class Bounded:
    """Refuses bodies that are too long: those that announce it before a byte of them is read, others as they come.

    ``larger`` gives paths their own bound, in bytes, for staff: whoever shows no token of theirs there is refused for
    that once the body passes the common bound. What else comes of a refused body is thrown away, and the connection
    serves the next request. Plain ASGI, on the path of every request.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, larger: Mapping[str, int]) -> None:
        self._app = app
        self._keyring = keyring
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        most, refusal = self._bound(scope["path"], headers.get(b"authorization", b"").decode("latin-1"))
        if int(headers.get(b"content-length", b"0")) > most:  # the server has seen to it that it is a number
            return await problem_response(refusal)(scope, receive, send)
        read, refused = 0, False

        async def counted() -> Message:
            nonlocal read, refused
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                refused = True
                await problem_response(refusal)(scope, receive, send)
                raise HTTPException(refusal.status)  # ends what was reading; it has been answered
            return message

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        await self._app(scope, counted, unless_refused)

    def _bound(self, path: str, authorization: str) -> tuple[int, Refusal]:
        """How many bytes a request may send, and what it is told if it sends more."""
        if path not in self._larger:
            return MOST_BYTES, Refusal("too_large", most_bytes=MOST_BYTES)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return MOST_BYTES, Refusal("token_missing")
        try:
            who = self._keyring.verify(token.strip(), now())
        except Refusal as refusal:
            return MOST_BYTES, refusal
        if who.role not in (Role.CLERK, Role.OPS):
            return MOST_BYTES, Refusal("forbidden")
        return self._larger[path], Refusal("too_large", most_bytes=self._larger[path])
