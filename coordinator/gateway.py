"""The only door of the coordinator: TLS 1.3 with client certificates, one interface a role, one identity a connection.

A silo reaches the Fleet API alone, an operator the control interface alone, an auditor the evidence interface alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, ClassVar, Protocol

from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from audit.errors import AuditError
from coordinator.superlink import FLEET_PREFIX, PULL_MESSAGES, Response, SuperLink
from federation.errors import ConcordatError, Exit, IdentityError
from federation.identity import Peer, Role, peer_of
from federation.limits import LIMITS
from policies.errors import PolicyError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CONTROL_PREFIX = "/concordat/v1/control/"
EVIDENCE_PREFIX = "/concordat/v1/evidence/"
LONG_POLL_SECONDS = 20.0
PEER = "concordat.peer"

PREFIX_OF_ROLE = {
    Role.SILO: FLEET_PREFIX,
    Role.OPERATOR: CONTROL_PREFIX,
    Role.AUDITOR: EVIDENCE_PREFIX,
}


class PeerCertificateProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, which also puts the TLS peer's certificate (DER) into the scope.

    It knows the connections that are open, so that those of a peer can be cut.
    """

    open_connections: ClassVar[set[PeerCertificateProtocol]] = set()
    certificate: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the peer's certificate once the handshake is done."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self.open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.open_connections.discard(self)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Extend the scope that the server builds for each request."""
        super().on_message_begin()
        self.scope["extensions"] = {PEER: {"certificate": self.certificate}}


class Interface(Protocol):
    """The control or evidence interface: answers one request."""

    async def __call__(self, peer: Peer, scope: Scope, body: bytes, send: Send, /) -> None:
        """Answer through `send`; raises ConcordatError for a refusal."""


class Gateway:
    """The ASGI application that decides who may reach what."""

    def __init__(
        self,
        federation: str,
        is_member: Callable[[Peer], None],
        superlink: SuperLink,
        control: Interface,
        evidence: Interface,
        on_refused: Callable[[Peer | None, str, str], None],
    ) -> None:
        self._federation = federation
        self._is_member = is_member
        self._superlink = superlink
        self._control = control
        self._evidence = evidence
        self._on_refused = on_refused
        self._wake: dict[int, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        superlink.on_message(self._message_ready)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        peer: Peer | None = None
        try:
            peer = self._identify(scope)
            self._belongs(peer)
            self._authorise(peer, scope["path"])
        except IdentityError as error:
            await asyncio.to_thread(self._on_refused, peer, scope["path"], str(error))
            await send_response(send, Response(403, str(error).encode(), "text/plain; charset=utf-8"))
            return
        if peer.role is Role.SILO:
            await self._fleet(peer, scope, receive, send)
            return
        interface = self._control if peer.role is Role.OPERATOR else self._evidence
        try:
            body = await read_body(receive, LIMITS.control_request)
            await _while_connected(receive, interface(peer, scope, body, send))
        except (ConcordatError, PolicyError, AuditError) as error:
            code = error.exit_code if isinstance(error, ConcordatError) else Exit.FAILED
            await send_json(send, 422, {"error": str(error), "exit_code": int(code)})

    def _identify(self, scope: Scope) -> Peer:
        der = scope.get("extensions", {}).get(PEER, {}).get("certificate")
        if der is None:
            raise IdentityError("the connection has no client certificate")
        return _peer_of_der(der)

    def _belongs(self, peer: Peer) -> None:
        if peer.federation != self._federation:
            raise IdentityError(f"got a certificate of federation {peer.federation}, expected {self._federation}")
        self._is_member(peer)

    def _authorise(self, peer: Peer, path: str) -> None:
        prefix = PREFIX_OF_ROLE.get(peer.role)
        if prefix is None or not path.startswith(prefix):
            raise IdentityError(f"a certificate with role {peer.role} does not reach {path[:100]}")

    async def _fleet(self, peer: Peer, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = flower_identity_problem(peer, scope["headers"])
        if refusal is not None:
            await asyncio.to_thread(self._on_refused, peer, scope["path"], refusal)
            await send_response(send, Response(403, refusal.encode(), "text/plain; charset=utf-8"))
            return
        try:
            body = await read_body(receive, LIMITS.fleet_request)
        except ConcordatError as error:
            await send_response(send, Response(413, str(error).encode(), "text/plain; charset=utf-8"))
            return
        node_id = self._superlink.enrol(peer.name, peer.public_key)
        if scope["path"] == PULL_MESSAGES:
            await self._long_poll(node_id, body, scope, receive, send)
            return
        await send_response(send, await asyncio.to_thread(self._superlink.fleet, scope["path"], body, scope["headers"]))

    async def _long_poll(self, node_id: int, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a pull at once if a message is there, else when one comes, else empty after a while."""
        wake = self._wake.setdefault(node_id, asyncio.Event())
        wake.clear()
        response = self._superlink.fleet(scope["path"], body, scope["headers"])
        if response.status == 200 and self._superlink.is_empty_pull(response) and not self._closing:
            # A message pulled for a connection that is gone would be lost, so a waiter leaves with its peer.
            woken, gone = asyncio.ensure_future(wake.wait()), asyncio.ensure_future(_disconnected(receive))
            await asyncio.wait({woken, gone}, timeout=LONG_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            left, message_ready = gone.done(), woken.done()
            woken.cancel()
            gone.cancel()
            if left:
                return
            if message_ready:
                response = self._superlink.fleet(scope["path"], body, scope["headers"])
        await send_response(send, response)

    def cut(self, names: set[str]) -> None:
        """Close every connection of these members at once; may be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cut, names)

    @staticmethod
    def _cut(names: set[str]) -> None:
        for connection in list(PeerCertificateProtocol.open_connections):
            if connection.certificate is not None and _peer_of_der(connection.certificate).name in names:
                connection.transport.abort()

    def _message_ready(self, node_id: int) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._set_wake, node_id)

    def _set_wake(self, node_id: int) -> None:
        self._wake.setdefault(node_id, asyncio.Event()).set()

    def close(self) -> None:
        """Let every waiting pull go, so that the server can stop at once."""
        self._closing = True
        for event in self._wake.values():
            event.set()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return


@lru_cache(maxsize=1024)
def _peer_of_der(der: bytes) -> Peer:
    return peer_of(x509.load_der_x509_certificate(der))


def flower_identity_problem(peer: Peer, headers: list[tuple[bytes, bytes]]) -> str | None:
    """Say why a request's Flower key is not its TLS peer's key, or return None where it is (promise 4)."""
    claimed = [value for name, value in headers if name == b"flwr-public-key"]
    if len(claimed) != 1:
        return f"got {len(claimed)} flwr-public-key headers, expected one"
    try:
        key = base64.b64decode(claimed[0], validate=True)
    except binascii.Error:
        return "the flwr-public-key header is not base64"
    if key != peer.public_key:
        return f"the Flower key of this request is not the key of the certificate of {peer.name}"
    return None


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a request body of at most `limit` bytes; raises ConcordatError beyond it."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConcordatError("the peer went away before its request was complete")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise ConcordatError(f"got a request of more than {limit} bytes, the most that is accepted here")
        parts.append(part)
        if not message.get("more_body"):
            # Joined once: growing one buffer would copy a chunk of weights several times over.
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work; leave it where the peer goes, so that nothing streams on to nobody."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
    finally:
        doing.cancel()
        gone.cancel()


async def send_response(send: Send, response: Response) -> None:
    """Send a complete answer."""
    headers = [
        (b"content-type", response.media_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def send_json(send: Send, status: int, content: object) -> None:
    """Send a JSON answer."""
    await send_response(send, Response(status, json.dumps(content).encode(), "application/json"))
