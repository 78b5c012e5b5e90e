"""A coordinator that answers its operator with more than it seems: packed, endless, elsewhere, or nothing of use."""

from __future__ import annotations

import gzip
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.errors import ConcordatError
from federation.home import Home
from federation.identity import Role
from federation.limits import LIMITS
from federation.operator import OperatorClient
from federation.tls import server_context

from .conftest import Online

pytestmark = pytest.mark.federation
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
BOMB = gzip.compress(b"[" + b" " * (512 * 1024 * 1024) + b"]", compresslevel=1)
ELSEWHERE = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
PACKED = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)


def endless(line: bytes) -> Iterator[bytes]:
    yield OK + b"\r\n"
    for _ in range(2 * LIMITS.control_answer // len(line)):
        yield line


ANSWERS: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
    "packed": ("the coding 'gzip'", lambda: iter([PACKED, BOMB])),
    "endless": ("more than", lambda: endless(b"x" * 1024 * 1024)),
    "elsewhere": ("answered 302", lambda: iter([ELSEWHERE])),
    "no JSON": ("not JSON", lambda: iter([OK + b"\r\n<html>"])),
    "deep JSON": ("not JSON", lambda: iter([OK + b"\r\n" + b"[" * 500_000])),
}


@pytest.fixture(scope="module")
def federation(short_tmp: Callable[[str], Path]) -> Online:
    """A federation whose coordinator is played by the test."""
    made = Online(short_tmp("ans"))
    made.member("ops", Role.OPERATOR)
    return made


@contextmanager
def answering(federation: Online, answer: Callable[[], Iterator[bytes]]) -> Iterator[Home]:
    """A server with the coordinator's certificate that gives this answer once; gives the operator's home."""
    hub = federation.coordinator
    context = server_context(hub.certificate, hub.key, hub.authority)
    host, _, port = federation.address.partition(":")
    with socket.create_server((host, int(port))) as listener:

        def serve() -> None:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    connection.settimeout(30)
                    connection.recv(65536)
                    for part in answer():
                        connection.sendall(part)
            except (OSError, ssl.SSLError):
                pass  # it has heard enough

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield federation.home("ops")
        thread.join(30)


@pytest.mark.parametrize("how", ANSWERS)
def test_an_answer_is_read_no_further_than_it_may_go(federation: Online, how: str):
    said, answer = ANSWERS[how]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        answering(federation, answer) as home,
        OperatorClient(home) as client,
        pytest.raises(ConcordatError, match=said),
    ):
        client.runs()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


EVENTS: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
    "packed": ("the coding 'gzip'", lambda: iter([PACKED, BOMB])),
    "a line without an end": ("got an event of more than", lambda: endless(b"x" * 65536)),
    "no JSON": ("not JSON", lambda: iter([OK + b"\r\n{\n"])),
    "no event": ("not an event", lambda: iter([OK + b'\r\n{"event": "round.closed", "number": "1"}\n'])),
    "no number": ("not an event", lambda: iter([OK + b'\r\n{"event": "round.closed"}\n'])),
    "a list": ("not an event", lambda: iter([OK + b"\r\n[1]\n"])),
}


@pytest.mark.parametrize("how", EVENTS)
def test_events_are_read_line_by_line_within_their_bound(federation: Online, how: str):
    said, answer = EVENTS[how]
    with (
        answering(federation, answer) as home,
        OperatorClient(home) as client,
        pytest.raises(ConcordatError, match=said),
    ):
        list(client.follow_on("run", patience=0.0))


def test_events_that_come_in_pieces_are_whole(federation: Online):
    """The control of the tests above."""
    lines = b'{"event": "round.closed", "number": 1}\n\n{"event": "run.completed", "number": 2}\n'
    pieces = [OK + b"\r\n", *[lines[n : n + 7] for n in range(0, len(lines), 7)]]
    with answering(federation, lambda: iter(pieces)) as home, OperatorClient(home) as client:
        assert [event["number"] for event in client.follow("run")] == [1, 2]
