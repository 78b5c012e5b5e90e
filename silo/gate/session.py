"""What a gate decides in the course of one run: pure over the policy, the run, the request and the time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from audit.note import VerifierKey
from federation.encodings import packed_bytes
from federation.errors import ManifestError, WireError
from federation.identity import Peer, Role
from federation.manifest import Federation
from federation.measures import beyond_range
from federation.run import Run, SignedRun
from federation.statistics.normalization import KINDS
from federation.wire import Weights
from policies.decision import Decision
from policies.document import Document
from policies.engine import decide
from policies.model import SiloPolicy
from policies.request import Admission, Certificate, Egress, Ingress, LogHealth, Party, Privacy, View
from silo.constraint import Constraint
from silo.gate.accounting import Plan
from silo.gate.normalization import TrainingMoments
from silo.gate.updates import is_finite, update_norm

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Standing:
    """What the gate knows of a run beside the run itself, at the time of a decision; None is unknown."""

    quorum: int | None = None
    authors: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()
    uses: int | None = None
    running: int | None = None
    release_asked: bool | None = None
    certificates: tuple[Certificate, ...] = ()
    privacy: Privacy | None = None
    log: LogHealth | None = None


UNKNOWN = Standing()


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
    consent: str | None = None
    opt_out: str | None = None
    pseudonymized: tuple[str, ...] = ()
    contract: str | None = None
    """The digest of the dataset's contract, where it has one."""
    learning_rate: float | None = None
    """The constant rate of the model's plain SGD, where the run's strategy goes by it."""


@dataclass
class Session:
    """One admitted run at this silo."""

    run_id: str
    """The coordinator's label for it, which is recorded and shown; nothing is looked up by it."""
    flower_run: int
    run: Run
    operator: Peer
    signed: SignedRun = field(repr=False)
    app: bytes = field(repr=False)
    prepared: Prepared | None = None
    worker: int = 0
    """The number of the worker that holds this run's view and model."""
    last_round: int = 0
    """The last round whose reply was decided on."""
    evaluated: bool = False
    parties: tuple[Party, ...] = ()
    release_asked: bool | None = None
    refusal: Exception | None = None
    """Why the run may not go on, once a policy that came later says so."""
    touched: float | None = None
    """When the coordinator last sent something of this run, on the monotonic clock, which nobody sets."""
    moments: TrainingMoments | None = field(default=None, repr=False)
    """Means and variances of the training rows, of a run that normalises by them."""
    normalization: str | None = None
    """The digest of what the run normalises by, once a round came with it."""
    plan: Plan | None = None
    """What a run with privacy does to the view's rows."""
    log_keys: Mapping[str, VerifierKey] = field(default_factory=dict, repr=False)
    """With which the run's silos sign their receipts."""
    receipt: str = ""
    """This silo's own for the model that it took last."""

    @property
    def examples(self) -> int:
        """The training rows of the view that was decided on, whatever a worker says later."""
        return self.prepared.examples if self.prepared else 0

    @property
    def silos(self) -> tuple[str, ...]:
        """The silos that take part, by name."""
        return tuple(sorted(party.name for party in self.parties if party.role == "silo"))

    @property
    def digest(self) -> str:
        """What names the run wherever something is looked up: the digest of what its operator signed."""
        return self.signed.digest

    @property
    def sharing_noise(self) -> int:
        """How many silos noise is shared among, and a sum is of at least: those that were signed where noise is shared.

        A silo that leaves the federation must not leave the others with less noise than was counted.
        """
        return len(self.signed.submission.silos if self.run.silo_dp else self.silos)

    @property
    def counted(self) -> int:
        """What this silo's update weighs in a mean: its training rows, or 1 where silos count alike."""
        return 1 if self.run.silo_dp else self.examples

    def in_progress(self, now: float) -> bool:
        """Whether the run goes on: not refused, and not silent for longer than two rounds may take and a minute."""
        silence = 2 * self.run.strategy.deadline_seconds + 60
        return self.refusal is None and self.touched is not None and now - self.touched <= silence

    def advance(self, number: int) -> None:
        """Take the number of a round that is decided on; raises WireError for one that is not later than the last."""
        self.require_later(number)
        self.last_round = number

    def require_later(self, number: int) -> None:
        """Raise WireError for a round whose reply may have left: there is no second one."""
        if number <= self.last_round:
            raise WireError(f"got round {number}, expected one after {self.last_round}")


def parties_of(federation: Federation, silos: Collection[str], operator: Peer) -> tuple[Party, ...]:
    """Everyone who takes part in a run, with the country the signed manifest gives; raises ManifestError.

    Of the silos that the operator signed for, these are the ones that the federation still has.
    """
    submitted_by = federation.member(operator.name)
    if submitted_by.role is not Role.OPERATOR:
        raise ManifestError(f"{operator.name} is a {submitted_by.role} in the manifest, expected an operator")
    taking_part = [
        federation.coordinator,
        submitted_by,
        *(member for member in federation.with_role(Role.SILO) if member.name in silos),
    ]
    return tuple(Party(member.name, member.role.value, member.country) for member in taking_part)


def decide_admission(
    policy: Document[SiloPolicy],
    run: Run,
    app_digest: str,
    parties: tuple[Party, ...],
    silo: str,
    now: datetime,
    standing: Standing = UNKNOWN,
    observe: Collection[str] = NOTHING,
) -> Decision:
    """Whether this silo takes part in the run, or goes on to."""
    return decide(policy, admission_of(run, app_digest, parties, silo, standing), now, observe)


def admission_of(
    run: Run, app_digest: str, parties: tuple[Party, ...], silo: str | None, standing: Standing = UNKNOWN
) -> Admission:
    """What is asked where a run asks to be admitted."""
    silos = sum(party.role == "silo" for party in parties)
    alone = standing.quorum is not None and min(standing.quorum, silos) < 2
    return Admission(
        purpose=run.purpose,
        dataset=run.dataset,
        columns=run.columns,
        app_digest=app_digest,
        rounds=run.strategy.rounds,
        metrics=run.metrics,
        parties=parties,
        silo=silo,
        statistics=run.normalization is not None,
        kinds=() if run.normalization is None else KINDS,
        per_silo=run.normalization is not None and alone,
        quorum=standing.quorum,
        authors=standing.authors,
        reviewers=standing.reviewers,
        uses=standing.uses,
        running=standing.running,
        release_asked=standing.release_asked,
        certificates=standing.certificates,
        privacy=standing.privacy,
        log=standing.log,
    )


def constraint_of(policy: Document[SiloPolicy], name: str, read: Collection[str]) -> Constraint:
    """What the policy asks of a view of a dataset, which it has, and of the columns that are read."""
    dataset = policy.model.datasets[name]
    columns, rows = dataset.columns, dataset.rows
    pseudonymize = tuple(name for name in read if name in columns.pseudonymize)
    return Constraint(columns.readable, pseudonymize, rows.consent, rows.opt_out)


def decide_view(
    policy: Document[SiloPolicy],
    run: Run,
    view: Prepared,
    now: datetime,
    observe: Collection[str] = NOTHING,
) -> Decision:
    """Whether the view that was built may be trained on."""
    request = View(run.dataset, run.columns, view.rows, view.consent, view.opt_out, view.pseudonymized, view.contract)
    return decide(policy, request, now, observe)


def decide_ingress(
    policy: Document[SiloPolicy],
    session: Session,
    number: int,
    weights: Weights,
    now: datetime,
    observe: Collection[str] = NOTHING,
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
    return decide(policy, request, now, observe)


def decide_egress(
    policy: Document[SiloPolicy],
    session: Session,
    number: int,
    metrics: Mapping[str, float],
    update: tuple[Weights, Weights] | None,
    now: datetime,
    privacy: Privacy | None = None,
    observe: Collection[str] = NOTHING,
) -> tuple[Decision, float]:
    """Whether a reply may leave, and the norm of its update; `update` is the weights after and before training.

    Its size is that of the encoding in which the run has updates sent.
    """
    prepared = session.prepared
    examples = min(prepared.examples, prepared.validation) if prepared else 0
    if update is None:
        request = Egress(
            round=number,
            examples=examples,
            metrics=metrics,
            declared_metrics=session.run.metrics,
            privacy=privacy,
            beyond_range=beyond_range(metrics),
        )
        return decide(policy, request, now, observe), 0.0
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
        size_bytes=packed_bytes(session.run.updates, int(after.size)),
        privacy=privacy,
        beyond_range=beyond_range(metrics),
    )
    return decide(policy, request, now, observe), norm
