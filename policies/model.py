"""The model of a silo's policy. Every field is enforced or recorded; what is not enforced is not a field."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from policies.document import Closed, Document, Kind, load_document
from policies.limits import LIMITS, Limits
from policies.scalars import ByteSize, IsoDate, Name, PositiveInt, Sha256, Text, Unique, misfits, repeated
from policies.vocabulary.places import Country, Place
from policies.vocabulary.purposes import Vocabulary, unknown_purposes


class Metadata(Closed):
    """Which policy this is and who answers for it."""

    name: Name
    """Name of the policy, as it appears in decisions."""
    version: PositiveInt
    """Number of this version; a newer policy has a higher one."""
    owner: Text
    """Who answers for this policy."""
    effective: IsoDate
    """First day (UTC) on which the policy allows anything."""


class Destination(Closed):
    """Where one class of artifact may go."""

    countries: Annotated[tuple[Place, ...], Unique]
    """Countries and blocs whose parties may receive it."""
    basis: Text
    """Legal basis of the transfer, recorded with the policy."""


class Destinations(Closed):
    """Where what leaves the silo may go, by class of artifact."""

    model_update: Destination
    """For the trained update: the coordinator and the other silos, which receive the aggregated model."""
    metrics: Destination
    """For the metrics: the coordinator and the operators."""


class Residency(Closed):
    """Where the silo is and where what leaves it may go."""

    silo: Country
    """Country of the silo, as the federation's manifest must say too."""
    destinations: Destinations
    """Countries that may receive what leaves the silo."""


class Permit(Closed):
    """A permit on which the processing rests."""

    ref: Text
    """Reference of the permit."""
    expires: IsoDate
    """Last day (UTC) on which the permit is valid."""


class Purposes(Closed):
    """What the data may be used for."""

    vocabulary: Vocabulary
    """Where the codes come from: duo (GA4GH Data Use Ontology) or own (codes matched exactly)."""
    allow: Annotated[tuple[str, ...], Unique]
    """Purposes a run may have; a narrower DUO purpose is allowed by a wider one."""
    legal_basis: Annotated[tuple[Text, ...], Unique, Field(min_length=1)]
    """Legal bases of the processing, recorded with the policy."""
    permit: Permit | None = None
    """Permit on which the processing rests; without it no permit is checked."""

    @field_validator("allow")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        vocabulary = info.data.get("vocabulary")
        if vocabulary is not None:
            misfits(unknown_purposes(value, vocabulary))
        return value


class Columns(Closed):
    """Which columns of a dataset may be seen."""

    allow: Annotated[tuple[Text, ...], Unique]
    """Columns a run may read; every other column stays unread."""


class Rows(Closed):
    """How many rows there must be."""

    minimum: PositiveInt
    """Fewest rows a view may have."""


class Dataset(Closed):
    """What may be seen of one dataset."""

    columns: Columns
    """Columns that may be seen."""
    rows: Rows
    """Rows that must be there."""


class ApprovedApp(Closed):
    """An app that may run next to the data."""

    digest: Sha256
    """SHA-256 of the app bundle, sha256: and 64 hex digits."""
    expires: IsoDate | None = None
    """Last day (UTC) of the approval; without it the approval has no end."""


class Apps(Closed):
    """Which apps may run next to the data."""

    approvals: Literal["required"]
    """Whether an app needs approval; required is the only value."""
    allow: tuple[ApprovedApp, ...]
    """Approved apps."""

    @field_validator("allow")
    @classmethod
    def _once(cls, value: tuple[ApprovedApp, ...]) -> tuple[ApprovedApp, ...]:
        misfits(repeated([app.digest for app in value], "digest"))
        return value


class Runs(Closed):
    """How much a run may do."""

    max_rounds: PositiveInt
    """Most rounds a run may have."""


class EgressMetrics(Closed):
    """Which metrics may leave."""

    allow: Annotated[tuple[Text, ...], Unique]
    """Metrics that may leave the silo."""
    minimum_count: PositiveInt
    """Fewest examples behind anything that leaves."""


class EgressUpdate(Closed):
    """What an update may be."""

    max_norm: Annotated[float, Field(gt=0)]
    """Largest L2 norm of an update; a longer one is clipped to it."""
    max_bytes: ByteSize
    """Largest size of a model, received or sent, such as 64MiB."""


class Egress(Closed):
    """What may leave the silo."""

    metrics: EgressMetrics
    """Metrics that may leave."""
    update: EgressUpdate
    """Bounds of an update."""


class SiloPolicy(Kind):
    """What one silo allows; everything else is refused."""

    kind: Literal["SiloPolicy"]
    """Kind of the document."""
    metadata: Metadata
    """Which policy this is."""
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


def load_policy(
    path_or_text: Path | str | bytes, source: str | None = None, limits: Limits = LIMITS
) -> Document[SiloPolicy]:
    """Read a silo's policy from a file (a Path) or from its content.

    Raises DocumentError with every problem and its position.
    """
    return load_document(path_or_text, SiloPolicy, source, limits)
