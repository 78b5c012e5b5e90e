"""Members that hold connections and do nothing with them, with one certificate, with two, or a byte at a time."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coordinator import connections
from coordinator.connections import PeerCertificateProtocol
from coordinator.gateway import CONTROL_PREFIX, send_response
from coordinator.server import FILES_OF_OTHERS, room_for_connections
from coordinator.superlink import Response
from federation.home import Home
from federation.identity import Role
from federation.limits import LIMITS
from federation.tls import client_context, server_context

from .conftest import Founded
from .gateway_door import Door

pytestmark = pytest.mark.federation
RUNS = CONTROL_PREFIX + "runs"
REQUEST = f"GET {RUNS} HTTP/1.1\r\nHost: hub\r\n\r\n".encode()


@dataclass
class Open:
    """A gateway on a port with real identities, and the connections of a test."""

    federation: Founded
    door: Door
    stack: ExitStack
    port: int = 0
    refused: list[str] = field(default_factory=list)

    def tls(self, home: Home, address: str = "127.0.0.1") -> ssl.SSLSocket:
        context = client_context(home.certificate, home.key, home.authority)
        plain = socket.create_connection(("127.0.0.1", self.port), 60, source_address=(address, 0))
        return self.stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))

    def asks(self, home: Home) -> int:
        """The status of one honest request."""
        context = client_context(home.certificate, home.key, home.authority)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=60)
        self.stack.callback(connection.close)
        connection.request("GET", RUNS)
        return connection.getresponse().status


@pytest.fixture
def gateway(found: Callable[..., Founded], tmp_path: Path, open_door: Callable[..., Any]) -> Iterator[Open]:
    federation = found()
    hub = federation.member("hub", Role.COORDINATOR, "127.0.0.1:9443")
    for name in ("ops", "ops-b"):
        federation.member(name, Role.OPERATOR)
    federation.refresh()
    door = Door(federation, tmp_path)
    context = server_context(hub.certificate, hub.key, hub.authority)
    identities = door.application._identify_certificate
    with ExitStack() as stack:
        made = Open(federation, door, stack)
        with open_door(door.application, context, made.refused.append, name_of=identities.name_of) as made.port:
            yield made
            stack.close()


def ends(connection: ssl.SSLSocket) -> bool:
    """Whether the other side ends a connection without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def drips(connection: ssl.SSLSocket, drop: bytes, seconds: float = 20.0) -> float:
    """Say a little and again, until the other side ends it; returns the seconds that took."""
    connection.settimeout(0.05)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            connection.sendall(drop)
            if connection.recv(65536) == b"":
                return time.monotonic() - started
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - started
    pytest.fail("the connection was not ended")


def test_a_member_with_hundreds_of_idle_connections_loses_its_own(gateway: Open):
    ops, other = gateway.federation.homes["ops"], gateway.federation.homes["ops-b"]
    held = [gateway.tls(ops) for _ in range(LIMITS.member_connections + 40)]
    assert gateway.asks(other) == 200
    assert gateway.asks(ops) == 200, "its newest request is answered too"
    assert held[0].recv(1) == b""
    assert gateway.refused == ["too many connections are open, the most of them of ops"] * 41


def test_a_second_certificate_gives_a_member_no_more_connections(gateway: Open):
    ops = gateway.federation.homes["ops"]
    for _ in range(LIMITS.member_connections):
        gateway.tls(ops)
    gateway.federation.renew(ops)
    ops.private_key()
    for _ in range(10):
        gateway.tls(ops)
    assert gateway.asks(ops) == 200
    assert gateway.refused == ["too many connections are open, the most of them of ops"] * 11


@pytest.mark.parametrize(
    ("begun", "drop", "bound"),
    [
        (b"", b"\r\n", "HEADER_SECONDS"),
        (REQUEST[:-2], b"a: b\r\n", "HEADER_SECONDS"),
        (REQUEST, b"\r\n", "IDLE_SECONDS"),
        (REQUEST.replace(RUNS.encode(), b"/no").replace(b"\r\n\r\n", b"\r\nContent-Length: 9999\r\n\r\n"), b"x",
         "FAREWELL_SECONDS"),
    ],
    ids=["lines before a request", "a head", "lines after an answer", "a body after an answer"],
)  # fmt: skip
def test_a_connection_that_drips_is_ended(
    gateway: Open, monkeypatch: pytest.MonkeyPatch, begun: bytes, drop: bytes, bound: str
):
    for name in ("HEADER_SECONDS", "IDLE_SECONDS", "FAREWELL_SECONDS"):
        monkeypatch.setattr(connections, name, 0.7 if name == bound else 60.0)
    connection = gateway.tls(gateway.federation.homes["ops"])
    connection.sendall(begun)
    assert drips(connection, drop) >= 0.5


def test_whoever_reads_nothing_of_a_large_answer_is_let_go(gateway: Open, monkeypatch: pytest.MonkeyPatch):
    """And the answer waits in parts, not in the memory of the connection."""
    sent: list[int] = []
    before_the_end: list[int] = []
    done = threading.Event()
    lost = PeerCertificateProtocol.connection_lost

    def connection_lost(self: PeerCertificateProtocol, exc: Exception | None) -> None:
        before_the_end.append(sum(sent))
        lost(self, exc)

    async def large(peer: Any, scope: Any, body: bytes, send: Any) -> None:
        async def counted(message: Any) -> None:
            await send(message)
            sent.append(len(message.get("body", b"")))

        try:
            await send_response(counted, Response(200, bytes(256 * 1024 * 1024)))
        finally:
            done.set()

    gateway.door.application._control = large
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1.0)
    monkeypatch.setattr(PeerCertificateProtocol, "connection_lost", connection_lost)
    gateway.tls(gateway.federation.homes["ops"]).sendall(REQUEST)
    assert done.wait(60)
    # What is sent after the end of the connection goes nowhere.
    assert 0 < before_the_end[0] < 64 * 1024 * 1024 < sum(sent)


def test_a_member_with_many_large_requests_under_way_loses_its_own(gateway: Open):
    """What came of a body is kept in memory: 64 connections with 33 MiB each would be two GiB for one member."""
    ops, other = gateway.federation.homes["ops"], gateway.federation.homes["ops-b"]
    begun = f"POST {RUNS} HTTP/1.1\r\nHost: hub\r\nContent-Length: {LIMITS.control_request}\r\n\r\n".encode()
    held = []
    for _ in range(5 * LIMITS.large_bodies):
        held.append(gateway.tls(ops))
        held[-1].sendall(begun + bytes(LIMITS.large_body))
    others = gateway.tls(other)
    others.sendall(begun + bytes(LIMITS.large_body))
    ended = len(held) - LIMITS.large_bodies
    assert [ends(connection) for connection in held[:ended]] == [True] * ended
    assert gateway.refused == ["too many large requests are under way, the most of them of ops"] * ended
    assert gateway.asks(ops) == gateway.asks(other) == 200
    for connection in (*held[ended:], others):
        connection.sendall(bytes(LIMITS.control_request - LIMITS.large_body))
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_large_requests_one_after_the_other_are_all_read(gateway: Open):
    home = gateway.federation.homes["ops"]
    context = client_context(home.certificate, home.key, home.authority)
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context, timeout=60)
    gateway.stack.callback(connection.close)
    for _ in range(3 * LIMITS.large_bodies):
        connection.request("POST", RUNS, bytes(LIMITS.large_body))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    assert gateway.refused == []


def test_many_members_behind_one_address_come_at_once_beside_one_that_only_knocks(gateway: Open):
    """Handshakes that end are none that wait: two hundred of one address are no flood."""
    ops = gateway.federation.homes["ops"]
    other = gateway.federation.homes["ops-b"]
    assert gateway.asks(ops) == 200
    for _ in range(300):
        gateway.stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 60))

    def comes(number: int) -> int:
        return gateway.asks(ops if number % 2 else other)

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(comes, range(200))) == {200}
    assert not [said for said in gateway.refused if "handshakes" in said]


def test_strangers_from_many_addresses_leave_room_for_a_network_that_is_known(gateway: Open):
    ops = gateway.federation.homes["ops"]
    assert gateway.asks(ops) == 200
    for number in range(LIMITS.pending_handshakes // 2 + 100):
        plain = socket.create_connection(
            ("127.0.0.1", gateway.port), 60, source_address=(f"127.0.4.{1 + number % 250}", 0)
        )
        gateway.stack.enter_context(plain)
    assert gateway.asks(ops) == 200
    assert not [said for said in gateway.refused if said.endswith("(127.0.0.1)")]


@pytest.mark.parametrize("files", [0, 300, 1024, 4096, 10**6, -1])
def test_connections_leave_open_files_to_the_log(files: int):
    room = room_for_connections(files)
    wanted = LIMITS.connections + LIMITS.stranger_connections + 2 * LIMITS.pending_handshakes
    assert 0 <= room <= 1
    assert files < 0 or room * wanted <= max(0, files - FILES_OF_OTHERS)
