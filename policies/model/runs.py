"""How much a run may do, when, and with what privacy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from policies.calendar import IsoDuration, WeeklyWindow
from policies.document import Closed
from policies.scalars import Misfit, PositiveInt, Unique, misfits

PositiveFloat = Annotated[float, Field(gt=0)]
"""A number above zero."""


class Runs(Closed):
    """How much a run may do, and when."""

    max_rounds: PositiveInt
    """Most rounds a run may have."""
    windows: Annotated[tuple[WeeklyWindow, ...], Unique, Field(min_length=1)] | None = None
    """Times at which a run may be admitted and a round may begin; without it any time."""
    max_concurrent: PositiveInt | None = None
    """Most runs in progress here at once, the new one counted; without it a new run takes the place of the old."""
    minimum_silos: PositiveInt | None = None
    """Fewest silos whose updates a round must fold together; without it any number."""


class Budget(Closed):
    """How much privacy may be spent."""

    epsilon: PositiveFloat
    """Largest epsilon that all runs together may reach in the window."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """Delta at which epsilon is counted."""
    per: Literal["dataset"]
    """What the budget belongs to; dataset is the only value."""
    window: IsoDuration
    """How long a debit counts, such as P1Y."""


class Privacy(Closed):
    """What a run must do for privacy."""

    mode: Literal["none", "example_dp", "silo_dp"]
    """Whether training must be differentially private for each example (example_dp), for the silo's data set as a whole
    (silo_dp), or need not be (none)."""
    clip_norm: PositiveFloat | None = None
    """Largest norm to which each example's gradient, or with silo_dp the update, may be clipped; without it any."""
    noise_multiplier: PositiveFloat | None = None
    """Smallest noise, as a multiple of the clip norm; without it any."""
    max_epsilon: PositiveFloat | None = None
    """Largest epsilon of one run at the budget's delta; without it the budget alone bounds it."""
    budget: Budget | None = None
    """Bound on what all runs together spend; without it none is kept."""
    secure_aggregation: Literal["required", "allowed"] = "allowed"
    """Whether single updates must stay hidden from the coordinator."""

    @model_validator(mode="after")
    def _consistent(self) -> "Privacy":
        needed = {
            "clip_norm": self.clip_norm is not None,
            "noise_multiplier": self.noise_multiplier is not None,
            "max_epsilon": self.max_epsilon is not None,
            "budget": self.budget is not None,
        }
        if self.mode == "none":
            misfits(
                Misfit("no such field with mode none", (name,), advice="set mode to example_dp or silo_dp")
                for name, given in needed.items()
                if given
            )
        elif self.max_epsilon is not None and self.budget is None:
            misfits([Misfit("a budget beside it, whose delta it uses", ("max_epsilon",), advice="add budget")])
        return self
