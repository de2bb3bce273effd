"""A stand-in for WeChat's server: real HTTP on a free port, answering each code as the test wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

Answer = bytes | dict[str, object] | int | None
"""Raw body; JSON; an HTTP status without a body; None: silence."""


class Stub:
    """What was asked, and what is answered to each ``js_code``."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, str]] = []
        self._came = asyncio.Condition()
        self.answers: dict[str, Answer] = {}
        self.answer: Callable[[str], Answer] = lambda code: {"openid": f"o-{code}", "session_key": "SESSION-KEY"}

    async def asked_times(self, times: int) -> None:
        """Return when that many questions have come."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.asked) >= times)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = urlsplit(head.split(b" ", 2)[1].decode())
            assert target.path == "/sns/jscode2session"
            query = {name: values[0] for name, values in parse_qs(target.query).items()}
            async with self._came:
                self.asked.append(query)
                self._came.notify_all()
            code = query["js_code"]
            answer = self.answers[code] if code in self.answers else self.answer(code)
            if answer is None:
                await reader.read()  # until the client gives up
                return
            status = answer if isinstance(answer, int) else 200
            body = (
                answer if isinstance(answer, bytes) else b"" if isinstance(answer, int) else json.dumps(answer).encode()
            )
            # WeChat says text/plain, although it sends JSON.
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def wechat() -> AsyncIterator[Stub]:
    stub = Stub()
    server = await asyncio.start_server(stub._serve, "127.0.0.1", 0)
    async with server:
        stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield stub
