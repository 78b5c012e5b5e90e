"""Strangers at the enrolment interface: they wait, dribble and shout, and whoever was invited still gets in."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from federation.addresses import split_address
from federation.enrolment import Invitation
from federation.joining import ENROL_PATH, enrol
from federation.limits import LIMITS
from federation.processes import stop_all
from federation.tls import stranger_context

from .conftest import Online, wait_until

pytestmark = pytest.mark.federation
SOON = 8.0
"""Seconds within which an honest enrolment has its answer; alone it takes a fraction of one."""


class Crowd:
    """Connections of strangers, from addresses of their own."""

    def __init__(self, online: Online, invitation: Invitation) -> None:
        self.host, self.port = split_address(online.enrolment)
        self._context = stranger_context(invitation.authority)
        self._stack = contextlib.ExitStack()

    def plain(self, address: str) -> socket.socket:
        made = socket.create_connection((self.host, self.port), timeout=20, source_address=(address, 0))
        return self._stack.enter_context(made)

    def tls(self, address: str, said: bytes = b"") -> ssl.SSLSocket:
        made = self._context.wrap_socket(self.plain(address), server_hostname=self.host)
        self._stack.enter_context(made)
        if said:
            made.sendall(said)
        return made

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def online(short_tmp: Callable[[str], Path]) -> Iterator[Online]:
    """A coordinator of this module's own: a flood uses up what may be recorded in a minute."""
    federation = Online(short_tmp("enr"))
    child = federation.start()
    yield federation
    stop_all([child])


@pytest.fixture
def strangers(online: Online) -> Iterator[Crowd]:
    crowd = Crowd(online, online.invite("enr-any"))
    yield crowd
    crowd.close()


def gets_in(online: Online, name: str) -> None:
    invitation = online.invite(name)
    started = time.monotonic()
    assert enrol(online.home(name), invitation).federation.member(name)
    assert time.monotonic() - started < SOON


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
IDLE: dict[str, Callable[[Crowd, int], object]] = {
    "answered and kept alive": lambda crowd, n: crowd.tls("127.0.7.1", GET).recv(4096),
    "silent after the handshake": lambda crowd, n: crowd.tls("127.0.7.2"),
    "half a head": lambda crowd, n: crowd.tls("127.0.7.3", GET[:-2]),
    "half a body": lambda crowd, n: crowd.tls("127.0.7.4", post(b"{", 100)),
    "silent before the handshake": lambda crowd, n: crowd.plain("127.0.7.5"),
    "half closed": lambda crowd, n: crowd.plain("127.0.7.6").shutdown(socket.SHUT_WR),
    "many addresses": lambda crowd, n: crowd.tls(f"127.0.8.{1 + n % 200}"),
    "the address of the honest one": lambda crowd, n: crowd.tls("127.0.0.1"),
}


def post(body: bytes, length: int) -> bytes:
    return f"POST {ENROL_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body


def test_a_request_that_dribbles_is_ended_and_recorded(online: Online, strangers: Crowd):
    """Each byte keeps it alive for no longer."""
    begun = {"127.0.7.11": b"", "127.0.7.12": b"\r\n", "127.0.7.13": GET[:-2], "127.0.7.14": post(b"", 60_000)}
    before = len(online.entries())
    open_ones = {address: strangers.tls(address, said) for address, said in begun.items()}
    started = time.monotonic()

    def all_ended() -> bool:
        for address, connection in list(open_ones.items()):
            connection.settimeout(0.1)
            try:
                connection.sendall(b"\r\n" if begun[address] == b"\r\n" else b"x" if begun[address] else b"")
                gone = connection.recv(1) == b""
            except TimeoutError:
                gone = False
            except OSError:
                gone = True
            if gone:
                del open_ones[address]
        return not open_ones

    wait_until(all_ended, "the end of all four", 25)
    assert time.monotonic() - started < 20
    for address in begun:
        online.expect_entry(before, action="connection.refused", reason=f"no request came within 10 s from {address}")


def test_that_there_are_too_many_is_recorded(online: Online, strangers: Crowd):
    before = len(online.entries())
    for _ in range(LIMITS.stranger_connections_of_one + 1):
        strangers.tls("127.0.7.9")
    refused = online.expect_entry(before, action="connection.refused", reason="too many connections are open")
    assert (refused["decision"], refused["rule"]) == ("deny", "gateway.tls")
    assert "127.0.7.9" in refused["reason"]


def test_shouting_strangers_use_up_no_attempt_of_the_invited(online: Online, strangers: Crowd):
    """More requests than are answered in a minute, from many addresses and from that of the honest one."""
    shout = post(b"{}", 2)
    statuses = []
    for number in range(90):
        address = "127.0.0.1" if number % 3 == 0 else f"127.0.9.{1 + number}"
        statuses.append(strangers.tls(address, shout).recv(4096)[9:12])
    assert set(statuses) == {b"400", b"429"}
    gets_in(online, "enr-shout")
    assert online.expect_entry(0, action="certificate.enrol", rule="enrolment.attempts")["decision"] == "deny"


@pytest.mark.parametrize("how", IDLE)
def test_idle_strangers_close_the_interface_to_nobody(online: Online, strangers: Crowd, how: str):
    for number in range(LIMITS.stranger_connections + 20):
        IDLE[how](strangers, number)
    gets_in(online, "enr-" + how.replace(" ", "-"))


def test_a_connection_is_good_for_one_answer(strangers: Crowd):
    """Also where a second request came with the first."""
    connection = strangers.tls("127.0.7.7", GET + GET)
    connection.settimeout(20)
    answer = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(4096):
            answer += part
    assert answer.count(b"HTTP/1.1 404") == 1
    assert b"connection: close" in answer.lower()


def test_a_token_is_tried_ten_times_a_minute(online: Online, strangers: Crowd):
    invitation = online.invite("enr-token")
    body = json.dumps({"format": "concordat/enrolment-request/v1", "name": "x", "role": "silo", "country": "DE",
                       "log": "x", "token": invitation.token}).encode()  # fmt: skip
    statuses = [strangers.tls(f"127.0.10.{1 + n}", post(body, len(body))).recv(4096)[9:12] for n in range(12)]
    assert statuses == [b"403"] * 10 + [b"429"] * 2


def test_many_behind_one_address_enrol_at_once_beside_a_stranger_there(online: Online, strangers: Crowd):
    for _ in range(LIMITS.stranger_connections_of_one):
        strangers.tls("127.0.0.1")
    invitations = {f"enr-nat-{number}": online.invite(f"enr-nat-{number}") for number in range(24)}
    with ThreadPoolExecutor(len(invitations)) as pool:
        joined = list(pool.map(lambda name: enrol(online.home(name), invitations[name]), invitations))
    assert all(manifest.federation.member(name) for name, manifest in zip(invitations, joined, strict=True))
