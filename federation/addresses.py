"""Network addresses as people write them."""

from __future__ import annotations

from federation.errors import UsageError


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`; raises UsageError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"got address {address!r}, expected host:port such as coordinator.example.org:9443")
    return host, int(port)
