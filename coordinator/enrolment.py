"""The interfaces that give out certificates: enrolment by token, for strangers; renewal, for members."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from audit.errors import AuditError
from coordinator.authority import Authority, request_fingerprint
from coordinator.authority.invitations import EnrolmentRefusedError
from coordinator.gateway import Receive, Scope, Send, TooLargeError, read_body, send_json
from federation.enrolment import EnrolmentRequest, parse_request
from federation.errors import ConcordatError, IdentityError
from federation.faults import attempt
from federation.identity import Peer
from federation.joining import ENROL_PATH
from federation.json_text import parse_json
from federation.limits import LIMITS
from federation.renewal import RENEW_PATH
from policies.errors import PolicyError

ATTEMPTS_PER_MINUTE = 60
ATTEMPTS_PER_MINUTE_OF_ONE = 10

FORESEEN = (ConcordatError, PolicyError, AuditError)

Record = Callable[[str, str, str, str, dict[str, str | int | bool]], None]
"""Records (actor, decision, rule, reason, detail) of an enrolment or a renewal, durably."""


class Enrolment:
    """The one interface without a client certificate: a token and a signing request against a certificate."""

    def __init__(self, authority: Authority, record: Record, enrolled: Callable[[], None]) -> None:
        """`enrolled` makes a new member known at the coordinator's door, before its certificate is sent."""
        self._authority = authority
        self._record = record
        self._enrolled = enrolled
        self._rate = RateLimit(ATTEMPTS_PER_MINUTE, ATTEMPTS_PER_MINUTE_OF_ONE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            return
        if scope["path"] != ENROL_PATH or scope["method"] != "POST":
            await send_json(send, 404, {"error": "not found"})
            return
        client = scope.get("client")
        if not self._rate.take(str(client[0]) if client else ""):
            await send_json(send, 429, {"error": "too many attempts; try again in a minute"})
            return
        try:
            body = await read_body(receive, LIMITS.enrolment_request)
            bundle = await asyncio.to_thread(lambda: attempt(lambda: self._enrol(body), self._undecided, *FORESEEN))
        except TooLargeError as error:
            await send_json(send, 413, {"error": str(error)})
        except EnrolmentRefusedError as error:
            # Whoever does not hold a token of ours learns nothing from the answer.
            told = str(error) if error.token_known else "the request was refused"
            await send_json(send, 403, {"error": told})
        except (ConcordatError, PolicyError):
            await send_json(send, 400, {"error": "the request was refused"})
        else:
            await send_json(send, 200, bundle)

    def _enrol(self, body: bytes) -> dict[str, str]:
        name = "unidentified"
        try:
            request = parse_request(body)
            name = request.name
            certificate, _ = self._authority.redeem(request, lambda: self._granted(request))
            self._enrolled()
        except EnrolmentRefusedError as error:
            self._record("unidentified", "deny", error.rule, str(error), {"name": name if error.token_known else ""})
            raise
        except (ConcordatError, PolicyError) as error:
            self._record("unidentified", "deny", "enrolment.request", str(error), {})
            raise
        return self._authority.bundle(certificate)

    def _undecided(self, problem: str) -> dict[str, str]:
        self._record("unidentified", "deny", "evaluation-error", problem, {})
        raise IdentityError(problem)

    def _granted(self, request: EnrolmentRequest) -> None:
        self._record(
            "unidentified",
            "allow",
            "enrolment.token",
            "the token holds for this request",
            {
                "name": request.name,
                "role": request.role.value,
                "country": request.country,
                "key": request_fingerprint(request),
            },
        )


class Renewal:
    """The interface at which a member gets a certificate for its next key, on the word of its present one."""

    def __init__(self, authority: Authority | None, record: Record) -> None:
        self._authority = authority
        self._record = record
        self.granted: Callable[[], None] = lambda: None
        """Makes the authority's newest manifest known at the coordinator's door, before a certificate is sent."""

    async def __call__(self, peer: Peer, scope: Scope, body: bytes, send: Send) -> None:
        """Answer one request; raises ConcordatError for a refusal."""
        if scope["path"] != RENEW_PATH or scope["method"] != "POST":
            await send_json(send, 404, {"error": "not found"})
            return
        await send_json(send, 200, await asyncio.to_thread(self._renew, peer, body))

    def _renew(self, peer: Peer, body: bytes) -> dict[str, str]:
        if self._authority is None:
            raise IdentityError(
                "this coordinator holds no authority",
                advice="send the operator a request: concordat federation renew --offline",
            )
        try:
            content = parse_json(body)
            csr = content["csr"] if isinstance(content, dict) else None
            if not isinstance(csr, str):
                raise IdentityError("got a renewal without a signing request")
            why = "the present certificate is valid and the member's own"
            granted = lambda: self._record(peer.uri, "allow", "renewal.member", why, {})  # noqa: E731
            certificate = self._authority.renew(peer, csr, granted)
            self.granted()
        except (ConcordatError, PolicyError, ValueError, KeyError) as error:
            self._record(peer.uri, "deny", "renewal.request", str(error), {})
            raise IdentityError(f"the renewal was refused: {error}") from None
        return self._authority.bundle(certificate)


class RateLimit:
    """So many attempts a minute, together and from one address; thread-safe."""

    def __init__(self, together: int, of_one: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._together, self._of_one = together, of_one
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = -1
        self._used: dict[str, int] = {}

    def take(self, address: str) -> bool:
        """Whether one more attempt from this address is allowed in this minute."""
        minute = int(self._clock() // 60)
        with self._lock:
            if minute != self._minute:
                self._minute, self._used = minute, {}
            if sum(self._used.values()) >= self._together or self._used.get(address, 0) >= self._of_one:
                return False
            self._used[address] = self._used.get(address, 0) + 1
            return True
