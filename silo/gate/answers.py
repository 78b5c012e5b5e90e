"""Reads what a worker answers, and words what the gate answers for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit.entry import JSON
from federation.control_variates import LARGEST_RATE, LEARNING_RATE
from federation.errors import WireError
from federation.limits import LIMITS
from federation.run import MU_LIMIT
from federation.wire import RELEASE, Envelope, Kind, Scalar
from policies.document import Document
from policies.model import SiloPolicy
from silo.channel import Frame
from silo.gate.account import Account, shown
from silo.gate.accounting import Plan
from silo.gate.replies import Question
from silo.gate.session import Prepared, Session
from silo.gate.worker_link import WorkerError

MOST_METRICS = 10_000
MOST_COLUMNS = 10_001


@dataclass(frozen=True)
class ViewAccount:
    """A worker's account of the view that it built, beside what is prepared: rows left out, constraint, sockets."""

    prepared: Prepared
    dropped: int
    withheld: int
    constraint: str | None
    sockets: str

    def require_whole(self) -> None:
        """Raise WorkerError where training and validation rows are more than the rows of the view."""
        found = self.prepared
        if found.examples + found.validation > found.rows:
            raise WorkerError(
                f"the worker's account of the view cannot be: got {found.examples} rows to train on and "
                f"{found.validation} to validate on, expected at most the {found.rows} of the view"
            )


def prepared_of(fields: Mapping[str, Any]) -> ViewAccount:
    """A worker's account of its view and model; raises WorkerError."""
    account = Account("the worker's account of the view", fields)
    prepared = Prepared(
        rows=account.count("rows"),
        examples=account.whole("examples", 1, LIMITS.examples),
        validation=account.count("validation"),
        view_digest=account.digest("view_digest"),
        shapes=account.text("shapes", LIMITS.shapes),
        values=account.whole("values", 1, LIMITS.model_values),
        initial_digest=account.digest("initial_digest"),
        consent=account.optional_name("consent"),
        opt_out=account.optional_name("opt_out"),
        pseudonymized=account.names("pseudonymized", MOST_COLUMNS),
        contract=account.optional_digest("contract"),
        learning_rate=account.rate(LEARNING_RATE, LARGEST_RATE),
    )
    sockets = account.text("sockets", LIMITS.channel_header, "not told")[:200]
    constraint = account.optional_digest("constraint")
    return ViewAccount(prepared, account.count("dropped", 0), account.count("withheld", 0), constraint, sockets)


def admission_answer(session: Session, policy: Document[SiloPolicy]) -> Envelope:
    """The answer to a run that was admitted under a policy and prepared."""
    assert session.prepared is not None  # noqa: S101  a session is kept only once prepared
    return Envelope(
        {
            "status": "admitted",
            "examples": session.prepared.examples,
            "shapes": session.prepared.shapes,
            "initial_digest": session.prepared.initial_digest,
            "policy": policy.digest,
            **_cost(session.plan),
            **({} if session.prepared.learning_rate is None else {LEARNING_RATE: session.prepared.learning_rate}),
            **release_asked(policy),
        }
    )


def release_asked(policy: Document[SiloPolicy]) -> dict[str, Scalar]:
    """What the coordinator is told where the final model may be handed out only once this silo released it."""
    return {} if policy.model.release is None else {RELEASE: True}


def question_of(
    session: Session,
    kind: str,
    number: int,
    envelope: Envelope,
    mu: float | None = None,
    folded: int | None = None,
) -> Question:
    """A question as its reply is kept by."""
    norm = envelope.config.get("clip_norm") if kind == Kind.TRAIN else None
    clip_norm = norm if isinstance(norm, float) else None
    return Question(session.digest, kind, number, envelope.text("digest"), mu, folded, clip_norm)


def round_fields(session: Session, number: int, envelope: Envelope) -> dict[str, Any]:
    """What the worker is told of a round besides the model; raises WireError."""
    fields: dict[str, Any] = {"round": number}
    if session.run.strategy.adaptive is not None:
        mu = envelope.config.get("mu")
        if not isinstance(mu, float) or not 0 <= mu <= MU_LIMIT:
            raise WireError(f"got {mu!s:.20} for mu, expected a number from 0 to {MU_LIMIT:g}")
        fields["mu"] = mu
    if session.plan is None or session.plan.share is not None:
        return fields
    one = session.plan.a_round
    privacy = {"sampling_rate": one.sampling_rate, "noise_multiplier": one.noise_multiplier, "steps": one.steps}
    return {**fields, "privacy": {**privacy, "clip_norm": session.plan.clip_norm}}


def clip_norm_of(session: Session, envelope: Envelope) -> float:
    """The norm to which a round clips, 0 without privacy; the coordinator tells an adaptive one. Raises WireError.

    What it may be at most stands in the run, and was held against the policy at admission.
    """
    privacy = session.run.privacy
    if privacy is None or privacy.adaptive is None:
        return privacy.clip_norm if privacy else 0.0
    norm = envelope.config.get("clip_norm")
    if not isinstance(norm, float) or not 0 < norm <= privacy.adaptive.max_clip_norm:
        raise WireError(
            f"got {norm!s:.20} for clip_norm, expected a number above 0, at most {privacy.adaptive.max_clip_norm:g}"
        )
    return norm


def told_of_round(session: Session, envelope: Envelope) -> dict[str, str]:
    """What a round's message says besides the model that has to be the same for every silo; raises WireError.

    Noise is in clip norms: a silo that was told a larger one than the others would drown theirs and be left without.
    """
    privacy = session.run.privacy
    if privacy is None or privacy.adaptive is None:
        return {}
    return {"clip_norm": repr(clip_norm_of(session, envelope))}


def _cost(plan: Plan | None) -> dict[str, Scalar]:
    """What the coordinator is told of a private run's cost, for the model's passport."""
    return {} if plan is None else {"epsilon": plan.epsilon, "delta": plan.delta}


def metrics_of(answer: Frame) -> dict[str, float]:
    """The metrics a worker reports; raises WorkerError."""
    return Account("the worker's answer", answer.fields).numbers("metrics", MOST_METRICS)


def steps_of(answer: Frame) -> tuple[int, int]:
    """The steps a worker did and those that were planned; raises WorkerError."""
    steps, planned = answer.fields.get("steps"), answer.fields.get("planned")
    if type(steps) is not int or type(planned) is not int or not 1 <= steps <= planned <= LIMITS.steps:
        raise WorkerError(f"the worker counts {shown(steps)} of {shown(planned)} steps, expected at least one")
    return steps, planned


def recordable(metrics: Mapping[str, float]) -> dict[str, JSON]:
    """Metrics as JSON holds them, which has no NaN and no infinity."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
