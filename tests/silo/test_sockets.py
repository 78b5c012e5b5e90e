"""What is left of the network to a worker between two pods, tried out by processes that confine themselves."""

from __future__ import annotations

import ctypes
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

PRELUDE = """
import ctypes, json, os, platform, socket, sys, threading
from silo.sockets import *
def attempt(what):
    try:
        return what() or "done"
    except OSError as error:
        return type(error).__name__
def over_tcp(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10): return "connected"
def a_socket(family, kind=socket.SOCK_STREAM):
    socket.socket(family, kind).close()
"""


@pytest.fixture(autouse=True)
def landlock_with_tcp() -> None:
    abi = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 4:
        pytest.skip("this kernel has no Landlock that knows TCP")


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Two ports of 127.0.0.1 on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield one.getsockname()[1], other.getsockname()[1]


def _child(code: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-P", "-c", PRELUDE + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_one_port_is_left_and_none_to_listen_on(ports: tuple[int, int]) -> None:
    found = _child(
        """
one, other = map(int, sys.argv[1:])
before = over_tcp(other)
said = keep_tcp_ports([one])
import subprocess
child = subprocess.run([sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {other}))"],
                       capture_output=True)
print(json.dumps({"before": before, "said": said, "gate": attempt(lambda: over_tcp(one)), "child": child.returncode,
                  "other": attempt(lambda: over_tcp(other)),
                  "listen": attempt(lambda: socket.create_server(("127.0.0.1", 0)).close())}))
""",
        *ports,
    )
    assert found.pop("said").startswith(f"NO EMPTY NETWORK NAMESPACE: TCP to port {ports[0]} alone (Landlock version ")
    assert found == {
        "before": "connected",
        "gate": "connected",
        "other": "PermissionError",
        "child": 1,
        "listen": "PermissionError",
    }


def test_afterwards_no_thread_makes_a_socket_and_open_ones_go_on(ports: tuple[int, int]) -> None:
    found = _child(
        """
from silo.confinement import forbid_sockets
open_one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
made = socket.socket(socket.AF_UNIX)
go, seen = threading.Event(), []
thread = threading.Thread(target=lambda: (go.wait(), seen.append(attempt(lambda: a_socket(socket.AF_INET)))))
thread.start()
said = forbid_sockets()
go.set(); thread.join()
libc, number = ctypes.CDLL(None), {"x86_64": 41, "aarch64": 198}[platform.machine()]
print(json.dumps({
    "said": said, "earlier thread": seen[0], "sent": open_one.send(b"x"),
    "tcp": attempt(lambda: a_socket(socket.AF_INET)), "tcp6": attempt(lambda: a_socket(socket.AF_INET6)),
    "udp": attempt(lambda: a_socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "mptcp": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) and None),
    "netlink": attempt(lambda: a_socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "raw call": libc.syscall(number, 2, 1, 0), "io_uring": libc.syscall(425, 1, None),
    "other numbering": libc.syscall(number | 0x40000000, 2, 1, 0), "made before": attempt(lambda: made.connect("/x")),
    "unix": attempt(lambda: a_socket(socket.AF_UNIX)), "pair": attempt(lambda: socket.socketpair() and None)}))
""",
        ports[0],
    )
    refused = "PermissionError"
    assert found == {
        "said": "no sockets by seccomp",
        "earlier thread": refused,
        "sent": 1,
        "tcp": refused,
        "tcp6": refused,
        "udp": refused,
        "mptcp": refused,
        "netlink": refused,
        "raw call": -1,
        "io_uring": -1,
        "other numbering": -1,
        "made before": refused,
        "unix": refused,
        "pair": refused,
    }


def test_a_child_makes_none_either() -> None:
    found = _child(
        """
from silo.confinement import forbid_sockets
import subprocess
forbid_sockets()
code = "import socket; socket.socket()"
child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
print(json.dumps({"child": child.returncode, "why": "PermissionError" in child.stderr}))
"""
    )
    assert found == {"child": 1, "why": True}


def test_a_machine_without_a_filter_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from silo.confinement import forbid_sockets

    monkeypatch.setattr("platform.machine", lambda: "s390x")
    assert forbid_sockets().startswith("SOCKETS NOT FORBIDDEN")
