"""The interfaces that give out certificates: enrolment by token, for strangers; renewal, for members."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from audit.errors import AuditError
from coordinator.authority import Authority, request_fingerprint
from coordinator.authority.invitations import EnrolmentRefusedError
from coordinator.gateway import Receive, Scope, Send, TooLargeError, read_body, send_json
from federation.crowd import network_of
from federation.enrolment import EnrolmentRequest, parse_request
from federation.errors import ConcordatError, IdentityError
from federation.faults import attempt
from federation.identity import Peer
from federation.joining import ENROL_PATH
from federation.json_text import parse_json
from federation.limits import LIMITS
from federation.renewal import RENEW_PATH
from policies.errors import PolicyError

STRANGERS_ATTEMPTS = 60
"""Requests a minute without a token of ours, together."""
STRANGERS_ATTEMPTS_OF_ONE = 10
"""Requests a minute without a token of ours from one network."""
INVITED_ATTEMPTS = 600
"""Requests a minute with tokens of ours, together."""
INVITED_ATTEMPTS_OF_ONE = 10
"""Requests a minute with one token."""
RENEWALS_OF_ONE = 10
"""Renewals a minute of one member: each is recorded, and its certificate entered in a list."""

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
        self._strangers = RateLimit(STRANGERS_ATTEMPTS, STRANGERS_ATTEMPTS_OF_ONE)
        self._invited = RateLimit(INVITED_ATTEMPTS, INVITED_ATTEMPTS_OF_ONE)
        # One enrols after the other: those that wait for their turn are not to take the threads that serve silos.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="enrolment")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            return
        if scope["path"] != ENROL_PATH or scope["method"] != "POST":
            await send_json(send, 404, {"error": "not found"})
            return
        client = scope.get("client")
        network = network_of(str(client[0]) if client else "")
        try:
            body = await read_body(receive, LIMITS.enrolment_request)
            loop = asyncio.get_running_loop()
            bundle = await loop.run_in_executor(self._thread, self._decided, body, network)
        except TooLargeError as error:
            await send_json(send, 413, {"error": str(error)})
        except TooManyAttemptsError as error:
            await send_json(send, 429, {"error": str(error)})
        except EnrolmentRefusedError as error:
            # Whoever does not hold a token of ours learns nothing from the answer.
            told = str(error) if error.token_known else "the request was refused"
            await send_json(send, 403, {"error": told})
        except (ConcordatError, PolicyError):
            await send_json(send, 400, {"error": "the request was refused"})
        else:
            await send_json(send, 200, bundle)

    def _enrol(self, body: bytes, network: str) -> dict[str, str]:
        name = "unidentified"
        try:
            request = self._parsed(body, network)
            name = request.name
            certificate, _ = self._authority.redeem(request, lambda: self._granted(request))
            self._enrolled()
        except EnrolmentRefusedError as error:
            self._record("unidentified", "deny", error.rule, str(error), {"name": name if error.token_known else ""})
            raise
        except TooManyAttemptsError as error:
            self._record("unidentified", "deny", "enrolment.attempts", str(error), {"network": network})
            raise
        except (ConcordatError, PolicyError) as error:
            self._record("unidentified", "deny", "enrolment.request", str(error), {})
            raise
        return self._authority.bundle(certificate)

    def _decided(self, body: bytes, network: str) -> dict[str, str]:
        return attempt(lambda: self._enrol(body, network), self._undecided, *FORESEEN)

    def _undecided(self, problem: str) -> dict[str, str]:
        self._record("unidentified", "deny", "evaluation-error", problem, {})
        raise IdentityError(problem)

    def _parsed(self, body: bytes, network: str) -> EnrolmentRequest:
        """The request, counted by its token if it has one of ours: what strangers send delays nobody who is invited."""
        token = None
        try:
            request = parse_request(body)
            token = request.token if self._authority.invitations.knows(request.token) else None
        finally:
            taken = self._strangers.take(network) if token is None else self._invited.take(token)
            if not taken:
                raise TooManyAttemptsError("too many attempts", advice="try again in a minute")
        return request

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
        self._attempts = RateLimit(RENEWALS_OF_ONE * LIMITS.members, RENEWALS_OF_ONE)
        # As at enrolment: what waits for its turn is not to take the threads that serve silos.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="renewal")
        self.granted: Callable[[], None] = lambda: None
        """Makes the authority's newest manifest known at the coordinator's door, before a certificate is sent."""

    async def __call__(self, peer: Peer, scope: Scope, body: bytes, send: Send) -> None:
        """Answer one request; raises ConcordatError for a refusal."""
        if scope["path"] != RENEW_PATH or scope["method"] != "POST":
            await send_json(send, 404, {"error": "not found"})
            return
        loop = asyncio.get_running_loop()
        await send_json(send, 200, await loop.run_in_executor(self._thread, self._renew, peer, body))

    def _renew(self, peer: Peer, body: bytes) -> dict[str, str]:
        if self._authority is None:
            raise IdentityError(
                "this coordinator holds no authority",
                advice="send the operator a request: concordat federation renew --offline",
            )
        if not self._attempts.take(peer.name):
            reason = f"got more than {RENEWALS_OF_ONE} renewals within a minute"
            self._record(peer.uri, "deny", "renewal.attempts", reason, {})
            raise IdentityError(f"the renewal was refused: {reason}", advice="try again in a minute")
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


class TooManyAttemptsError(ConcordatError):
    """One network, or whoever holds one token, asked too often."""


class RateLimit:
    """So many attempts a minute, together and of one; thread-safe."""

    def __init__(self, together: int, of_one: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._together, self._of_one = together, of_one
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = -1
        self._used: dict[str, int] = {}

    def take(self, one: str) -> bool:
        """Whether one more attempt of this one is allowed in this minute."""
        minute = int(self._clock() // 60)
        with self._lock:
            if minute != self._minute:
                self._minute, self._used = minute, {}
            if sum(self._used.values()) >= self._together or self._used.get(one, 0) >= self._of_one:
                return False
            self._used[one] = self._used.get(one, 0) + 1
            return True
