"""What an operator signs to submit a run: which text and app, in which federation, at which silos, and until when.

A statement has a random number. So it stands for one submission: whoever wants the same run again signs again.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import Field

from federation.errors import SubmissionError, WireError
from federation.identity import FEDERATION_NAME, NAME, Peer
from federation.limits import LIMITS
from policies.document import Closed
from policies.facts import Moment
from policies.scalars import Sha256

DOMAIN = b"submission of a run"
DEFAULT_VALIDITY = timedelta(days=7)
"""How long an operator's signature may be used for a first admission, where nothing else is asked for."""
LONGEST_VALIDITY = timedelta(days=LIMITS.validity_days)
CLOCK_SKEW = timedelta(seconds=LIMITS.clock_skew)
"""How far the clock of whoever signed may be ahead of the one that is looked at."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NONCE_BYTES = 16


class Submission(Closed):
    """One submission of a run; two of the same run differ in their nonce."""

    run: Sha256
    """The digest of the run's text."""
    app: Sha256
    """The digest of the app's bundle."""
    federation: Annotated[str, Field(pattern=f"^{FEDERATION_NAME.pattern}$")]
    operator: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    silos: Annotated[
        tuple[Annotated[str, Field(pattern=f"^{NAME.pattern}$")], ...], Field(min_length=1, max_length=LIMITS.members)
    ]
    """The silos that may take part, by name, sorted."""
    nonce: Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * _NONCE_BYTES}}}$")]
    signed: Moment
    not_after: Moment
    """The time after which no silo admits it that has not admitted it before."""

    def dump(self) -> str:
        """The one form in which it is signed and travels: canonical JSON (RFC 8785)."""
        fields: dict[str, Any] = self.model_dump()
        fields |= {"silos": list(self.silos), "signed": _text(self.signed), "not_after": _text(self.not_after)}
        return rfc8785.dumps(fields).decode()

    @staticmethod
    def load(text: str) -> Submission:
        """Read it back; raises WireError for anything that `dump` does not make. Nothing is verified yet."""
        try:
            found = Submission.model_validate_json(text)
            sound = found.dump() == text and list(found.silos) == sorted(set(found.silos))
        except (ValueError, OverflowError, RecursionError):
            sound = False
        if not sound:
            raise WireError(
                f"got a statement that says more or less than {', '.join(sorted(Submission.model_fields))}, or says it "
                "otherwise than in canonical JSON",
                advice="submit the run again with this version of concordat",
            )
        return found

    @property
    def content(self) -> bytes:
        """What the operator's key signs, under `DOMAIN`."""
        return self.dump().encode()

    @property
    def digest(self) -> str:
        """The name of this one submission."""
        return "sha256:" + hashlib.sha256(DOMAIN + b"\0" + self.content).hexdigest()

    def require_open(self, now: datetime) -> None:
        """Raise SubmissionError unless a first admission at this time is what the operator signed for."""
        again = "have the operator submit the run again, which signs it anew"
        if self.signed > now + CLOCK_SKEW:
            raise SubmissionError(
                f"the run is signed at {_text(self.signed)}, expected no later than {_text(now)}",
                advice="set the clocks",
            )
        if not timedelta() < self.not_after - self.signed <= LONGEST_VALIDITY:
            raise SubmissionError(
                f"the run's signature is good from {_text(self.signed)} to {_text(self.not_after)}, "
                f"expected at most {LIMITS.validity_days} days",
                advice=again,
            )
        if now > self.not_after:
            raise SubmissionError(
                f"the run's signature was good until {_text(self.not_after)}, and it is {_text(now)}", advice=again
            )

    def require_silos(self, chosen: Literal["all"] | Collection[str]) -> None:
        """Raise SubmissionError unless the silos that the run's text names are the ones that were signed."""
        if chosen != "all" and set(chosen) != set(self.silos):
            raise SubmissionError(
                f"the run names the silos {', '.join(sorted(chosen))[:500]}, "
                f"expected those that its operator signed, {', '.join(self.silos)[:500]}"
            )


def submission_of(
    content: tuple[str, str],
    operator: Peer,
    silos: Iterable[str],
    validity: timedelta = DEFAULT_VALIDITY,
    now: datetime | None = None,
) -> Submission:
    """A new submission of a text and an app, by their digests; raises SubmissionError."""
    run, app = content
    signed = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    if not timedelta(seconds=1) <= validity <= LONGEST_VALIDITY:
        raise SubmissionError(
            f"got a signature for {validity.total_seconds():.0f} seconds, expected 1 second to "
            f"{LIMITS.validity_days} days"
        )
    names = tuple(sorted(set(silos)))
    if not 1 <= len(names) <= LIMITS.members:
        raise SubmissionError(
            f"got a run for {len(names)} silos, expected 1 to {LIMITS.members}", advice="enrol one first"
        )
    return Submission(
        run=run,
        app=app,
        federation=operator.federation,
        operator=operator.name,
        silos=names,
        nonce=secrets.token_hex(_NONCE_BYTES),
        signed=signed,
        not_after=signed + validity,
    )


def label_of(text: str) -> str:
    """The id that a coordinator gives to a run, where it can be one; raises WireError. It names, and proves nothing."""
    if len(text) > LIMITS.run_label or not _LABEL.fullmatch(text):
        raise WireError(
            f"got a run's id {json.dumps(text[:40])}, expected up to {LIMITS.run_label} letters, digits, dots, "
            "underscores and hyphens"
        )
    return text


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
