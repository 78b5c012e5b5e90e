"""The only door of the coordinator: TLS 1.3 with client certificates, one interface a role, one identity a connection.

A silo reaches the Fleet API alone, an operator the control interface alone, an auditor the evidence interface alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from audit.errors import AuditError
from coordinator.connections import PEER, PeerCertificateProtocol
from coordinator.superlink import (
    CLOCK_TOLERANCE_SECONDS,
    FLEET_PREFIX,
    NOT_ACTIVE,
    PULL_MESSAGES,
    PUSH_OBJECT,
    Response,
    SuperLink,
)
from federation.errors import ConcordatError, Exit, IdentityError
from federation.faults import report
from federation.identity import Peer, Role, load_der_certificate, peer_of
from federation.limits import LIMITS
from federation.renewal import IDENTITY_PREFIX
from policies.errors import PolicyError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CONTROL_PREFIX = "/concordat/v1/control/"
EVIDENCE_PREFIX = "/concordat/v1/evidence/"
LONG_POLL_SECONDS = 20.0
BODY_SECONDS = 120.0
PART_BYTES = 4 * 1024 * 1024

PREFIX_OF_ROLE = {
    Role.SILO: FLEET_PREFIX,
    Role.OPERATOR: CONTROL_PREFIX,
    Role.AUDITOR: EVIDENCE_PREFIX,
}


class Interface(Protocol):
    """The control or evidence interface: answers one request."""

    async def __call__(self, peer: Peer, scope: Scope, body: bytes, send: Send, /) -> None:
        """Answer through `send`; raises ConcordatError for a refusal."""


class Gateway:
    """The ASGI application that decides who may reach what."""

    def __init__(
        self,
        identify: Callable[[bytes], Peer],
        superlink: SuperLink,
        control: Interface,
        evidence: Interface,
        identity: Interface,
        on_refused: Callable[[Peer | None, str, str], None],
    ) -> None:
        self._identify_certificate = identify
        self._identity = identity
        self._superlink = superlink
        self._control = control
        self._evidence = evidence
        self._on_refused = on_refused
        self._wake: dict[int, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self.undecided: Callable[[Peer | None, str, str], None] = lambda _peer, _path, _reason: None
        """Records a request that could not be decided, for a reason nobody foresaw."""
        superlink.on_message(self._message_ready)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            der = scope.get("extensions", {}).get(PEER, {}).get("certificate")
            answer = _Answer(send)
            try:
                await self._serve(der, scope, receive, answer)
            except AuditError:
                raise  # nothing can be recorded, so nothing is answered
            except Exception as error:  # noqa: BLE001  whatever goes wrong while deciding is a refusal (promise 2)
                reason = f"evaluation-error: {report(error)}"
                await asyncio.to_thread(self.undecided, claimed_by(der), scope["path"], reason)
                if not answer.begun:
                    await send_json(send, 500, {"error": reason, "exit_code": int(Exit.FAILED)})

    async def _serve(self, der: bytes | None, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if der is None:
                raise IdentityError("the connection has no client certificate")
            peer = self._identify_certificate(der)
            authorise(peer, scope["path"])
        except IdentityError as error:
            await self._refuse(claimed_by(der), scope, 403, str(error), send)
            return
        try:
            if scope["path"].startswith(IDENTITY_PREFIX):
                body = await read_body(receive, LIMITS.enrolment_request)
                await self._identity(peer, scope, body, send)
            elif peer.role is Role.SILO:
                await self._fleet(peer, scope, receive, send)
            else:
                interface = self._control if peer.role is Role.OPERATOR else self._evidence
                body = await read_body(receive, LIMITS.control_request)
                await _while_connected(receive, interface(peer, scope, body, send))
        except TooLargeError as error:
            await self._refuse(peer, scope, 413, str(error), send)
        except (ConcordatError, PolicyError, AuditError) as error:
            code = error.exit_code if isinstance(error, ConcordatError) else Exit.FAILED
            await send_json(send, 422, {"error": str(error), "exit_code": int(code)})

    async def _refuse(self, peer: Peer | None, scope: Scope, status: int, reason: str, send: Send) -> None:
        await asyncio.to_thread(self._on_refused, peer, scope["path"], reason)
        await send_response(send, Response(status, reason.encode(), "text/plain; charset=utf-8"))

    async def _fleet(self, peer: Peer, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = flower_identity_problem(peer, scope["headers"]) or clock_problem(peer, scope["headers"])
        if refusal is not None:
            await self._refuse(peer, scope, 403, refusal, send)
            return
        pulls = scope["path"] == PULL_MESSAGES
        limit = {PULL_MESSAGES: LIMITS.pull_request, PUSH_OBJECT: LIMITS.fleet_request}.get(scope["path"])
        body = await read_body(receive, limit or LIMITS.fleet_call)
        node_id = self._superlink.enrol(peer.name, peer.public_key)
        if pulls:
            response = await self._long_poll(node_id, body, scope, receive)
        else:
            response = await asyncio.to_thread(self._superlink.fleet, scope["path"], body, scope["headers"])
        if response is None:
            return
        if response.status in {401, 403} and response != NOT_ACTIVE:
            await self._refuse(peer, scope, response.status, response.body.decode("utf-8", "replace"), send)
        else:
            await send_response(send, response)

    async def _long_poll(self, node_id: int, body: bytes, scope: Scope, receive: Receive) -> Response | None:
        """Answer a pull at once if a message is there, else when one comes or after a while; None if the peer left."""
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
                return None
            if message_ready:
                response = self._superlink.fleet(scope["path"], body, scope["headers"])
        return response

    def recheck(self, on_cut: Callable[[Peer | None, str], None]) -> None:
        """Check every open connection against the manifest again and cut those that fail; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._recheck, on_cut)

    def _recheck(self, on_cut: Callable[[Peer | None, str], None]) -> None:
        cut: dict[bytes, str] = {}
        for connection in list(PeerCertificateProtocol.open_connections):
            der = connection.certificate
            if der is None:
                continue
            try:
                self._identify_certificate(der)
            except (ConcordatError, PolicyError, AuditError, OSError) as error:
                cut[der] = str(error)
            except Exception as error:  # noqa: BLE001  what cannot be checked is cut too, and spares no other
                cut[der] = f"evaluation-error: {report(error)}"
            if der in cut:
                connection.transport.abort()
        if self._loop is not None:
            for der, reason in cut.items():
                self._loop.run_in_executor(None, on_cut, claimed_by(der), reason)

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


class _Answer:
    """Sends an answer, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: dict[str, Any]) -> None:
        self.begun = True
        await self._send(message)


def unless_unrecorded(application: Application) -> Application:
    """The application, with 503 for an answer where it cannot record what it decides: that is no word on the peer.

    Where the log refuses, the process is about to end and says why.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        try:
            await application(scope, receive, answer)
        except (AuditError, OSError):
            if answer.begun or scope["type"] != "http":
                raise
            await send_json(send, 503, {"error": "the coordinator cannot record what it decides"})

    return answered


def claimed_by(der: bytes | None) -> Peer | None:
    """The identity that a certificate claims, for the record of its refusal; None where it has none."""
    try:
        return None if der is None else peer_of(load_der_certificate(der))
    except IdentityError:
        return None


def authorise(peer: Peer, path: str) -> None:
    """Check that a role reaches an interface; raises IdentityError."""
    prefix = PREFIX_OF_ROLE.get(peer.role)
    if path.startswith(IDENTITY_PREFIX) or (prefix is not None and path.startswith(prefix)):
        return
    raise IdentityError(f"a certificate with role {peer.role} does not reach {path[:100]}")


def clock_problem(peer: Peer, headers: list[tuple[bytes, bytes]], now: datetime | None = None) -> str | None:
    """Say how far a request's time stamp is off, or return None where it is near enough for Flower to decide."""
    stamps = [value for name, value in headers if name == b"flwr-timestamp"]
    try:
        off = (datetime.fromisoformat(stamps[0].decode()) - (now or datetime.now(UTC))).total_seconds()
    except (IndexError, ValueError, TypeError):
        return "the request has no usable flwr-timestamp header"
    if abs(off) > CLOCK_TOLERANCE_SECONDS:
        way = "ahead" if off > 0 else "behind"
        return f"the clock of {peer.name} is {abs(off):.0f} s {way} of the coordinator's; set the wrong one right"
    return None


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


class TooLargeError(ConcordatError):
    """A request's body is larger than it may be."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a request body of at most `limit` bytes; raises TooLargeError beyond it, ConcordatError where it is slow."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_body(receive, limit)
    except TimeoutError:
        raise ConcordatError(f"the request's body did not arrive within {BODY_SECONDS:.0f} s") from None


async def _read_body(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConcordatError("the peer went away before its request was complete")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLargeError(f"got a request of more than {limit} bytes, the most that is accepted here")
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
    # In parts, each once there is room for it: a peer that reads slowly is not to fill the memory here.
    last = max(0, len(response.body) - 1) // PART_BYTES * PART_BYTES
    for start in range(0, last, PART_BYTES):
        part = response.body[start : start + PART_BYTES]
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": response.body[last:]})


async def send_json(send: Send, status: int, content: object) -> None:
    """Send a JSON answer."""
    await send_response(send, Response(status, json.dumps(content).encode(), "application/json"))
