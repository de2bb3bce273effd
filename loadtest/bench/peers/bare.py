"""The floor: a loop of ``socket.send`` over one prepared frame, and nothing else at all."""

import select
import socket
import sys

from loadtest.bench import frames

_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


def main() -> None:
    """Accept whoever comes; send on every line of stdin."""
    payload = b"x" * int(sys.argv[1])
    frame = bytes((0x81, 126)) + len(payload).to_bytes(2, "big") + payload
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    viewers: list[socket.socket] = []
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    waiting.register(sys.stdin, select.POLLIN)
    while True:
        for fd, _ in waiting.poll():
            if fd == listener.fileno():
                viewer = listener.accept()[0]
                viewer.recv(4096)  # the receiver sends its handshake in one piece
                viewer.sendall(_ANSWER % frames.ACCEPT)
                viewer.setblocking(False)
                viewers.append(viewer)
            elif not sys.stdin.buffer.readline():
                return
            else:
                for viewer in viewers:
                    viewer.send(frame)


if __name__ == "__main__":
    main()
