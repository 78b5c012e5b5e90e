"""What stands before HTTP: the TLS handshake, bounded in time and number, and the connections it let in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from federation.limits import LIMITS

HANDSHAKE_SECONDS = 5.0
HEADER_SECONDS = 20.0
ACCEPT_PAUSE_SECONDS = 0.05
PEER = "concordat.peer"

OnRefused = Callable[[str], None]
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client has no certificate",
    "UNSUPPORTED_PROTOCOL": "the client speaks no TLS 1.3",
    "NO_SHARED_CIPHER": "the client shares no cipher suite of TLS 1.3",
    "HTTP_REQUEST": "the client speaks HTTP without TLS",
    "WRONG_VERSION_NUMBER": "the client does not speak TLS",
}


@dataclass(eq=False)
class _Knock:
    """One connection until its handshake is done."""

    address: str
    socket: socket.socket
    task: asyncio.Task[None] | None = None


class Door:
    """Accepts connections and shakes hands; what does not finish in time, or is too many, goes.

    Has the methods of an asyncio server that Uvicorn calls.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        on_refused: OnRefused,
    ) -> None:
        self._listener = listener
        self._context = context
        self._make = make
        self._on_refused = on_refused
        self._pending: dict[_Knock, None] = {}
        self._accepting: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to accept; returns once the socket listens."""
        self._listener.setblocking(False)
        self._listener.listen(2048)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept no more."""
        if self._accepting is not None:
            self._accepting.cancel()
        for knock in list(self._pending):
            self._give_up(knock)

    async def wait_closed(self) -> None:
        """Return once nothing is accepted any more."""
        if self._accepting is not None:
            await asyncio.gather(self._accepting, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, name = await loop.sock_accept(self._listener)
            except OSError:
                # Out of file descriptors, or a client that went away at once: others may still come.
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            knock = _Knock(str(name[0]), accepted)
            self._make_room(knock.address)
            self._pending[knock] = None
            knock.task = loop.create_task(self._shake(knock))

    def _make_room(self, address: str) -> None:
        """Where too many handshakes are open, end the oldest of whoever has the most.

        Honest handshakes take milliseconds, so the oldest is the one that waits for nothing.
        """
        mine = [other for other in self._pending if other.address == address]
        if len(mine) >= LIMITS.pending_handshakes_of_one:
            self._give_up(mine[0])
            self._on_refused("too many handshakes of one address are open")
        elif len(self._pending) >= LIMITS.pending_handshakes:
            most = Counter(other.address for other in self._pending).most_common(1)[0][0]
            self._give_up(next(other for other in self._pending if other.address == most))
            self._on_refused("too many handshakes are open")

    def _give_up(self, knock: _Knock) -> None:
        self._pending.pop(knock, None)
        with contextlib.suppress(OSError):
            knock.socket.shutdown(socket.SHUT_RDWR)

    async def _shake(self, knock: _Knock) -> None:
        loop = asyncio.get_running_loop()
        try:
            knock.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                self._make, knock.socket, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except ssl.SSLError as error:
            if knock in self._pending:
                self._on_refused(refusal_of(error))
        except ConnectionAbortedError:
            # What the loop raises where a handshake takes too long.
            if knock in self._pending:
                self._on_refused(f"the client did not finish its handshake within {HANDSHAKE_SECONDS:.0f} s")
        except OSError:
            pass  # it went away by itself, as a port scan or a probe does
        finally:
            self._pending.pop(knock, None)


def refusal_of(error: ssl.SSLError) -> str:
    """Why a handshake failed, as the log says it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate does not verify: {error.verify_message}"
    reason = str(error.reason or "")
    return _REASONS.get(reason, f"the handshake failed: {reason.lower().replace('_', ' ') or 'no reason given'}"[:300])


class PeerCertificateProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, which also puts the TLS peer's certificate (DER) into the scope.

    It knows the connections that are open, so that those of a peer can be cut, and bounds a request's head in time and
    size.
    """

    open_connections: ClassVar[set[PeerCertificateProtocol]] = set()
    certificate: bytes | None = None
    _slow: asyncio.TimerHandle | None = None
    _head: int | None = 0
    """Bytes of a head that is not complete; None while a body or an answer is under way."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the peer's certificate once the handshake is done."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        same = sum(1 for other in self.open_connections if other.certificate == self.certificate)
        if len(self.open_connections) >= LIMITS.connections or same >= LIMITS.member_connections:
            transport.abort()
            return
        self.open_connections.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._unwatch()
        self.open_connections.discard(self)
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
        self._watch()

    def on_headers_complete(self) -> None:
        """The request's head is here in time."""
        self._unwatch()
        self._head = None
        if sum(len(name) + len(value) for name, value in self.headers) > LIMITS.request_head:
            self.transport.abort()
            return
        super().on_headers_complete()

    def _watch(self) -> None:
        self._unwatch()
        self._slow = asyncio.get_running_loop().call_later(HEADER_SECONDS, self.transport.abort)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
