"""Addresses as rooms tell them, and TLS that never holds back what has come."""

import datetime
import select
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loadtest.swarm.door import Address, decrypting


@pytest.mark.parametrize(
    ("url", "where", "path"),
    [
        ("ws://127.0.0.1:8090", ("127.0.0.1", 8090, False), b"GET /v1/rooms/r/live "),
        ("wss://live.example.com", ("live.example.com", 443, True), b"GET /v1/rooms/r/live "),
        ("wss://example.com/nearcast/", ("example.com", 443, True), b"GET /nearcast/v1/rooms/r/live "),
    ],
)
def test_an_address_is_taken_apart(url: str, where: tuple[str, int, bool], path: bytes) -> None:
    address = Address(url)
    assert (address.host, address.port, address.tls) == where
    assert address.request("r").startswith(path)


@pytest.mark.parametrize("url", ["http://example.com", "example.com", "ws://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no address of a room socket"):
        Address(url)


def certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_everything_that_has_come_through_tls_is_read_at_once(tmp_path: Path) -> None:
    payload = bytes(range(256)) * 400  # several records: epoll tells only once of all of them
    ours, theirs = socket.socketpair()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate(tmp_path))
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as line:
            line.sendall(payload)
            line.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours) as line:
        line.setblocking(False)
        receive, buffer, taken = decrypting(line), bytearray(len(payload) + 1), 0
        while taken < len(payload):
            assert select.select([line], [], [], 60)[0]
            try:
                taken += receive(memoryview(buffer)[taken:])
            except BlockingIOError:
                continue
        assert buffer[:taken] == payload
        assert line.pending() == 0
        with pytest.raises(BlockingIOError):
            receive(buffer)
        line.send(b"x")
    thread.join()
