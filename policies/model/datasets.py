"""What may be seen of a dataset."""

from typing import Annotated

from pydantic import Field, model_validator

from policies.document import Closed
from policies.scalars import Misfit, PositiveInt, Sha256, Text, Unique, misfits
from policies.vocabulary.identifiers import DeniedClass, IdentifierClass


class Columns(Closed):
    """Which columns of a dataset may be seen, and how."""

    allow: Annotated[tuple[Text, ...], Unique]
    """Columns a run may read as they are; every column that is listed nowhere stays unread."""
    pseudonymize: Annotated[tuple[Text, ...], Unique] = ()
    """Columns a run may read as keyed pseudonyms alone, also where they are allowed; the key stays at the silo."""
    deny: Annotated[tuple[DeniedClass, ...], Unique] = ()
    """Classes of identifiers that are never read, whatever is allowed."""
    classes: Annotated[dict[Text, IdentifierClass], Field(default_factory=dict)]
    """Class of each column that may be read, or none; needed for every one where a class is denied."""

    @property
    def readable(self) -> tuple[str, ...]:
        """The columns that may be read, as they are or as pseudonyms, each once."""
        return tuple(dict.fromkeys((*self.allow, *self.pseudonymize)))

    @model_validator(mode="after")
    def _consistent(self) -> "Columns":
        if self.deny:
            misfits(
                Misfit("a column that classes has", (field, index), advice=f"give {column} a class, or none")
                for field, columns in (("allow", self.allow), ("pseudonymize", self.pseudonymize))
                for index, column in enumerate(columns)
                if column not in self.classes
            )
        return self


class Rows(Closed):
    """Which rows may be used, and how many there must be."""

    minimum: PositiveInt
    """Fewest rows a view may have."""
    consent: Text | None = None
    """Column that says of each row whether its use is consented to; rows without a clear yes are left out."""
    opt_out: Text | None = None
    """Column that says of each row whether its use was objected to; rows without a clear no are left out."""


class Dataset(Closed):
    """What may be seen of one dataset."""

    columns: Columns
    """Columns that may be seen."""
    rows: Rows
    """Rows that must be there."""
    contract: Sha256 | None = None
    """Digest of the contract (kind: Dataset) that the view must be built by."""
