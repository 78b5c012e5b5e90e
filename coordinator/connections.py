"""Connections whose handshake is done: how many each party may have open, and what counts as a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coordinator.door import OnRefused
from federation.crowd import Crowd, network_of
from federation.errors import WireError
from federation.limits import LIMITS

HEADER_SECONDS = 20.0
"""How long a member may take to begin, or to complete, the head of a request."""
IDLE_SECONDS = 120.0
"""How long a member's connection is kept between two requests, whatever trickles in meanwhile."""
STRANGER_SECONDS = 10.0
"""How long a stranger may take from its handshake to the end of its request."""
FAREWELL_SECONDS = 30.0
"""How long the other side may take to read its last answer, or to send what nobody waits for."""
PEER = "concordat.peer"

_NOT_TAKEN = {
    b"transfer-encoding": "a Transfer-Encoding, expected a Content-Length",
    b"content-encoding": "a Content-Encoding, expected a body as it is",
    b"upgrade": "an Upgrade, expected HTTP/1.1",
}


@dataclass(frozen=True)
class Reception:
    """What the connections of one interface share."""

    crowd: Crowd[PeerCertificateProtocol]
    senders: Crowd[PeerCertificateProtocol]
    """The connections with a large body under way, all of which is kept in memory until it is read."""
    name_of: Callable[[bytes], str | None]
    """The member that a certificate (DER) stands for; None where it is no member's."""
    on_refused: OnRefused
    for_strangers: bool = False
    """Whether clients need no certificate: then each connection is good for one request."""


class PeerCertificateProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, which also puts the TLS peer's certificate (DER) into the scope.

    It knows the connections that are open, so that those of a peer can be cut, and bounds them in number, and each
    request in time, size and form.
    """

    open_connections: ClassVar[set[PeerCertificateProtocol]] = set()
    certificate: bytes | None = None
    _holder = ""
    _slow: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _head: int | None = 0
    """Bytes of a head that is not complete; None while a body or an answer is under way."""

    def __init__(self, reception: Reception, **options: Any) -> None:
        super().__init__(**options)
        self._reception = reception
        self._problem = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the peer's certificate once the handshake is done, and make room for the peer."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        name = self._reception.name_of(self.certificate) if self.certificate is not None else None
        self._holder = name or network_of(self.client[0] if self.client else "")
        self.open_connections.add(self)
        if self._enters(self._reception.crowd, "connections are open"):
            self._watch(STRANGER_SECONDS if self._reception.for_strangers else HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._unwatch()
        self._resumed()
        self.open_connections.discard(self)
        self._reception.crowd.leave(self)
        self._reception.senders.leave(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End an idle connection at once: a peer that is idle too would not answer a goodbye."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Hand on what came in; a head that is too large ends the connection."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > LIMITS.request_head:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Extend the scope that the server builds for each request."""
        self._head = 0
        super().on_message_begin()
        self.scope["extensions"] = {PEER: {"certificate": self.certificate}}
        if not self._reception.for_strangers:
            self._watch(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        """The request's head is here in time."""
        self._head = None
        problem = head_problem(self.headers)
        if problem is not None:
            self._problem = problem
            # The parser stops, so that nothing of what follows is taken for a request.
            raise WireError(problem)
        if self._reception.for_strangers:
            # As if the client had asked for it: the answer says so, and the connection ends with it.
            self.headers.append(CLOSE_HEADER)
            super().on_headers_complete()
        else:
            super().on_headers_complete()
            self._unwatch()
            self._reception.crowd.occupy(self)
            if body_length(self.headers) >= LIMITS.large_body:
                self._enters(self._reception.senders, "large requests are under way")

    def on_message_complete(self) -> None:
        """The request is here whole."""
        super().on_message_complete()
        self._reception.senders.occupy(self)
        if self._reception.for_strangers:
            self._unwatch()
            self._reception.crowd.occupy(self)

    def on_response_complete(self) -> None:
        """The answer is given: from here on time counts against the other side again."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._reception.crowd.rest(self)
            self._reception.senders.leave(self)
            last = self.cycle.more_body or self._reception.for_strangers
            self._watch(FAREWELL_SECONDS if last else IDLE_SECONDS)

    def pause_writing(self) -> None:
        """The other side does not read what it asked for; it has a while to go on."""
        super().pause_writing()
        self._stalled = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The other side reads on."""
        self._resumed()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  the server's word for it says less
        """Turn away what is no request that is taken here, and have it recorded."""
        problem = self._problem or "something that is no HTTP request"
        self._reception.on_refused(f"got {problem}")
        super().send_400_response(f"got {problem}")
        self._watch(FAREWELL_SECONDS)

    def _enters(self, crowd: Crowd[PeerCertificateProtocol], many: str) -> bool:
        """Whether the connection is taken into a crowd; where that has too many, one of them is ended."""
        leaving = crowd.enter(self, self._holder)
        if leaving is not None:
            self._reception.on_refused(f"too many {many}, the most of them of {leaving._holder}")
            leaving.transport.abort()
        return leaving is not self

    def _watch(self, seconds: float) -> None:
        self._unwatch()
        self._slow = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _resumed(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        if self._reception.for_strangers and not self.transport.is_closing():
            self._reception.on_refused(f"no request came within {STRANGER_SECONDS:.0f} s from {self._holder}")
        self.transport.abort()


def body_length(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """The length of a request's body by its head, which the parser has read."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def head_problem(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Say what in a request's head is not taken here, or return None.

    A length that is known before the body, no coding that makes much of little, and one protocol: so neither we nor
    anything before us can be of two minds about where a request ends or how large it is.
    """
    if len(headers) > LIMITS.request_headers:
        return f"{len(headers)} headers, expected at most {LIMITS.request_headers}"
    if sum(len(name) + len(value) for name, value in headers) > LIMITS.request_head:
        return f"a head of more than {LIMITS.request_head} bytes"
    return next((_NOT_TAKEN[name] for name, _ in headers if name in _NOT_TAKEN), None)
