"""The checked address is what is connected to, and the certificate must still be the name's."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coupons import callback
from kernel.clock import now

NAME = "crm.example.com"


def certificate(path: Path) -> Path:
    """A certificate for NAME that vouches for itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class Receiver:
    def __init__(self, port: int, pem: Path) -> None:
        self.port, self.pem = port, pem
        self.heads: list[str] = []


@pytest.fixture
async def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """Serves https as NAME on loopback, which is where every name leads."""
    pem = certificate(tmp_path / "crm.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await reader.readexactly(2)
            writer.write(b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, port, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
    running = Receiver(port, pem)
    running.heads = heads
    yield running
    server.close()


async def call(receiver: Receiver, name: str, certificates: ssl.SSLContext | None) -> callback.Answer:
    with callback.Network((name,), 1) as network:
        if certificates is not None:
            network.certificates = certificates
        async with callback.Caller(f"https://{name}:{receiver.port}/hook", network) as caller:
            return await caller.post(b"{}", {})


async def test_the_name_is_asked_for_and_its_certificate_checked(receiver: Receiver) -> None:
    trusting = ssl.create_default_context(cafile=str(receiver.pem))
    assert await call(receiver, NAME, trusting) == callback.Answer(204, None)
    assert f"Host: {NAME}:{receiver.port}" in receiver.heads[0] and receiver.heads[0].startswith("POST /hook ")
    # The same server, the same trust, another name: not theirs to answer for.
    assert await call(receiver, "other.example.com", trusting) == callback.Answer(None, "connection")
    # And a certificate that nobody vouches for is worth nothing.
    assert await call(receiver, NAME, None) == callback.Answer(None, "connection")
    assert len(receiver.heads) == 1
