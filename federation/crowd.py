"""Who has to leave where too many have come: bounds for all together and for each, and the longest idle one goes."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

Guest = TypeVar("Guest", bound=Hashable)

IPV6_NETWORK_BITS = 64
"""A host is given a network of this size (RFC 6177), so that all its addresses count as one."""


class Crowd(Generic[Guest]):
    """Guests of several holders: at most so many together, and so many of one; thread-safe.

    A newcomer is not turned away because others came first: of the holder that has too many, or the most, the guest
    leaves that has been idle longest. So whoever holds many idle guests only ever loses its own.
    """

    def __init__(self, together: int, of_one: int) -> None:
        self._together, self._of_one = together, of_one
        self._lock = threading.Lock()
        self._holders: dict[Guest, str] = {}
        self._busy: dict[str, dict[Guest, bool]] = {}
        """Of each holder the guests, the longest idle first, and whether they are busy."""

    def __len__(self) -> int:
        return len(self._holders)

    def enter(self, guest: Guest, holder: str) -> Guest | None:
        """Count a newcomer in; returns who has to leave for it, which may be itself, or None."""
        with self._lock:
            self._holders[guest] = holder
            self._busy.setdefault(holder, {})[guest] = False
            if len(self._busy[holder]) > self._of_one:
                leaving = self._leaving(holder, guest)
            elif len(self._holders) > self._together:
                # The newcomer counts too: its holder may be the one that has the most.
                leaving = self._leaving(max(self._busy, key=lambda one: len(self._busy[one])), guest)
            else:
                return None
            self._remove(leaving)
            return leaving

    def occupy(self, guest: Guest) -> None:
        """A guest is busy: it leaves for nobody of its own holder."""
        with self._lock:
            self._mark(guest, busy=True)

    def rest(self, guest: Guest) -> None:
        """A guest is idle from now on."""
        with self._lock:
            self._mark(guest, busy=False)

    def leave(self, guest: Guest) -> None:
        """A guest is gone; one that is not here is no matter."""
        with self._lock:
            self._remove(guest)

    def _leaving(self, holder: str, newcomer: Guest) -> Guest:
        theirs = self._busy[holder]
        idle = next((one for one, busy in theirs.items() if not busy), None)
        if idle is not None:
            return idle
        # A busy one leaves only for a newcomer whose holder has fewer.
        fewer = len(self._busy[self._holders[newcomer]]) < len(theirs)
        return next(iter(theirs)) if fewer else newcomer

    def _mark(self, guest: Guest, *, busy: bool) -> None:
        holder = self._holders.get(guest)
        if holder is not None:
            del self._busy[holder][guest]
            self._busy[holder][guest] = busy

    def _remove(self, guest: Guest) -> None:
        holder = self._holders.pop(guest, None)
        if holder is not None:
            del self._busy[holder][guest]
            if not self._busy[holder]:
                del self._busy[holder]


def network_of(address: str) -> str:
    """The network by which an address counts: an IPv4 address itself, the /64 of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, IPV6_NETWORK_BITS), strict=False))
    return str(found)
