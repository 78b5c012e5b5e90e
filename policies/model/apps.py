"""Which code may run next to the data."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from policies.document import Closed
from policies.scalars import IsoDate, Misfit, Name, PositiveInt, Sha256, Unique, misfits, repeated


class ApprovedApp(Closed):
    """An app that may run next to the data."""

    digest: Sha256
    """SHA-256 of the app bundle, sha256: and 64 hex digits."""
    expires: IsoDate | None = None
    """Last day (UTC) of the approval; without it the approval has no end."""
    reviewers: PositiveInt | None = None
    """How many of the named reviewers must have approved it, its author not counted; without it the entry suffices."""
    uses: PositiveInt | None = None
    """How many runs may be admitted with it here; without it any number."""


class Apps(Closed):
    """Which apps may run next to the data."""

    approvals: Literal["required"]
    """Whether an app needs approval; required is the only value."""
    reviewers: Annotated[tuple[Name, ...], Unique, Field(min_length=1)] | None = None
    """Who may approve an app, by name."""
    allow: tuple[ApprovedApp, ...]
    """Approved apps."""

    @field_validator("allow")
    @classmethod
    def _once(cls, value: tuple[ApprovedApp, ...]) -> tuple[ApprovedApp, ...]:
        misfits(repeated([app.digest for app in value], "digest"))
        return value

    @model_validator(mode="after")
    def _enough_reviewers(self) -> "Apps":
        named = len(self.reviewers or ())
        misfits(
            Misfit(
                f"at most {named}, the number of named reviewers",
                ("allow", index, "reviewers"),
                advice="name who may approve under apps.reviewers",
            )
            for index, app in enumerate(self.allow)
            if app.reviewers is not None and app.reviewers > named
        )
        return self
