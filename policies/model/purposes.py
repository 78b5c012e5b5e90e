"""What the data may be used for, for whom, and on which documents that rests."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from policies.document import Closed
from policies.model.metadata import Reference
from policies.scalars import Name, Unique, misfits
from policies.vocabulary.laws import Citation
from policies.vocabulary.purposes import Vocabulary, unknown_purposes


class Purposes(Closed):
    """What the data may be used for."""

    vocabulary: Vocabulary
    """Where the codes come from: duo (GA4GH), ehds (Article 53), dpv (W3C group) or own (codes matched exactly)."""
    allow: Annotated[tuple[str, ...], Unique]
    """Purposes a run may have; a narrower purpose is allowed by a wider one that contains it."""
    legal_basis: Annotated[tuple[Citation, ...], Unique, Field(min_length=1)]
    """Legal bases of the processing, recorded with the policy."""
    persons: Annotated[tuple[Name, ...], Unique, Field(min_length=1)] | None = None
    """Operators who may submit a run, by member name; without it any operator of the federation may."""
    public_bodies: Annotated[tuple[Name, ...], Unique] = ()
    """Operators that act for a public body; a purpose reserved to public bodies is allowed to them alone."""
    permit: Reference | None = None
    """Permit on which the processing rests; without it no permit is checked."""
    ethics: Reference | None = None
    """Vote of the ethics committee; without it none is checked."""
    dpia: Reference | None = None
    """Data protection impact assessment, and when its review is due; without it none is checked."""
    agreement: Reference | None = None
    """Data use or data sharing agreement between the parties; without it none is checked."""

    @field_validator("allow")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        vocabulary = info.data.get("vocabulary")
        if vocabulary is not None:
            misfits(unknown_purposes(value, vocabulary))
        return value
