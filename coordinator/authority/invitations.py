"""One-time tokens: what an operator hands to a future member, and what the authority remembers of it."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from federation.errors import IdentityError
from federation.home import read_limited, replace_file
from federation.identity import Role
from federation.limits import LIMITS
from policies.document import Closed

TOKEN_BYTES = 32


class EnrolmentRefusedError(IdentityError):
    """An enrolment was refused; `rule` goes into the audit log, the reason to whoever holds a token of ours."""

    def __init__(self, rule: str, message: str, *, token_known: bool = True, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.rule = rule
        self.token_known = token_known


class Promise(Closed):
    """What a token allows: one enrolment, of this member, until then."""

    format: Literal["concordat/invitation-record/v1"] = "concordat/invitation-record/v1"
    name: str
    role: Role
    country: str
    addresses: tuple[str, ...] = ()
    expires: AwareDatetime
    used: AwareDatetime | None = None
    withdrawn: bool = False


class Invitations:
    """The authority's record of tokens: one file each, named by the token's hash, so that no token lies here."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def issue(self, promise: Promise) -> str:
        """Make a token for a promise, withdrawing an earlier unused one for the same name; returns the token."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for path, earlier in self._all():
            if earlier.name == promise.name and earlier.used is None:
                self._write(path, earlier.model_copy(update={"withdrawn": True}))
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._write(self._path(token), promise)
        return token

    def knows(self, token: str | None) -> bool:
        """Whether a token was issued here, whatever it is worth by now."""
        return token is not None and self._path(token).exists()

    def check(self, token: str, name: str, role: Role, country: str, addresses: tuple[str, ...]) -> Promise:
        """The promise behind a token, if it holds for this request now; raises EnrolmentRefusedError."""
        path = self._path(token)
        if not path.exists():
            raise EnrolmentRefusedError(
                "enrolment.token", "the token was not issued by this federation", token_known=False
            )
        promise = _parse(path)
        if promise.used is not None:
            raise EnrolmentRefusedError(
                "enrolment.used",
                f"the token for {promise.name} was used on {promise.used:%Y-%m-%d %H:%M} UTC",
                advice="if that was not you, tell the operator at once; else ask for a new invitation",
            )
        if promise.withdrawn:
            raise EnrolmentRefusedError(
                "enrolment.withdrawn", f"the token for {promise.name} was replaced by a newer one"
            )
        if promise.expires <= datetime.now(UTC):
            raise EnrolmentRefusedError(
                "enrolment.expired",
                f"the token for {promise.name} expired on {promise.expires:%Y-%m-%d %H:%M} UTC",
                advice="ask the operator for a new invitation",
            )
        asked = {"name": name, "role": role, "country": country, "addresses": addresses}
        for field, value in asked.items():
            promised = getattr(promise, field)
            if value != promised:
                raise EnrolmentRefusedError(
                    "enrolment.foreign", f"the token is for {field} {_say(promised)}, the request says {_say(value)}"
                )
        return promise

    def spend(self, token: str, promise: Promise) -> None:
        """Mark a token used, durably, before anything is issued for it."""
        self._write(self._path(token), promise.model_copy(update={"used": datetime.now(UTC)}))

    def open(self) -> list[Promise]:
        """The promises that still hold."""
        now = datetime.now(UTC)
        return [p for _, p in self._all() if p.used is None and not p.withdrawn and p.expires > now]

    def _all(self) -> list[tuple[Path, Promise]]:
        return [(path, _parse(path)) for path in sorted(self._directory.glob("*.json"))]

    def _path(self, token: str) -> Path:
        return self._directory / f"{hashlib.sha256(token.encode()).hexdigest()}.json"

    @staticmethod
    def _write(path: Path, promise: Promise) -> None:
        replace_file(path, json.dumps(promise.model_dump(mode="json"), indent=1).encode() + b"\n", 0o600)


def _parse(path: Path) -> Promise:
    try:
        return Promise.model_validate_json(read_limited(path, LIMITS.enrolment_request))
    except ValidationError:
        raise IdentityError(f"{path} is damaged", advice="delete it and invite the member again") from None


def _say(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)[:200] or "none"
    return str(value)[:200]
