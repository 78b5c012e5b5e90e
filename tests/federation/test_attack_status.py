"""Whoever reaches the port for metrics and health and says nothing, or little: a probe is answered all the same."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from demo.ports import reserve_port
from federation import metrics
from federation.limits import LIMITS
from federation.metrics import StatusServer


@pytest.fixture
def server() -> Iterator[StatusServer]:
    made = StatusServer(f"127.0.0.1:{reserve_port()}", CollectorRegistry(), list, list)
    yield made
    made.close()


@pytest.fixture
def held(server: StatusServer) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def comes(stack: ExitStack, server: StatusServer, address: str, said: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), 20, source_address=(address, 0))
    stack.enter_context(made)
    made.sendall(said)
    return made


def healthy(server: StatusServer) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().read() == b"ok\n"
    finally:
        connection.close()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 99\r\n"])
@pytest.mark.parametrize("addresses", [1, 50])
def test_silent_clients_keep_no_probe_from_its_answer(
    server: StatusServer, held: ExitStack, said: bytes, addresses: int
):
    for number in range(3 * LIMITS.status_requests):
        comes(held, server, f"127.0.5.{1 + number % addresses}", said)
    assert healthy(server)


def test_a_request_that_dribbles_is_ended(server: StatusServer, held: ExitStack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "REQUEST_SECONDS", 0.6)
    connection = comes(held, server, "127.0.0.1", b"GET /healthz HTTP/1.1\r\n")
    connection.settimeout(0.1)
    started = time.monotonic()
    while time.monotonic() - started < 15:
        try:
            connection.sendall(b"x")
            if connection.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        pytest.fail("it was not ended")
    assert time.monotonic() - started > 0.4


def test_a_probe_that_waits_for_its_answer_leaves_for_nobody():
    """The longest answer is that of a process which does not come round: it takes five seconds to be sure."""
    release = threading.Event()

    def slow() -> list[str]:
        release.wait(20)
        return ["it does not come round"]

    server = StatusServer(f"127.0.0.1:{reserve_port()}", CollectorRegistry(), slow, list)
    with ExitStack() as held:
        held.callback(server.close)
        waiting = comes(held, server, "127.0.0.1", b"GET /healthz HTTP/1.0\r\n\r\n")
        for _ in range(2 * LIMITS.status_requests):
            comes(held, server, "127.0.0.1")
        release.set()
        waiting.settimeout(20)
        assert waiting.recv(4096).startswith(b"HTTP/1.0 503")
