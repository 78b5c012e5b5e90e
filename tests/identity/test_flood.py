"""Connections that come to nothing, by the thousand and by the drop, while a run goes on."""

from __future__ import annotations

import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.addresses import split_address
from federation.limits import LIMITS
from federation.operator import OperatorClient
from federation.tls import client_context

from .conftest import Training, wait_until

pytestmark = pytest.mark.federation
HALF_OPEN = 10_000


def address_of(training: Training) -> tuple[str, int]:
    return split_address(training.founded.manifest.federation.coordinator.addresses[0])


@contextmanager
def half_open(target: tuple[str, int], count: int) -> Iterator[list[socket.socket]]:
    """So many TCP connections, from an address of their own, on which nothing is ever said."""
    with ExitStack() as stack:
        opened = []
        for number in range(count):
            one = stack.enter_context(socket.socket())
            one.settimeout(20)
            one.bind((f"127.0.2.{1 + number // 5000}", 0))
            one.connect(target)
            opened.append(one)
        yield opened


class Drip(threading.Thread):
    """A client that says something, slowly, and never comes to an end."""

    def __init__(self, target: tuple[str, int], context: ssl.SSLContext | None, address: str) -> None:
        super().__init__(daemon=True)
        self._plain = socket.create_connection(target, timeout=20, source_address=(address, 0))
        self._socket = context.wrap_socket(self._plain, server_hostname=target[0]) if context else self._plain
        self._content = b"GET /concordat/v1/control/runs HTTP/1.1\r\nx: " if context else b"\x16\x03\x01\x02\x00\x01"
        self.stopping = threading.Event()
        self.ended = False

    def run(self) -> None:
        position = 0
        while not self.stopping.wait(0.2):
            try:
                self._socket.send(self._content[position : position + 1] or b"x")
            except OSError:
                self.ended = True
                return
            position += 1

    def stop(self) -> None:
        self.stopping.set()
        self.join()
        self._socket.close()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_run_goes_on_under_ten_thousand_half_open_connections(training: Training):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < HALF_OPEN + 1000:
        pytest.skip(f"this host allows no more than {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    founded, target = training.founded, address_of(training)
    operator = founded.operator
    context = client_context(operator.certificate, operator.key, operator.authority)
    coordinator = training.deployment.children["coordinator"].pid
    rounds: list[dict[str, Any]] = []
    drips: list[Drip] = []
    with OperatorClient(operator) as client, OperatorClient(operator) as other, ExitStack() as stack:
        run_id = client.submit(training.endless_run)
        events = iter(client.follow(run_id))
        rounds += closed(events, 5)
        quiet = descriptors(coordinator)
        drips += [Drip(target, None, "127.0.3.1") for _ in range(20)]
        drips += [Drip(target, context, "127.0.3.2") for _ in range(20)]
        for drip in drips:
            drip.start()
            stack.callback(drip.stop)
        stack.enter_context(half_open(target, HALF_OPEN))
        assert descriptors(coordinator) < quiet + LIMITS.pending_handshakes + len(drips) + 50
        started = time.monotonic()
        assert isinstance(other.members(), list), "a connection that is meant gets in"
        assert time.monotonic() - started < 10
        rounds += closed(events, 20)
        wait_until(lambda: all(drip.ended for drip in drips), "the end of every slow client", 60)
        other.stop(run_id)
        rounds += closed(events, 10**9)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(len(event["silos"]) == 3 and not event["dropped"] for event in rounds), "no round missed anyone"
    wait_until(lambda: descriptors(coordinator) < quiet + 20, "the end of what was half open", 30)
    reasons = log_text(training)
    assert "too many handshakes of one address are open" in reasons


def closed(events: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The next rounds that close, at most so many."""
    found: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "round.closed":
            found.append(event)
        if len(found) >= count:
            break
    return found


def log_text(training: Training) -> str:
    segments = sorted((training.founded.coordinator.audit / "segments").glob("*.jsonl"))
    return "".join(path.read_text() for path in segments)
