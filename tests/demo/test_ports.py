"""A reserved port is nobody else's, also while no server listens on it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from demo import ports
from demo.ports import reserve_port
from federation.errors import ConcordatError

RESERVE = """
import sys
from demo.ports import reserve_port
print(*(reserve_port() for _ in range(int(sys.argv[1]))), flush=True)
sys.stdin.read()
"""


def only(monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
    """Let there be no other ports than these."""
    monkeypatch.setattr(ports, "_FIRST", first)
    monkeypatch.setattr(ports, "_LAST", last)


def test_a_port_is_outside_the_range_of_outgoing_connections() -> None:
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for _ in range(20):
        port = reserve_port()
        assert 10_000 <= port <= 65_535
        assert not lowest <= port <= highest


def test_a_server_can_listen_on_it_again_and_again() -> None:
    port = reserve_port()
    for _ in range(3):
        with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(b"x")
            with server.accept()[0] as other:
                other.recv(1)


def test_processes_that_reserve_at_the_same_time_never_share_one() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RESERVE, "300"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    seen = []
    for child in children:
        assert child.stdout is not None
        seen += child.stdout.readline().split()
    for child in children:
        child.communicate("")
    assert len(set(seen)) == len(seen) == 900


def test_the_last_free_port_is_found_and_freed_by_the_end_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(port for port in iter(reserve_port, 0) if ports._reserve(port + 1))
    ports._reserved.pop().close()  # the second of the two is free again
    only(monkeypatch, first, first + 1)
    child = subprocess.Popen(
        [sys.executable, "-c", f"import demo.ports as p; p._FIRST, p._LAST = {first}, {first + 1}\n{RESERVE}", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline().split() == [str(first + 1)]
    with pytest.raises(ConcordatError, match=f"every TCP port of 127.0.0.1 from {first} to {first + 1}"):
        reserve_port()
    child.communicate("")
    assert reserve_port() == first + 1


def test_a_port_on_which_somebody_listens_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", reserve_port())) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "_reserved", [])
        only(monkeypatch, port, port)
        with pytest.raises(ConcordatError, match="end a process that listens on one"):
            reserve_port()
