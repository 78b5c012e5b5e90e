"""What stands before HTTP: the TLS handshake, bounded in time and number."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from federation.crowd import Crowd, network_of
from federation.limits import LIMITS

HANDSHAKE_SECONDS = 5.0
ACCEPT_PAUSE_SECONDS = 0.05
KNOWN_NETWORKS = 4096

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

    network: str
    socket: socket.socket
    task: asyncio.Task[None] | None = None


class Door:
    """Accepts connections and shakes hands; what does not finish in time, or is too many, goes.

    Has the methods of an asyncio server that Uvicorn calls. Networks from which a handshake has succeeded before have
    room of their own, which no stranger can fill; at a door that asks for no certificate a handshake proves nothing.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        on_refused: OnRefused,
        room: float = 1.0,
    ) -> None:
        """`room` is the share of the limits that this machine has open files for."""
        self._listener = listener
        self._context = context
        self._make = make
        self._on_refused = on_refused
        self._pending: dict[_Knock, Crowd[_Knock]] = {}
        together, of_one = LIMITS.pending_handshakes // 2, LIMITS.pending_handshakes_of_one
        bounds = max(1, int(room * together)), max(1, int(room * of_one))
        self._strangers: Crowd[_Knock] = Crowd(*bounds)
        self._neighbours: Crowd[_Knock] = Crowd(*bounds)
        self._known: dict[str, None] = {}
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
            knock = _Knock(network_of(str(name[0])), accepted)
            self._admit(knock)
            knock.task = loop.create_task(self._shake(knock))
            # Handshakes under way go on before the next connection is accepted, however many wait for that.
            await asyncio.sleep(0)

    def _admit(self, knock: _Knock) -> None:
        """Where too many handshakes are open, end the oldest of whichever network has the most.

        Honest handshakes take milliseconds, so the oldest is the one that waits for nothing.
        """
        crowd = self._neighbours if knock.network in self._known else self._strangers
        self._pending[knock] = crowd
        leaving = crowd.enter(knock, knock.network)
        if leaving is not None:
            self._give_up(leaving)
            of = "of one address " if leaving.network == knock.network else ""
            self._on_refused(f"too many handshakes {of}are open ({leaving.network})")

    def _give_up(self, knock: _Knock) -> None:
        self._forget(knock)
        with contextlib.suppress(OSError):
            knock.socket.shutdown(socket.SHUT_RDWR)

    def _forget(self, knock: _Knock) -> None:
        crowd = self._pending.pop(knock, None)
        if crowd is not None:
            crowd.leave(knock)

    async def _shake(self, knock: _Knock) -> None:
        loop = asyncio.get_running_loop()
        try:
            knock.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                self._make, knock.socket, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            self._remember(knock.network)
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
            self._forget(knock)

    def _remember(self, network: str) -> None:
        """Keep room for a network that has shown a certificate; the one that showed one longest ago is forgotten."""
        if self._context.verify_mode == ssl.CERT_NONE:
            return
        self._known.pop(network, None)
        self._known[network] = None
        if len(self._known) > KNOWN_NETWORKS:
            del self._known[next(iter(self._known))]


def refusal_of(error: ssl.SSLError) -> str:
    """Why a handshake failed, as the log says it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate does not verify: {error.verify_message}"
    reason = str(error.reason or "")
    return _REASONS.get(reason, f"the handshake failed: {reason.lower().replace('_', ' ') or 'no reason given'}"[:300])
