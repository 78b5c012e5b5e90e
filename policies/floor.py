"""`kind: FederationPolicy`: the floor of a federation. A silo may be stricter than it, never looser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from policies.calendar import Duration
from policies.document import Closed, Document, Kind, load_document
from policies.errors import Problem
from policies.limits import LIMITS, Limits
from policies.model import SiloPolicy
from policies.model.assurance import Audit, Certificates, Identity
from policies.model.metadata import Metadata
from policies.model.places import Destination
from policies.model.runs import Privacy
from policies.scalars import ByteSize, PositiveInt, Text, Unique, misfits
from policies.tree import PathKey
from policies.vocabulary.laws import LawCode
from policies.vocabulary.places import Place, members, place_name
from policies.vocabulary.purposes import Vocabulary, purpose_name, unknown_purposes, within
from policies.wording import listed, size_named

Path_ = tuple[PathKey, ...]
Looser = tuple[Path_, str, str]
"""Where a silo's policy is looser, what it has there, and what the floor allows."""


class FloorDestinations(Closed):
    """Where artifacts may go at most."""

    model_update: Annotated[tuple[Place, ...], Unique] | None = None
    """Countries and blocs that may receive the update."""
    metrics: Annotated[tuple[Place, ...], Unique] | None = None
    """Countries and blocs that may receive metrics."""
    final_model: Annotated[tuple[Place, ...], Unique] | None = None
    """Countries and blocs that may receive the final model."""
    statistics: Annotated[tuple[Place, ...], Unique] | None = None
    """Countries and blocs that may receive statistics."""


class FloorPurposes(Closed):
    """What data may be used for at most."""

    vocabulary: Vocabulary
    """Where the codes come from; a silo uses the same."""
    allow: Annotated[tuple[str, ...], Unique]
    """Purposes a silo may allow; a narrower one is allowed by a wider one."""

    @field_validator("allow")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        vocabulary = info.data.get("vocabulary")
        if vocabulary is not None:
            misfits(unknown_purposes(value, vocabulary))
        return value


class FloorLimits(Closed):
    """Numbers that a silo may tighten and not loosen."""

    rows_minimum: PositiveInt | None = None
    """Fewest rows of a view, for every dataset."""
    reviewers: PositiveInt | None = None
    """Fewest reviewers of an app, for every app."""
    max_rounds: PositiveInt | None = None
    """Most rounds of a run."""
    minimum_silos: PositiveInt | None = None
    """Fewest silos that a round folds together."""
    minimum_count: PositiveInt | None = None
    """Fewest examples behind anything that leaves."""
    max_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest L2 norm of an update."""
    max_bytes: ByteSize | None = None
    """Largest size of a model."""


class FederationPolicy(Kind):
    """The floor of a federation; what it does not say is left to the silos."""

    kind: Literal["FederationPolicy"]
    """Kind of the document."""
    metadata: Metadata
    """Which floor this is."""
    applies: Annotated[tuple[LawCode, ...], Unique] = ()
    """Laws that every silo's policy must name."""
    destinations: FloorDestinations = FloorDestinations()
    """Where artifacts may go at most."""
    purposes: FloorPurposes | None = None
    """What data may be used for at most."""
    metrics: Annotated[tuple[Text, ...], Unique] | None = None
    """Metrics that a silo may let leave."""
    limits: FloorLimits = FloorLimits()
    """Numbers that a silo may tighten and not loosen."""
    privacy: Privacy | None = None
    """What every silo asks of a run's privacy at least."""
    identity: Identity | None = None
    """What every silo asks of certificates at least."""
    audit: Audit | None = None
    """What every silo asks of its log at least."""


def load_floor(
    path_or_text: Path | str | bytes, source: str | None = None, limits: Limits = LIMITS
) -> Document[FederationPolicy]:
    """Read a federation's floor from a file (a Path) or from its content; raises DocumentError."""
    return load_document(path_or_text, FederationPolicy, source, limits)


def looser_than(policy: Document[SiloPolicy], floor: FederationPolicy) -> list[Problem]:
    """Each place at which a silo's policy allows what the floor does not, with its position; empty if at the floor."""
    found = [item for compare in _COMPARISONS for item in compare(policy.model, floor)]
    name = f"{floor.metadata.name} version {floor.metadata.version}"
    return [
        Problem(
            *policy.root.locate(path),
            f"got {has} as {'.'.join(map(str, path))}, expected {allowed}: the federation's floor {name} asks for it",
            policy.source,
        )
        for path, has, allowed in found
    ]


def _applies(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    missing = [law for law in floor.applies if law not in policy.applies]
    if missing:
        yield ("applies",), listed(policy.applies), f"also {listed(missing)}"


def _destinations(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    chosen, bounds = policy.residency.destinations, floor.destinations
    # Where a side says nothing of the final model, its word on updates holds for it.
    silo = {**dict(chosen), "final_model": chosen.final_model or chosen.model_update}
    most = {**dict(bounds), "final_model": bounds.model_update if bounds.final_model is None else bounds.final_model}
    for artifact, bound in most.items():
        destination: Destination | None = silo[artifact]
        if bound is None or destination is None:
            continue
        beyond = sorted(members(destination.countries) - members(bound))
        if beyond:
            path = ("residency", "destinations", artifact, "countries")
            allowed = f"countries within {listed(place_name(code) for code in bound)}"
            yield path, listed(place_name(code) for code in beyond), allowed


def _purposes(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    bound, chosen = floor.purposes, policy.purposes
    if bound is None:
        return
    if chosen.vocabulary != bound.vocabulary:
        yield ("purposes", "vocabulary"), chosen.vocabulary, bound.vocabulary
        return
    for index, code in enumerate(chosen.allow):
        if not any(within(code, allowed, bound.vocabulary) for allowed in bound.allow):
            named = listed(purpose_name(allowed, bound.vocabulary) for allowed in bound.allow)
            yield ("purposes", "allow", index), purpose_name(code, bound.vocabulary), f"a purpose within {named}"


def _metrics(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    for index, metric in enumerate(policy.egress.metrics.allow):
        if floor.metrics is not None and metric not in floor.metrics:
            yield ("egress", "metrics", "allow", index), metric, f"one of {listed(floor.metrics)}"


def _limits(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    bound, egress = floor.limits, policy.egress
    for name, dataset in policy.datasets.items():
        yield from _at_least(("datasets", name, "rows", "minimum"), dataset.rows.minimum, bound.rows_minimum)
    for index, app in enumerate(policy.apps.allow):
        yield from _at_least(("apps", "allow", index, "reviewers"), app.reviewers, bound.reviewers)
    yield from _at_most(("runs", "max_rounds"), policy.runs.max_rounds, bound.max_rounds)
    yield from _at_least(("runs", "minimum_silos"), policy.runs.minimum_silos, bound.minimum_silos)
    yield from _at_least(("egress", "metrics", "minimum_count"), egress.metrics.minimum_count, bound.minimum_count)
    if egress.statistics is not None:
        cell = ("egress", "statistics", "minimum_cell")
        yield from _at_least(cell, egress.statistics.minimum_cell, bound.minimum_count)
    yield from _at_most(("egress", "update", "max_norm"), egress.update.max_norm, bound.max_norm)
    if bound.max_bytes is not None and egress.update.max_bytes > bound.max_bytes:
        allowed = f"at most {size_named(bound.max_bytes)}"
        yield ("egress", "update", "max_bytes"), size_named(egress.update.max_bytes), allowed


def _privacy(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    bound, chosen = floor.privacy, policy.privacy
    if bound is None:
        return
    if bound.mode != "none" and (chosen is None or chosen.mode != bound.mode):
        yield ("privacy", "mode"), chosen.mode if chosen else "nothing", bound.mode
        return
    if bound.secure_aggregation == "required" and (chosen is None or chosen.secure_aggregation != "required"):
        yield ("privacy", "secure_aggregation"), chosen.secure_aggregation if chosen else "nothing", "required"
    if chosen is None:
        return
    yield from _at_most(("privacy", "clip_norm"), chosen.clip_norm, bound.clip_norm)
    yield from _at_least(("privacy", "noise_multiplier"), chosen.noise_multiplier, bound.noise_multiplier)
    yield from _at_most(("privacy", "max_epsilon"), chosen.max_epsilon, bound.max_epsilon)
    if bound.budget is None:
        return
    if chosen.budget is None:
        yield ("privacy", "budget"), "nothing", f"a budget of at most epsilon {bound.budget.epsilon:g}"
        return
    path: Path_ = ("privacy", "budget")
    yield from _at_most((*path, "epsilon"), chosen.budget.epsilon, bound.budget.epsilon)
    yield from _at_most((*path, "delta"), chosen.budget.delta, bound.budget.delta)
    yield from _longer((*path, "window"), chosen.budget.window, bound.budget.window)


def _identity(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    bound = floor.identity.certificates if floor.identity else Certificates()
    chosen = policy.identity.certificates if policy.identity else Certificates()
    yield from _shorter(("identity", "certificates", "max_age"), chosen.max_age, bound.max_age)
    yield from _longer(("identity", "certificates", "min_left"), chosen.min_left, bound.min_left)


def _audit(policy: SiloPolicy, floor: FederationPolicy) -> Iterator[Looser]:
    bound, chosen = floor.audit or Audit(), policy.audit or Audit()
    yield from _longer(("audit", "retention", "minimum"), chosen.retention.minimum, bound.retention.minimum)
    yield from _shorter(("audit", "retention", "maximum"), chosen.retention.maximum, bound.retention.maximum)
    asked, quorum = bound.witnesses, chosen.witnesses
    yield from _at_least(
        ("audit", "witnesses", "quorum"), quorum.quorum if quorum else None, asked.quorum if asked else None
    )
    yield from _shorter(("audit", "verify_age"), chosen.verify_age, bound.verify_age)
    yield from _at_most(("audit", "clock_skew"), chosen.clock_skew, bound.clock_skew)


def _at_least(path: Path_, value: float | None, bound: float | None) -> Iterator[Looser]:
    if bound is not None and (value is None or value < bound):
        yield path, "nothing" if value is None else f"{value:g}", f"at least {bound:g}"


def _at_most(path: Path_, value: float | None, bound: float | None) -> Iterator[Looser]:
    if bound is not None and (value is None or value > bound):
        yield path, "nothing" if value is None else f"{value:g}", f"at most {bound:g}"


def _longer(path: Path_, value: Duration | None, bound: Duration | None) -> Iterator[Looser]:
    if bound is not None and (value is None or not value.covers(bound)):
        yield path, str(value or "nothing"), f"at least {bound}"


def _shorter(path: Path_, value: Duration | None, bound: Duration | None) -> Iterator[Looser]:
    if bound is not None and (value is None or not bound.covers(value)):
        yield path, str(value or "nothing"), f"at most {bound}"


_COMPARISONS: tuple[Callable[[SiloPolicy, FederationPolicy], Iterator[Looser]], ...] = (
    _applies,
    _destinations,
    _purposes,
    _metrics,
    _limits,
    _privacy,
    _identity,
    _audit,
)
