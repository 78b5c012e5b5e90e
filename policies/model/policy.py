"""The model of a silo's policy. Every field is enforced or recorded; what is not enforced is not a field."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from policies.document import Kind
from policies.model.apps import Apps
from policies.model.assurance import Audit, Identity
from policies.model.datasets import Dataset
from policies.model.egress import Egress, Release
from policies.model.metadata import Attestation, Inventory, Metadata
from policies.model.places import Residency
from policies.model.purposes import Purposes
from policies.model.runs import Privacy, Runs
from policies.scalars import Name, Unique, misfits, repeated
from policies.vocabulary.laws import LawCode


class SiloPolicy(Kind):
    """What one silo allows; everything else is refused."""

    kind: Literal["SiloPolicy"]
    """Kind of the document."""
    metadata: Metadata
    """Which policy this is."""
    applies: Annotated[tuple[LawCode, ...], Unique] = ()
    """Laws that apply; a policy below the floors they imply is refused."""
    residency: Residency
    """Where the silo is and where what leaves it may go."""
    purposes: Purposes
    """What the data may be used for."""
    datasets: dict[Name, Dataset]
    """Datasets a run may use, by name."""
    apps: Apps
    """Apps that may run."""
    runs: Runs
    """Bounds of a run."""
    egress: Egress
    """What may leave the silo."""
    privacy: Privacy | None = None
    """What a run must do for privacy; without it nothing beyond the bounds of an update."""
    release: Release | None = None
    """Who must agree before the final model is handed out; without it no one."""
    identity: Identity | None = None
    """What identities must fulfil; without it nothing beyond mutual TLS 1.3."""
    audit: Audit | None = None
    """What must hold of the silo's log; without it that every decision is recorded first."""
    attestations: Annotated[tuple[Attestation, ...], Field(min_length=1)] | None = None
    """Attestations on which the policy rests; one that has ended refuses everything."""
    inventory: Inventory | None = None
    """Entry of the model in the institution's model inventory; without it none is checked."""

    @field_validator("attestations")
    @classmethod
    def _once(cls, value: tuple[Attestation, ...] | None) -> tuple[Attestation, ...] | None:
        misfits(repeated([attestation.name for attestation in value or ()], "name"))
        return value
