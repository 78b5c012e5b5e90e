"""`kind: Statistics`: a run that asks for statistics of the data, as data, signed by the operator who submits it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from federation.run import ColumnName, MemberName, RunMetadata, SignedRun
from policies.document import Closed, Document, Kind, load_document
from policies.model.egress import Statistic
from policies.reader import parse
from policies.scalars import Misfit, Unique, misfits

COLUMNS = 200
BINS = 200
LARGEST_END = 1e100
"""The square of a column's range, times any number of rows, is a number."""

Share = Annotated[float, Field(gt=0, lt=1)]
Bins = Annotated[int, Field(ge=2, le=BINS)]


class StatisticsColumn(Closed):
    """One column: the range its histogram covers, the same at every silo, and in how many bins."""

    range: tuple[float, float] | None = None
    bins: Bins | None = None

    @model_validator(mode="after")
    def _ordered(self) -> StatisticsColumn:
        if self.range is not None and not -LARGEST_END <= self.range[0] < self.range[1] <= LARGEST_END:
            misfits([Misfit(f"two numbers from {-LARGEST_END:g} to {LARGEST_END:g}, the smaller first", ("range",))])
        return self


class StatisticsPrivacy(Closed):
    """Differential privacy of single rows: one release of the Gaussian mechanism that costs this at each silo."""

    mode: Literal["example_dp"]
    epsilon: Annotated[float, Field(ge=0.01, le=100)]
    delta: Annotated[float, Field(gt=0, le=1e-2)]


class Statistics(Kind):
    """`kind: Statistics`: purpose, data and which statistics of it."""

    kind: Literal["Statistics"]
    metadata: RunMetadata
    purpose: Annotated[str, Field(min_length=1, max_length=200)]
    dataset: Annotated[str, Field(min_length=1, max_length=200)]
    columns: Annotated[dict[ColumnName, StatisticsColumn], Field(min_length=1, max_length=COLUMNS)]
    statistics: Annotated[tuple[Statistic, ...], Unique] = ("mean", "variance")
    bins: Bins = 20
    quantiles: Annotated[tuple[Share, ...], Unique, Field(max_length=100)] = ()
    per_silo: bool = False
    silos: Literal["all"] | Annotated[tuple[MemberName, ...], Field(min_length=1)] = "all"
    quorum: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    deadline_seconds: Annotated[float, Field(gt=0, le=86400)] = 60.0
    privacy: StatisticsPrivacy | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Statistics:
        misfits(self._misfits())
        return self

    def _misfits(self) -> Iterator[Misfit]:
        binned = "histogram" in self.statistics
        if self.quantiles and not binned:
            yield Misfit("histogram among the statistics with quantiles", ("quantiles",), advice="add histogram")
        for kind in ("variance", "correlation"):
            needed = {"variance": "mean", "correlation": "variance"}[kind]
            if kind in self.statistics and needed not in self.statistics:
                yield Misfit(f"{needed} among the statistics with {kind}", ("statistics",), advice=f"add {needed}")
        for name, column in self.columns.items():
            if column.range is None and (binned or self.privacy is not None):
                why = "histograms" if binned else "privacy"
                advice = "declare what is known of it beforehand, as the dataset's contract has it"
                yield Misfit(f"a range with {why}", ("columns", name, "range"), advice=advice)
        if not self.per_silo and self.silos != "all" and len(self.silos) < 2:
            yield Misfit("two silos or more, or per_silo", ("silos",), advice="one silo's statistics are not merged")
        if not self.per_silo and self.quorum == 1:
            yield Misfit("a quorum of two or more, or per_silo", ("quorum",), advice="one silo's are not merged")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in order."""
        return tuple(self.columns)


def load_statistics(text: str | bytes, source: str = "statistics.yaml") -> Document[Statistics]:
    """Parse a run of statistics; raises DocumentError with file, line and column."""
    return load_document(text, Statistics, source=source)


def asks_for_statistics(signed: SignedRun) -> bool:
    """Whether a signed run calls itself one of statistics; nothing else of it is checked."""
    root, _ = parse(signed.text, "run.yaml")
    kind = root.child("kind") if root is not None and root.entries is not None else None
    return kind is not None and kind[1].value == "Statistics"
