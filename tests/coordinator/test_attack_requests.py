"""What is no request, or two at once, or more than it seems: turned away before anything of it counts, and recorded."""

from __future__ import annotations

import gzip
import resource
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from coordinator.gateway import CONTROL_PREFIX
from federation.limits import LIMITS
from federation.tls import client_context, server_context

from .gateway_door import Door, door_fixture  # noqa: F401  a fixture

pytestmark = pytest.mark.federation
RUNS = (CONTROL_PREFIX + "runs").encode()
BOMB = gzip.compress(bytes(64 * 1024 * 1024))


@dataclass
class Open:
    """A gateway on a port, and what it refused before a request was one."""

    door: Door
    context: ssl.SSLContext
    port: int = 0
    refused: list[str] = field(default_factory=list)

    def say(self, *parts: bytes) -> bytes:
        """Send raw bytes as an operator; returns everything that comes back until the connection ends."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 60) as plain,
            self.context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            try:
                for part in parts:
                    tls.sendall(part)
            except OSError:
                pass  # turned away while it speaks
            answer = b""
            try:
                while part := tls.recv(65536):
                    answer += part
            except OSError:
                pass
            return answer


@pytest.fixture
def gateway(door: Door, federation: Any, open_door: Callable[..., Any]) -> Iterator[Open]:
    hub, ops = federation.homes["hub"], federation.homes["ops"]
    made = Open(door, client_context(ops.certificate, ops.key, ops.authority))
    context = server_context(hub.certificate, hub.key, hub.authority)
    with open_door(door.application, context, made.refused.append) as made.port:
        yield made


def head(*lines: bytes, method: bytes = b"POST") -> bytes:
    return b"\r\n".join([method + b" " + RUNS + b" HTTP/1.1", b"Host: hub", *lines, b"", b""])


def chunked(total: int) -> Iterator[bytes]:
    """A chunked body, with an extension to each chunk."""
    chunk = b"100000;" + b"x" * 100 + b"\r\n" + bytes(1024 * 1024) + b"\r\n"
    for _ in range(total // (1024 * 1024)):
        yield chunk
    yield b"0\r\n\r\n"


SECOND = head(b"Content-Length: 0", b"Connection: close")
TRANSFER, CODED, UPGRADE = "got a Transfer-Encoding", "got a Content-Encoding", "got an Upgrade"
NOT_HTTP = "got something that is no HTTP request"
TRIES: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
    "gzip bomb": (CODED, lambda: iter([head(b"Content-Encoding: gzip", b"Content-Length: %d" % len(BOMB)), BOMB])),
    "deflate": (CODED, lambda: iter([head(b"Content-Encoding: deflate", b"Content-Length: 8"), zlib.compress(b"")])),
    "br": (CODED, lambda: iter([head(b"content-encoding: br", b"Content-Length: 1"), b"x"])),
    "zstd": (CODED, lambda: iter([head(b"CONTENT-ENCODING: zstd", b"Content-Length: 1"), b"x"])),
    "gzip in the transfer": (TRANSFER, lambda: iter([head(b"Transfer-Encoding: gzip, chunked"), b"0\r\n\r\n"])),
    "a gibibyte in chunks": (TRANSFER, lambda: iter([head(b"Transfer-Encoding: chunked"), *chunked(2**30)])),
    "chunk extensions": (TRANSFER, lambda: iter([head(b"Transfer-Encoding: chunked") + b"0;" + b"x" * 10**6])),
    "endless trailers": (
        TRANSFER,
        lambda: iter([head(b"Transfer-Encoding: chunked") + b"0\r\n", *[b"a: b\r\n" * 10_000] * 100]),
    ),
    "both lengths": (
        "got ",
        lambda: iter([head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + SECOND]),
    ),
    "both lengths, the other way": (
        "got ",
        lambda: iter([head(b"Transfer-Encoding: chunked", b"Content-Length: 4") + b"0\r\n\r\n" + SECOND]),
    ),
    "two lengths": (NOT_HTTP, lambda: iter([head(b"Content-Length: 0", b"Content-Length: 5") + SECOND])),
    "a length with a sign": (NOT_HTTP, lambda: iter([head(b"Content-Length: +5") + SECOND])),
    "hidden chunks": (TRANSFER, lambda: iter([head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n" + SECOND])),
    "a space before the colon": (NOT_HTTP, lambda: iter([head(b"Transfer-Encoding : chunked") + SECOND])),
    "bare line feeds": (NOT_HTTP, lambda: iter([b"GET / HTTP/1.1\nHost: hub\n\n" + SECOND])),
    "a websocket": (
        UPGRADE,
        lambda: iter([head(b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: x", method=b"GET")]),
    ),
    "h2c": (UPGRADE, lambda: iter([head(b"Upgrade: h2c", b"Connection: Upgrade", method=b"GET") + SECOND])),
    "the preface of HTTP/2": ("got ", lambda: iter([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SECOND])),
    "a tunnel": ("got ", lambda: iter([b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: hub\r\n\r\n" + SECOND])),
    "many headers": (
        f"got {LIMITS.request_headers + 1} headers",
        lambda: iter([head(*[b"a: b"] * LIMITS.request_headers) + SECOND]),
    ),
    "ten thousand headers": ("got ", lambda: iter([head(*[b"a:"] * 10_000) + SECOND])),
}


@pytest.mark.parametrize("how", TRIES)
def test_what_is_no_plain_request_is_turned_away(gateway: Open, how: str):
    reason, parts = TRIES[how]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = gateway.say(*parts())
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert gateway.door.came == []
    assert [said for said in gateway.refused if said.startswith(reason)], gateway.refused
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024, "no more than it was sent"


def test_a_head_beyond_the_limit_is_cut_off(gateway: Open):
    assert gateway.say(head(b"x: " + b"x" * LIMITS.request_head)) == b"" or gateway.refused
    assert gateway.say(b"GET /" + b"x" * (LIMITS.request_head + 1)) == b""
    assert gateway.door.came == []


def test_a_body_that_waits_to_be_asked_for_is_asked_for_once_the_peer_is_known(gateway: Open):
    """The control of the tests above: what is a request is answered, and each of two is answered once."""
    asked = head(b"Expect: 100-continue", b"Content-Length: 2")
    answer = gateway.say(asked + b"{}" + SECOND)
    assert answer.startswith(b"HTTP/1.1 100 Continue")
    assert answer.count(b"HTTP/1.1 200") == 2
    assert [body for *_, body in gateway.door.came] == [b"{}", b""]
    assert gateway.refused == []
    unknown = asked.replace(RUNS, b"/elsewhere").replace(b"Host: hub", b"Host: hub\r\nConnection: close")
    assert gateway.say(unknown).startswith(b"HTTP/1.1 403")


def test_a_compressed_message_within_a_body_is_not_unpacked(gateway: Open):
    """A gRPC frame says by its first byte that it is compressed; here a body is what it is."""
    frame = b"\x01" + len(BOMB).to_bytes(4, "big") + BOMB
    said = head(b"grpc-encoding: gzip", b"Content-Type: application/grpc", b"Connection: close",
                b"Content-Length: %d" % len(frame))  # fmt: skip
    assert gateway.say(said, frame).startswith(b"HTTP/1.1 200")
    assert [body for *_, body in gateway.door.came] == [frame]
