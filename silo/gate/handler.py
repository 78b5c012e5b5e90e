"""Answers the messages of a run: decides, records durably, then acts, in this order (promise 3)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from audit.entry import JSON, Event
from audit.entry import Decision as LogDecision
from audit.errors import AuditEventError
from audit.log import AuditLog
from federation.errors import ConcordatError, IdentityError, ManifestError, WireError
from federation.identity import Peer
from federation.manifest import SignedManifest
from federation.run import Run, SignedRun, parse_signed_run, verify_signed_run
from federation.wire import Envelope, Kind, Scalar, Weights, weights_digest
from policies.decision import Decision
from policies.document import Document
from policies.errors import PolicyError
from policies.model import SiloPolicy
from silo.channel import ChannelError, Frame, payload_of
from silo.gate.fleet import FleetNode, Task
from silo.gate.session import (
    Prepared,
    Session,
    decide_admission,
    decide_egress,
    decide_ingress,
    decide_view,
    parties_of,
)
from silo.gate.updates import clip_update
from silo.gate.worker_link import WorkerError, WorkerLink

PREPARE_SECONDS = 110.0
"""How long a worker may take to read its data and build the model; within the coordinator's own limit for admission."""

Detail = Mapping[str, str | int | bool]


class Refusal(ConcordatError):  # noqa: N818  a decision, not a fault
    """A request was refused; carries what the asking side is told."""

    def __init__(self, rule: str, reason: str, location: str = "", remedy: str | None = None) -> None:
        super().__init__(reason)
        self.fields: dict[str, Scalar] = {
            "status": "refused",
            "rule": rule,
            "reason": reason,
            "location": location,
            "remedy": remedy or "",
        }


@dataclass
class Parts:
    """What a handler works with."""

    peer: Peer
    authority: x509.Certificate
    policy: Document[SiloPolicy]
    log: AuditLog
    link: WorkerLink
    node: FleetNode
    accept_manifest: Callable[[str, str], SignedManifest]


class Handler:
    """Handles one silo's messages, one after the other."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._policy = parts.policy
        self._session: Session | None = None

    def handle(self, task: Task) -> Envelope:
        """Answer a message; a refusal or a failure is an answer too. Raises only what must stop the gate."""
        try:
            envelope = self._parts.node.fetch(task)
            match task.kind:
                case Kind.ADMIT:
                    return self._admit(task, envelope)
                case Kind.INITIAL:
                    return self._initial(self._of(task))
                case Kind.TRAIN:
                    return self._train(self._of(task), envelope)
                case Kind.EVALUATE:
                    return self._evaluate(self._of(task), envelope)
            raise self._refuse("default-deny", f"got a message of type {task.kind[:40]!r}, which no rule allows")
        except Refusal as refusal:
            return Envelope(refusal.fields)
        except (WorkerError, ChannelError, WireError, AuditEventError) as error:
            # AuditEventError: what a peer sent does not fit an entry, so nothing was recorded and nothing was done.
            reason = str(error) or "no reason was given"
            self._record("message.failed", reason=reason[:2000], detail={"kind": task.kind[:40]})
            return Envelope({"status": "failed", "reason": reason[:1000]})

    # -- admission

    def _admit(self, task: Task, envelope: Envelope) -> Envelope:
        run_id = envelope.text("run_id")[:100]
        signed, run, operator, manifest = self._verified(run_id, envelope)
        parties = parties_of(manifest.federation, run.model, operator)
        silo = self._parts.peer.name
        decision = decide_admission(self._policy, run.model, signed.app_digest, parties, silo, datetime.now(UTC))
        detail: Detail = {
            "run_digest": signed.digest,
            "app": signed.app_digest,
            "purpose": run.model.purpose,
            "dataset": run.model.dataset,
            "operator": operator.uri,
            "manifest": manifest.document.digest,
            "parties": ",".join(f"{party.name}:{party.country}" for party in parties),
        }
        self._decide("run.admit", decision, run_id, detail=detail)
        self._end_session()
        app = self._parts.node.fetch_app(task.run_id, signed.app_digest.removeprefix("sha256:"))
        session = Session(run_id, task.run_id, run.model, operator, signed.text, app)
        session.prepared = self._prepare(session)
        self._session = session
        return Envelope(
            {
                "status": "admitted",
                "examples": session.prepared.examples,
                "shapes": session.prepared.shapes,
                "initial_digest": session.prepared.initial_digest,
            }
        )

    def _verified(self, run_id: str, envelope: Envelope) -> tuple[SignedRun, Document[Run], Peer, SignedManifest]:
        """Check manifest, signature and form of a run before anything is decided about it."""
        try:
            manifest = self._parts.accept_manifest(envelope.text("manifest"), envelope.text("manifest_signature"))
            fields = {name: envelope.text(name) for name in ("run", "app_digest", "signature", "operator")}
            signed = parse_signed_run(fields)
            operator = verify_signed_run(signed, self._parts.authority)
            if operator.federation != self._parts.peer.federation:
                raise IdentityError(f"the run is of federation {operator.federation}")
            parties_of(manifest.federation, signed.document().model, operator)
            return signed, signed.document(), operator, manifest
        except (IdentityError, ManifestError) as error:
            raise self._refuse("run.signature", str(error), run_id) from None
        except PolicyError as error:
            raise self._refuse("run.document", str(error)[:2000], run_id) from None

    def _prepare(self, session: Session) -> Prepared:
        """Have the connected worker build view and model; the view is decided on before any training."""
        self._parts.link.wait()
        session.worker = self._parts.link.worker
        try:
            answer = self._parts.link.ask(Frame("prepare", {"run": session.text}, session.app), PREPARE_SECONDS)
            return self._view(session, answer.fields)
        except (ConcordatError, AuditEventError):
            # A worker serves one run: after a failed or refused one it is of no more use.
            self._parts.link.drop()
            raise

    def _view(self, session: Session, fields: Mapping[str, Any]) -> Prepared:
        """What a worker says of the view it built, once the view is allowed; raises Refusal or WorkerError."""
        try:
            prepared = Prepared(
                rows=int(fields["rows"]),
                examples=int(fields["examples"]),
                validation=int(fields["validation"]),
                view_digest=str(fields["view_digest"]),
                shapes=str(fields["shapes"]),
                values=int(fields["values"]),
                initial_digest=str(fields["initial_digest"]),
            )
            dropped = int(fields.get("dropped", 0))
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise WorkerError(f"the worker's account of the view lacks a field: {error}") from None
        decision = decide_view(self._policy, session.run, prepared.rows, datetime.now(UTC))
        detail: Detail = {
            "dataset": session.run.dataset,
            "columns": ",".join(session.run.columns)[:8000],
            "rows": prepared.rows,
            "dropped_rows": dropped,
            "view": prepared.view_digest,
        }
        self._decide("view.build", decision, session.run_id, detail=detail)
        return prepared

    # -- rounds

    def _of(self, task: Task) -> Session:
        if self._session is None or self._session.flower_run != task.run_id:
            raise self._refuse("run.unknown", "this run was not admitted by this silo since its gate started")
        return self._session

    def _work(self, session: Session, frame: Frame) -> Frame:
        """Ask the run's worker; a fresh one that took the place of a lost one is prepared first."""
        if self._parts.link.worker != session.worker:
            session.prepared = self._prepare(session)
        return self._parts.link.ask(frame, session.run.strategy.deadline_seconds)

    def _initial(self, session: Session) -> Envelope:
        answer = self._work(session, Frame("initial"))
        weights = answer.weights()
        digest = weights_digest(weights)
        assert session.prepared is not None  # noqa: S101  a session is kept only once prepared
        if digest != session.prepared.initial_digest:
            raise self._refuse("initial.seeded", "the initial model changed since admission", session.run_id)
        decision = decide_ingress(self._policy, session, 1, weights, datetime.now(UTC))
        if decision.allowed:
            reason = f"the initial model of {weights.size} values, made from the run's seed, may leave"
            decision = replace(decision, reason=reason)
        self._decide("initial.release", decision, session.run_id, detail={"model": digest})
        return Envelope({"status": "ok", "digest": digest}, weights=weights)

    def _ingress(self, session: Session, envelope: Envelope) -> tuple[int, Weights]:
        number = envelope.number("round")
        if envelope.weights is None:
            raise WireError("got a round without a model")
        digest = weights_digest(envelope.weights)
        if digest != envelope.text("digest"):
            raise WireError(f"got a model with digest {digest[:19]}, expected {envelope.text('digest')[:19]}")
        decision = decide_ingress(self._policy, session, number, envelope.weights, datetime.now(UTC))
        self._decide("round.ingress", decision, session.run_id, number, {"model": digest})
        return number, envelope.weights

    def _train(self, session: Session, envelope: Envelope) -> Envelope:
        number, before = self._ingress(session, envelope)
        session.advance(number)
        answer = self._work(session, Frame("train", {"round": number}, payload_of(before)))
        after = answer.weights()
        metrics = _metrics(answer)
        decision, norm = decide_egress(self._policy, session, number, metrics, (after, before), datetime.now(UTC))
        if decision.allowed and decision.clip_norm is not None:
            after = clip_update(after, before, norm, decision.clip_norm)
        detail: Detail = {
            "update": weights_digest(after),
            "norm_micro": int(norm * 1e6) if norm < 1e9 else -1,
            "bytes": int(after.nbytes),
            "examples": session.examples,
        }
        self._decide("round.egress", decision, session.run_id, number, detail, {"metrics": _recordable(metrics)})
        return Envelope({"status": "ok", "examples": session.examples}, metrics, after)

    def _evaluate(self, session: Session, envelope: Envelope) -> Envelope:
        number, weights = self._ingress(session, envelope)
        if number < session.run.strategy.rounds:
            raise self._refuse("run.evaluation", "a model may be evaluated once, after the last round", session.run_id)
        answer = self._work(session, Frame("evaluate", {}, payload_of(weights)))
        metrics = _metrics(answer)
        decision, _ = decide_egress(self._policy, session, number, metrics, None, datetime.now(UTC))
        self._decide("evaluation.egress", decision, session.run_id, number, {}, {"metrics": _recordable(metrics)})
        self._end_session()
        return Envelope({"status": "ok"}, metrics)

    def _end_session(self) -> None:
        """Let the worker of a finished run go; a fresh one takes its place."""
        if self._session is not None:
            self._record("run.leave", run=self._session.run_id)
            self._session = None
            self._parts.link.drop()

    # -- the log

    def _decide(
        self,
        action: str,
        decision: Decision,
        run: str,
        number: int | None = None,
        detail: Detail | None = None,
        payload: Mapping[str, JSON] | None = None,
    ) -> None:
        """Record a decision; returns once it is durable, and raises Refusal where it is a denial."""
        self._parts.log.append(
            Event(
                actor=self._parts.peer.uri,
                action=action,
                resource=f"run/{run}",
                decision=decision.effect,
                rule=decision.rule,
                reason=decision.reason,
                policy=self._policy.digest,
                run=run,
                round=number,
                detail={**(detail or {}), "location": decision.location},
                payload=payload,
            )
        )
        if not decision.allowed:
            raise Refusal(decision.rule, decision.reason, decision.location, decision.remedy)

    def _refuse(self, rule: str, reason: str, run: str | None = None) -> Refusal:
        self._record("message.refused", decision="deny", rule=rule, reason=reason, run=run)
        return Refusal(rule, reason)

    def _record(
        self,
        action: str,
        *,
        decision: LogDecision = "record",
        rule: str | None = None,
        reason: str | None = None,
        run: str | None = None,
        detail: Detail | None = None,
    ) -> None:
        run = run or (self._session.run_id if self._session else None)
        self._parts.log.append(
            Event(
                actor=self._parts.peer.uri,
                action=action,
                resource=f"run/{run}" if run else f"silo/{self._parts.peer.name}",
                decision=decision,
                rule=rule,
                reason=reason,
                policy=self._policy.digest,
                run=run,
                detail=detail or {},
            )
        )


def _metrics(answer: Frame) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in answer.fields["metrics"].items()}
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
        raise WorkerError(f"the worker's metrics are not numbers: {json.dumps(answer.fields)[:200]}") from None


def _recordable(metrics: Mapping[str, float]) -> dict[str, JSON]:
    """Metrics as JSON holds them, which has no NaN and no infinity."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
