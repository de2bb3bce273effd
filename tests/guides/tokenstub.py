"""WeChat's server as a stand-in that is asked with an access token, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any


class WeChat:
    """Answers with JSON, an HTTP status, or (None) with silence; keeps what it was asked and for which tokens."""

    def __init__(self, path: str, name_of: Callable[[dict[str, Any]], str], otherwise: Any) -> None:
        self.url = ""
        self.tokens: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        """By what ``name_of`` says of the question; ``otherwise`` to all others."""
        self._path = path
        self._name_of = name_of
        self._otherwise = otherwise

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line)
            body = json.loads(await reader.readexactly(length))
            path, _, token = head.split(" ", 2)[1].partition("?access_token=")
            if path == "/cgi-bin/stable_token":
                self.tokens.append(body)
                answer: Any = {"access_token": f"T{len(self.tokens)}", "expires_in": 7200}
            else:
                assert path == self._path
                self.asked.append((token, body))
                answer = self.answers.get(self._name_of(body), self._otherwise)
            if answer is None:
                return  # hangs up without a word
            status, text = (answer, "") if isinstance(answer, int) else (200, json.dumps(answer))
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
            )
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def asked_with_token(
    path: str, name_of: Callable[[dict[str, Any]], str], otherwise: Any
) -> AsyncIterator[WeChat]:
    """WeChat, which is asked only at ``path``; see ``WeChat.answers``."""
    stub = WeChat(path, name_of, otherwise)
    async with await asyncio.start_server(stub.serve, "127.0.0.1", 0) as server:
        stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield stub
