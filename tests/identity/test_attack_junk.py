"""A coordinator whose answers to a gate are none: the gate records that it was lost, connects again, and lives."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.proto import fleet_pb2, message_pb2

from federation.home import Home
from federation.identity import Role
from federation.processes import Child, command_line
from federation.tls import server_context

from .conftest import Online, wait_until

pytestmark = pytest.mark.federation

POLICY = (Path(__file__).parents[1] / "smallest_policy.yaml").read_text()
NO_TREE = fleet_pb2.PullMessagesResponse(messages_list=[message_pb2.Message()]).SerializeToString()
JUNK = {
    "no protobuf": b"\xff" * 64,
    "a message without its objects": NO_TREE,
    "a page": b"<html>the proxy is down</html>",
    "a refusal of a date that no calendar has": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n"
    b"Date: Mon, 01 Jan 100000000000000000000 00:00:00 GMT\r\n\r\n",
}


def served(connection: ssl.SSLSocket, junk: bytes) -> None:
    """Answer the gate's requests on one connection: its activation well, everything else with junk."""
    active = fleet_pb2.ActivateNodeResponse(node_id=7).SerializeToString()
    with connection, connection.makefile("rb") as file:
        while line := file.readline():
            length = 0
            while (header := file.readline().strip().lower()) != b"":
                length = int(header.partition(b":")[2]) if header.startswith(b"content-length") else length
            file.read(length)
            body = active if b"activate-node" in line else junk
            whole = body.startswith(b"HTTP/")
            connection.sendall(body if whole else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@contextmanager
def babbling(federation: Online, junk: bytes) -> Iterator[None]:
    """A server with the coordinator's certificate, at its address."""
    hub = federation.coordinator
    context = server_context(hub.certificate, hub.key, hub.authority)
    host, _, port = federation.address.partition(":")
    with socket.create_server((host, int(port))) as listener:

        def serve() -> None:
            while True:
                try:
                    connection = context.wrap_socket(listener.accept()[0], server_side=True)
                except ssl.SSLError:
                    continue
                except OSError:
                    return
                threading.Thread(target=served, args=(connection, junk), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def federation(short_tmp: Callable[[str], Path]) -> Online:
    made = Online(short_tmp("junk"))
    made.member("silo-a", Role.SILO)
    return made


def lost(home: Home) -> list[str]:
    """Why the gate lost the coordinator, or was refused by it, by its log."""
    lines = [line for path in sorted(home.audit.glob("segments/*.jsonl")) for line in path.read_bytes().splitlines()]
    entries = map(json.loads, lines)
    return [entry["reason"] for entry in entries if entry["action"] in {"coordinator.lost", "coordinator.refused"}]


@pytest.mark.parametrize("kind", JUNK)
def test_a_gate_outlives_answers_that_are_none(federation: Online, kind: str, short_tmp: Callable[[str], Path]) -> None:
    site = short_tmp("gate")
    home = federation.home("silo-a")
    (site / "policy.yaml").write_text(POLICY)
    settings = "apiVersion: concordat/v1\nkind: Silo\npolicy: policy.yaml\nsocket: run/worker.sock\n"
    (site / "silo.yaml").write_text(settings)
    before = len(lost(home))
    command = command_line("silo", "gate", str(site / "silo.yaml"), "--home", str(home.path))
    with babbling(federation, JUNK[kind]):
        gate = Child("gate", command, site / "gate.log", dict(os.environ))
        try:
            wait_until(lambda: len(lost(home)) >= before + 2, "the second loss")
            gate.signal(signal.SIGTERM)
            assert gate.wait(30) == 0, (site / "gate.log").read_text()
        finally:
            gate.signal(signal.SIGKILL)
    assert "Traceback" not in (site / "gate.log").read_text()
    assert len(set(lost(home)[before:])) == 1
