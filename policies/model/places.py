"""Where the silo is and where what leaves it may go."""

from typing import Annotated

from pydantic import Field

from policies.document import Closed
from policies.scalars import Name, Unique
from policies.vocabulary.laws import Citation
from policies.vocabulary.places import Country, Place


class Destination(Closed):
    """Where one class of artifact may go."""

    countries: Annotated[tuple[Place, ...], Unique]
    """Countries and blocs whose parties may receive it."""
    basis: Citation
    """Legal basis of the transfer, recorded with the policy."""
    parties: Annotated[tuple[Name, ...], Unique, Field(min_length=1)] | None = None
    """Members that may receive it; without it every member in those countries may."""


class Destinations(Closed):
    """Where what leaves the silo may go, by class of artifact."""

    model_update: Destination
    """For the trained update: the coordinator and the other silos, which receive the aggregated model."""
    metrics: Destination
    """For the metrics: the coordinator and the operators."""
    final_model: Destination | None = None
    """For the final model: the coordinator, the other silos and the operators; without it as for the update."""
    statistics: Destination | None = None
    """For statistics of the data: the coordinator and the operators; without it no statistics leave."""


class Residency(Closed):
    """Where the silo is and where what leaves it may go."""

    silo: Country
    """Country of the silo, as the federation's manifest must say too."""
    destinations: Destinations
    """Countries that may receive what leaves the silo."""
