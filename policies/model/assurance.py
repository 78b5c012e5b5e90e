"""What must hold of the identities and of the audit log before anything is done."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from policies.calendar import IsoDuration
from policies.document import Closed
from policies.scalars import Misfit, PositiveInt, misfits


class Certificates(Closed):
    """How old the certificates of the silo and of the run's operator may be."""

    max_age: IsoDuration | None = None
    """Longest time since a certificate was issued, such as P90D."""
    min_left: IsoDuration | None = None
    """Shortest time until a certificate ends, such as P2D."""


class Identity(Closed):
    """What identities must fulfil beyond mutual TLS 1.3, which always holds."""

    certificates: Certificates
    """Age of certificates."""


class Retention(Closed):
    """How long what the log keeps is kept."""

    minimum: IsoDuration | None = None
    """Shortest time for which payloads are kept; none is due before, and erasing one has to be meant."""
    maximum: IsoDuration | None = None
    """Longest time for which payloads are kept; an older one refuses every run until it is erased."""

    @model_validator(mode="after")
    def _ordered(self) -> "Retention":
        if self.minimum and self.maximum and not self.maximum.covers(self.minimum):
            misfits([Misfit(f"at least the minimum, {self.minimum}", ("maximum",))])
        return self


class Witnesses(Closed):
    """Who must have seen the log."""

    quorum: PositiveInt
    """Fewest members that must have cosigned the silo's log."""


class Audit(Closed):
    """What must hold of the silo's own log."""

    retention: Retention = Retention()
    """How long payloads are kept."""
    witnesses: Witnesses | None = None
    """Members that cosigned the log; without it none need have."""
    verify_age: IsoDuration | None = None
    """Longest time since the log was last verified from its first entry; without it any."""
    clock_skew: Annotated[float, Field(gt=0)] | None = None
    """Largest distance in seconds of the silo's clock from that of the members that cosign; without it any."""
    fail: Literal["closed"] = "closed"
    """What happens without a record; closed is the only value: nothing."""
