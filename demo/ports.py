"""A TCP port for a process that is yet to start, which nobody else on this machine is given meanwhile."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from federation.errors import ConcordatError

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST, _LAST = 10_000, 65_535

# An abstract Unix socket for each reserved port. The kernel takes the name back when this process ends.
_reserved: list[socket.socket] = []


def reserve_port() -> int:
    """Reserve a TCP port of 127.0.0.1 until this process ends.

    The port is outside the range from which the kernel gives ports to outgoing connections (Linux:
    `ip_local_port_range`), and every other process that calls this function passes it over. A port that was only
    free a moment ago has neither property: between that moment and the start of the server, or between the end of
    a server and its next start, a connection or another server can get it.

    Raises:
        ConcordatError: if every port is in use

    """
    lowest, highest = (int(bound) for bound in _EPHEMERAL.read_text().split())
    outside = [port for port in range(_FIRST, _LAST + 1) if not lowest <= port <= highest]
    for port in random.sample(outside, len(outside)):
        if _reserve(port):
            return port
    raise ConcordatError(
        f"every TCP port of 127.0.0.1 from {_FIRST} to {_LAST} outside {lowest} to {highest} is in use",
        advice="end a process that listens on one",
    )


def _reserve(port: int) -> bool:
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0concordat-port-{port}")
        # A server's own option: it may follow a server whose connections have just ended.
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            probe.listen()
    except OSError:
        name.close()
        return False
    _reserved.append(name)
    return True
