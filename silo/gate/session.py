"""What a gate decides in the course of one run: pure over the policy, the run, the request and the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from federation.errors import ManifestError, WireError
from federation.identity import Peer, Role
from federation.manifest import Federation
from federation.run import Run
from federation.wire import Weights
from policies.decision import Decision
from policies.document import Document
from policies.engine import decide
from policies.model import SiloPolicy
from policies.request import Admission, Egress, Ingress, Party, View
from silo.gate.updates import is_finite, update_norm


@dataclass(frozen=True)
class Prepared:
    """What the worker reports of the view and the model it made for a run."""

    rows: int
    examples: int
    validation: int
    view_digest: str
    shapes: str
    values: int
    initial_digest: str


@dataclass
class Session:
    """One admitted run at this silo."""

    run_id: str
    flower_run: int
    run: Run
    operator: Peer
    text: str
    app: bytes = field(repr=False)
    prepared: Prepared | None = None
    worker: int = 0
    """The number of the worker that holds this run's view and model."""
    last_round: int = 0

    @property
    def examples(self) -> int:
        """The training rows of the view that was decided on, whatever a worker says later."""
        return self.prepared.examples if self.prepared else 0

    def advance(self, number: int) -> None:
        """Take the next round's number; raises WireError for one that is not later than the last."""
        if number <= self.last_round:
            raise WireError(f"got round {number}, expected one after {self.last_round}")
        self.last_round = number


def parties_of(federation: Federation, run: Run, operator: Peer) -> tuple[Party, ...]:
    """Everyone who takes part in a run, with the country the signed manifest gives; raises ManifestError."""
    submitted_by = federation.member(operator.name)
    if submitted_by.role is not Role.OPERATOR:
        raise ManifestError(f"{operator.name} is a {submitted_by.role} in the manifest, expected an operator")
    silos = federation.with_role(Role.SILO)
    taking_part = [
        federation.coordinator,
        submitted_by,
        *(member for member in silos if run.silos == "all" or member.name in run.silos),
    ]
    return tuple(Party(member.name, member.role.value, member.country) for member in taking_part)


def decide_admission(
    policy: Document[SiloPolicy],
    run: Run,
    app_digest: str,
    parties: tuple[Party, ...],
    silo: str,
    now: datetime,
) -> Decision:
    """Whether this silo takes part in the run."""
    request = Admission(
        purpose=run.purpose,
        dataset=run.dataset,
        columns=run.columns,
        app_digest=app_digest,
        rounds=run.strategy.rounds,
        metrics=run.metrics,
        parties=parties,
        silo=silo,
    )
    return decide(policy, request, now)


def decide_view(policy: Document[SiloPolicy], run: Run, rows: int, now: datetime) -> Decision:
    """Whether the view that was built may be trained on."""
    return decide(policy, View(run.dataset, run.columns, rows), now)


def decide_ingress(
    policy: Document[SiloPolicy], session: Session, number: int, weights: Weights, now: datetime
) -> Decision:
    """Whether a received model may be handed to the worker."""
    expected = session.prepared.values if session.prepared else 0
    request = Ingress(
        round=number,
        rounds_planned=session.run.strategy.rounds,
        values=int(weights.size),
        expected_values=expected,
        dtype=str(weights.dtype),
        finite=is_finite(weights),
        size_bytes=int(weights.nbytes),
    )
    return decide(policy, request, now)


def decide_egress(
    policy: Document[SiloPolicy],
    session: Session,
    number: int,
    metrics: Mapping[str, float],
    update: tuple[Weights, Weights] | None,
    now: datetime,
) -> tuple[Decision, float]:
    """Whether a reply may leave, and the norm of its update; `update` is the weights after and before training."""
    prepared = session.prepared
    examples = min(prepared.examples, prepared.validation) if prepared else 0
    if update is None:
        request = Egress(round=number, examples=examples, metrics=metrics, declared_metrics=session.run.metrics)
        return decide(policy, request, now), 0.0
    after, before = update
    same_shape = after.shape == before.shape
    norm = update_norm(after, before) if same_shape else float("nan")
    request = Egress(
        round=number,
        examples=examples,
        metrics=metrics,
        declared_metrics=session.run.metrics,
        values=int(after.size),
        expected_values=int(before.size),
        dtype=str(after.dtype),
        finite=is_finite(after),
        norm=norm,
        size_bytes=int(after.nbytes),
    )
    return decide(policy, request, now), norm
