"""What all sockets of a process share: messages made once for everybody, plain and compressed, and readers of frames.

Compression is ``permessage-deflate`` without context takeover: a message depends on nothing before it, so one
compressed frame suits everybody who negotiated that, and no compressor or decompressor is kept for a viewer.
"""

import zlib
from collections.abc import Sequence

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter, LoggerLike, Origin

from live import wire
from live.wire import Close

WINDOW_BITS = 15
LEVEL = 1
"""Of comments in batches it leaves 39 %, level 6 leaves 36 % and takes twice the time."""
WORTH_COMPRESSING = 512
"""Bytes. Less fits into one packet either way, and a phone would inflate it for nothing."""
SPARE_READERS = 16
_TEXT = 0x81
_COMPRESSED_TEXT = 0xC1
_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_MAX_STORED = 0xFFFF
_FLUSHED = b"\x00\x00\xff\xff"
"""How a flushed deflate stream ends; of a whole message it is left out (RFC 7692, 7.2.1)."""


class SharedDeflate(ServerPerMessageDeflateFactory):
    """Accepts the offers of permessage-deflate that one shared form suits; whoever makes others gets plain frames."""

    def __init__(self) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """See ``ServerExtensionFactory``. Raises NegotiationError where the client wants a smaller window."""
        answer, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits != WINDOW_BITS:
            raise NegotiationError("compressed frames need the whole window")
        return answer, extension


class Handshake(ServerProtocol):
    """``websockets``' state machine from the request to its answer, with our compression."""

    def __init__(self, origins: Sequence[Origin | None] | None, logger: LoggerLike) -> None:
        super().__init__(origins=origins, extensions=_EXTENSIONS, logger=logger)

    def process_extensions(self, headers: Headers) -> tuple[str | None, list[Extension]]:
        """See ``ServerProtocol``. An offer that cannot be read is declined, not its viewer."""
        try:
            return super().process_extensions(headers)
        except InvalidHeader:
            return None, []


_EXTENSIONS = (SharedDeflate(),)


# ---- messages to send ----------------------------------------------------------------------------------------------


class Shared:
    """Bytes that many messages end with, compressed at most once for all of them."""

    __slots__ = ("_blocks", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._blocks: bytes | None = None

    @property
    def blocks(self) -> bytes:
        """``payload`` as deflate blocks that begin and end on a byte and refer to nothing before them."""
        if self._blocks is None:
            self._blocks = _blocks(self.payload)
        return self._blocks


class Prepared:
    """One text message in the forms in which it may travel, each a whole frame, made at most once.

    A server's frames are not masked, so the same bytes suit everybody.
    """

    __slots__ = ("_deflated", "_own", "_shared", "plain")

    def __init__(self, own: bytes, shared: Shared | None = None) -> None:
        payload = own if shared is None else own + shared.payload
        self.plain = _frame(_TEXT, payload)
        self._own = own
        self._shared = shared
        self._deflated = self.plain if len(payload) < WORTH_COMPRESSING else None

    @property
    def deflated(self) -> bytes:
        """For those who negotiated compression. It is the plain frame, which they read too, where nothing is saved."""
        if self._deflated is None:
            if self._shared is None or len(self._own) > _MAX_STORED:
                blocks = _blocks(self._own) + (b"" if self._shared is None else self._shared.blocks)
            else:
                blocks = _stored(self._own) + self._shared.blocks
            frame = _frame(_COMPRESSED_TEXT, blocks[: -len(_FLUSHED)])
            self._deflated = frame if len(frame) < len(self.plain) else self.plain
        return self._deflated


def prepared(payload: bytes) -> Prepared:
    """``payload`` as one text message."""
    return Prepared(payload)


def prepared_frame(frame: wire.Frame) -> Prepared:
    """``frame`` encoded, as one text message."""
    return Prepared(wire.encoder.encode(frame))


def _frame(first: int, payload: bytes) -> bytes:
    """RFC 6455, 5.2."""
    length = len(payload)
    if length < 126:
        head = bytes((first, length))
    elif length < 1 << 16:
        head = bytes((first, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 127)) + length.to_bytes(8, "big")
    return head + payload


def _blocks(data: bytes) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _stored(data: bytes) -> bytes:
    """``data``, at most 65,535 bytes, as a block that is not compressed (RFC 1951, 3.2.4): costs nothing to make."""
    length = len(data)
    return b"\x00" + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little") + data


# ---- what clients send ---------------------------------------------------------------------------------------------


def whole_frames(data: bytes) -> tuple[int, bool]:
    """How many bytes at the beginning of ``data`` are whole frames, and whether no frame of a client can come next."""
    at, end = 0, len(data)
    while at + 2 <= end:
        length = data[at + 1] & 0x7F
        if not data[at + 1] & 0x80 or data[at] & 0x0F not in _OPCODES or length == 127:
            return at, True  # not masked, no such frame, or 64 KiB and more
        after = at + 6  # head and mask
        if length == 126:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            after += 2
        if after <= end and length > wire.MAX_CLIENT_FRAME:
            return at, True
        if after + length > end:
            break
        at = after + length
    return at, False


GARBAGE = wire.Bye(Close.BAD_FRAME, "this is not a frame of the protocol")


class Reader(Protocol):
    """``websockets``' state machine of an open connection, with our close code for whatever breaks the protocol."""

    def __init__(self, logger: LoggerLike, *, deflates: bool) -> None:
        super().__init__(SERVER, state=OPEN, max_size=wire.MAX_CLIENT_FRAME, logger=logger)
        if deflates:
            self.extensions = [PerMessageDeflate(True, True, WINDOW_BITS, WINDOW_BITS, {"level": LEVEL})]

    def fail(self, code: int, reason: str = "") -> None:
        """Fail the connection; a violation by the client ends in ``bye`` and 4501, as for any unreadable frame."""
        if code in (1002, 1007, 1009) and self.state is OPEN:
            self.writes.append(prepared_frame(GARBAGE).plain)
            code, reason = Close.BAD_FRAME, GARBAGE.reason
        super().fail(code, reason)


class Readers:
    """Readers for the sockets of a process. Between two whole messages a socket needs none, so nobody keeps one."""

    def __init__(self, logger: LoggerLike) -> None:
        self._logger = logger
        self._spare: dict[bool, list[Reader]] = {False: [], True: []}

    def lend(self, *, deflates: bool) -> Reader:
        """A reader that has read nothing yet, or whole messages only."""
        spare = self._spare[deflates]
        return spare.pop() if spare else Reader(self._logger, deflates=deflates)

    def give_back(self, reader: Reader, *, deflates: bool) -> None:
        """``reader`` is open and between two messages: the next socket may have it."""
        spare = self._spare[deflates]
        if len(spare) < SPARE_READERS:
            spare.append(reader)
