"""FastAPI on uvicorn with a loop of ``send_text``: the connection manager of its documentation."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

viewers: list[WebSocket] = []


async def send(text: str) -> None:
    """Send ``text`` to everybody on every line of stdin."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        for viewer in viewers:
            await viewer.send_text(text)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Send while serving."""
    sending = asyncio.create_task(send("x" * int(sys.argv[1])))
    yield
    sending.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/")
async def hold(viewer: WebSocket) -> None:
    """Hold whoever comes."""
    await viewer.accept()
    viewers.append(viewer)
    try:
        while True:
            await viewer.receive_text()
    except WebSocketDisconnect:
        viewers.remove(viewer)


def main() -> None:
    """Serve on a free port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


if __name__ == "__main__":
    main()
