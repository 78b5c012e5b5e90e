"""What may leave the silo, and who releases the final model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from policies.document import Closed
from policies.scalars import ByteSize, Misfit, Name, PositiveInt, Text, Unique, misfits


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


Statistic = Literal["mean", "variance", "histogram", "correlation"]
"""A kind of statistics of a column, or of a pair of columns; the number of rows goes with each."""


class EgressStatistics(Closed):
    """Which statistics of the data may leave, and how small a group of rows they may show."""

    allow: Annotated[tuple[Statistic, ...], Unique]
    """Kinds of statistics that may leave; quantiles are made from histograms."""
    minimum_cell: PositiveInt
    """Fewest rows behind a cell of a histogram, or behind a value of a column that has few; smaller ones are hidden."""
    per_silo: bool = False
    """Whether the operator may see this silo's statistics by themselves, and not merged with others' alone."""


class Egress(Closed):
    """What may leave the silo."""

    metrics: EgressMetrics
    """Metrics that may leave."""
    update: EgressUpdate
    """Bounds of an update."""
    statistics: EgressStatistics | None = None
    """Statistics of the data that may leave; without it none may."""


class Release(Closed):
    """Who must agree before the final model is handed out."""

    approvers: Annotated[tuple[Name, ...], Unique, Field(min_length=1)]
    """Who may agree, by name; whoever asks for the model does not count."""
    minimum: PositiveInt
    """How many of them must agree."""

    @model_validator(mode="after")
    def _enough(self) -> "Release":
        if self.minimum > len(self.approvers):
            misfits([Misfit(f"at most {len(self.approvers)}, the number of approvers", ("minimum",))])
        return self
