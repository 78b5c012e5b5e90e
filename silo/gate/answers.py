"""Reads what a worker answers, and words what the gate answers for it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
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
from silo.gate.accounting import Plan
from silo.gate.replies import Question
from silo.gate.session import Prepared, Session
from silo.gate.worker_link import WorkerError


def prepared_of(fields: Mapping[str, Any]) -> tuple[Prepared, int, int, str]:
    """A worker's account of its view, the rows dropped and withheld, and its sockets; raises WorkerError."""
    try:
        prepared = Prepared(
            rows=int(fields["rows"]),
            examples=int(fields["examples"]),
            validation=int(fields["validation"]),
            view_digest=str(fields["view_digest"]),
            shapes=str(fields["shapes"]),
            values=int(fields["values"]),
            initial_digest=str(fields["initial_digest"]),
            consent=_name(fields.get("consent")),
            opt_out=_name(fields.get("opt_out")),
            pseudonymized=tuple(str(name) for name in fields.get("pseudonymized", ())),
            contract=_digest(fields.get("contract")),
            learning_rate=_rate(fields.get(LEARNING_RATE)),
        )
        dropped, withheld = int(fields.get("dropped", 0)), int(fields.get("withheld", 0))
        sockets = str(fields.get("sockets", "not told"))[:200]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise WorkerError(f"the worker's account of the view lacks a field: {error}") from None
    return prepared, dropped, withheld, sockets


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


def _digest(value: object) -> str | None:
    """A digest, or None; raises ValueError."""
    if value is not None and re.fullmatch("sha256:[0-9a-f]{64}", str(value)) is None:
        raise ValueError("contract is no digest")
    return _name(value)


def _rate(value: object) -> float | None:
    """A learning rate, or None; raises ValueError."""
    if value is not None and not (isinstance(value, float) and 0 < value <= LARGEST_RATE):
        raise ValueError("learning_rate is no number above 0")
    return value


def _name(value: object) -> str | None:
    return None if value is None else str(value)


def metrics_of(answer: Frame) -> dict[str, float]:
    """The metrics a worker reports; raises WorkerError."""
    try:
        return {str(name): float(value) for name, value in answer.fields["metrics"].items()}
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
        raise WorkerError(f"the worker's metrics are not numbers: {json.dumps(answer.fields)[:200]}") from None


def steps_of(answer: Frame) -> tuple[int, int]:
    """The steps a worker did and those that were planned; raises WorkerError."""
    steps, planned = answer.fields.get("steps"), answer.fields.get("planned")
    if type(steps) is not int or type(planned) is not int or not 1 <= steps <= planned <= LIMITS.steps:
        raise WorkerError(f"the worker counts {steps!s:.20} of {planned!s:.20} steps, expected at least one")
    return steps, planned


def recordable(metrics: Mapping[str, float]) -> dict[str, JSON]:
    """Metrics as JSON holds them, which has no NaN and no infinity."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
