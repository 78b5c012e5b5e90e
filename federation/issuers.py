"""The issuing authorities before the present one: which of them still count, and for what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from cryptography import x509
from pydantic import AwareDatetime, Field, field_validator, model_validator

from federation.errors import IdentityError
from federation.identity import load_certificate
from federation.limits import LIMITS
from federation.trust import check_authority, check_valid, generation_of
from policies.document import Closed
from policies.scalars import misfit

REASON_CHARACTERS = 500


class FormerIssuer(Closed):
    """An issuing authority that was replaced; the certificates it issued count until it is retired.

    What was signed before it was retired still stands, a passport for instance, unless its key was stolen: whoever has
    the key can date what it signs as it likes.
    """

    certificate: Annotated[str, Field(max_length=LIMITS.certificate)]
    retired: AwareDatetime | None = None
    reason: Annotated[str, Field(min_length=1, max_length=REASON_CHARACTERS)] | None = None
    stolen: bool = False

    @field_validator("certificate")
    @classmethod
    def _of_an_authority(cls, value: str) -> str:
        try:
            authority = load_certificate(value.encode())
            check_authority(authority)
            generation_of(authority)
        except IdentityError as error:
            raise misfit(f"the PEM certificate of an issuing authority ({error})") from None
        return value

    @model_validator(mode="after")
    def _retired_with_a_reason(self) -> FormerIssuer:
        if (self.retired is None) != (self.reason is None) or (self.stolen and self.retired is None):
            raise misfit("a time and a reason where it is retired, and neither where it is not")
        return self

    @property
    def x509(self) -> x509.Certificate:
        """Its certificate."""
        return load_certificate(self.certificate.encode())

    @property
    def generation(self) -> int:
        """Its number among the federation's issuing authorities."""
        return generation_of(self.x509)

    def check_counts(self, now: datetime | None = None) -> None:
        """Check that its certificates count at a time (aware, default now); raises IdentityError."""
        now = now or datetime.now(UTC)
        if self.retired is not None and (self.stolen or now >= self.retired):
            raise IdentityError(
                f"the issuing authority {self.generation} was retired on {self.retired:%Y-%m-%d %H:%M} UTC "
                f"({self.reason}): its certificates are refused",
                advice="renew by courier or with an invitation: concordat federation renew --offline",
            )
        check_valid(self.x509, now)
