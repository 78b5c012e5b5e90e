"""Network addresses as people write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from federation.errors import UsageError

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}):([0-9]{1,5})")

Address = Annotated[str, Field(max_length=300, pattern=f"^(?:{_ADDRESS.pattern})$")]
"""`host:port` or `[v6]:port` in a document: no scheme, no path, no user and nothing that ends a line."""
Addresses = Annotated[tuple[Address, ...], Field(max_length=16)]


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`; raises UsageError."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise UsageError(f"got address {address[:300]!r}, expected host:port such as coordinator.example.org:9443")
    return found[1].strip("[]"), int(found[2])
