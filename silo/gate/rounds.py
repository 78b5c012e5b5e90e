"""Answers what is asked within a run that was admitted: decides, records durably, then acts, in this order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from audit.entry import JSON
from audit.errors import VerificationError
from federation.encodings import packed_bytes
from federation.errors import ConcordatError, WireError
from federation.receipts import RECEIPT
from federation.wire import Envelope, Kind, Scalar, Weights, weights_digest
from policies.decision import Decision
from policies.engine import undecided
from policies.request import Privacy
from silo.channel import Frame, payload_of
from silo.gate.admissions import Progress
from silo.gate.agreement import Agreement
from silo.gate.answers import (
    clip_norm_of,
    metrics_of,
    question_of,
    recordable,
    release_asked,
    round_fields,
    steps_of,
    told_of_round,
)
from silo.gate.control_variates import ControlledRounds, Sent, sent_of
from silo.gate.desk import Desk
from silo.gate.journal import Detail
from silo.gate.masking import Sums
from silo.gate.normalization import TrainingMoments, decide_moments, normalization_of, sums_of
from silo.gate.outgoing import Leaving
from silo.gate.parts import Parts
from silo.gate.preparation import Preparation
from silo.gate.private import PrivateRounds
from silo.gate.replies import Question
from silo.gate.secure_rounds import SecureRounds, kept, released, trained
from silo.gate.session import Prepared, Session, decide_egress, decide_ingress


class Rounds:
    """The rounds of one handler's runs."""

    def __init__(self, parts: Parts, desk: Desk) -> None:
        self._parts, self._desk, self._journal = parts, desk, desk.journal
        self._private = PrivateRounds(parts, desk.journal, self.past)
        self._secure = SecureRounds(parts, desk.journal, self._sums)
        self._agreement = Agreement(parts, desk.journal, self.past)
        self._controls = ControlledRounds(parts, desk.journal)
        self._preparation = Preparation(parts, desk, self._require)

    def prepare(self, session: Session) -> Prepared:
        """Have a worker build view and model; raises Refusal, or WorkerError where none can."""
        return self._preparation.prepare(session)

    def _require(self, session: Session, prepared: Prepared) -> None:
        """Plan what a run costs and refuse what cannot be had with the view there is."""
        self._private.plan(session, prepared.examples)
        self._secure.require(session)
        self._controls.require(session, prepared)

    def answer(self, session: Session, kind: str, envelope: Envelope) -> Envelope:
        """Answer what is asked within a run that was admitted."""
        match kind:
            case Kind.INITIAL:
                return self._initial(session)
            case Kind.TRAIN:
                return _receipted(session, self._train(session, envelope))
            case Kind.EVALUATE:
                return _receipted(session, self._evaluate(session, envelope))
            case Kind.MOMENTS:
                return self._moments(session)
            case _:
                return self._secure.answer(session, kind, envelope)

    # -- rounds

    def _initial(self, session: Session) -> Envelope:
        answer = self._preparation.work(session, lambda: Frame("initial"))
        weights = answer.weights()
        digest = weights_digest(weights)
        assert session.prepared is not None  # noqa: S101  a session is kept only once prepared
        if digest != session.prepared.initial_digest:
            raise self._journal.refuse("initial.seeded", "the initial model changed since admission", session.run_id)
        with self._desk.deciding:
            self._desk.going_on(session)
            decision = decide_ingress(self._desk.policy(), session, 1, weights, self._parts.now(), self._parts.observe)
            if decision.allowed:
                reason = f"the initial model of {weights.size} values, made from the run's seed, may leave"
                decision = replace(decision, reason=reason)
            self._journal.decide("initial.release", decision, session.run_id, detail={"model": digest})
        return Envelope({"status": "ok", "digest": digest}, weights=weights)

    def _moments(self, session: Session) -> Envelope:
        """Means and variances of the training rows, for the run to normalise by."""
        if session.run.secure_aggregation is not None:
            reason = "means and variances of a run with secure aggregation leave within a sum alone"
            raise self._journal.refuse("run.normalization", reason, session.run_id)
        return Envelope({"status": "ok", "statistics": json.dumps(self._decided_moments(session)[1])})

    def _sums(self, session: Session) -> Sums:
        """The same to be masked: they open within a sum over silos alone."""
        moments, _ = self._decided_moments(session)
        assert session.prepared is not None  # noqa: S101  there are moments of a view that was prepared alone
        return sums_of(moments, session.prepared.view_digest)

    def _decided_moments(self, session: Session) -> tuple[TrainingMoments, dict[str, Any]]:
        """The statistics, and what of them may leave, once that is decided and recorded; raises Refusal."""
        if session.moments is None or session.last_round:
            raise self._journal.refuse("run.normalization", "the run asks for no normalisation now", session.run_id)
        with self._desk.deciding:
            self._desk.going_on(session)
            now = self._parts.now()
            privacy = self._parts.privacy_facts(session, self._desk.policy(), now)
            decision, fields, hidden = decide_moments(
                self._desk.policy(), session.moments, session.run, privacy, now, self._parts.observe
            )
            detail: Detail = {"hidden_columns": hidden}
            if session.run.secure_aggregation is None:
                detail = {**detail, "statistics": self._left_once(session, fields)}
            self._journal.decide("statistics.egress", decision, session.run_id, 1, detail, {"statistics": fields})
            self.past(session).moments = str(detail.get("statistics", ""))
        return session.moments, fields

    def _left_once(self, session: Session, fields: Mapping[str, Any]) -> str:
        """The digest of statistics that may leave; raises Refusal where others of this signed run left before.

        Of two that differ by a row, the difference is that row.
        """
        digest = "sha256:" + hashlib.sha256(json.dumps(fields).encode()).hexdigest()
        if self.past(session).moments not in {"", digest}:
            reason = (
                "means and variances of this run left before, and those of now are others: the data or the policy "
                "changed; submit it as a new run"
            )
            raise self._journal.refuse("statistics.repeated", reason, session.run_id)
        return digest

    def _ingress(
        self, session: Session, envelope: Envelope, published: str, *, trains: bool
    ) -> tuple[int, Sent, dict[str, str]]:
        number = envelope.number("round")
        if envelope.weights is None:
            raise WireError("got a round without a model")
        digest = weights_digest(envelope.weights)
        if digest != envelope.text("digest"):
            raise WireError(f"got a model with digest {digest[:19]}, expected {envelope.text('digest')[:19]}")
        text, normalization = normalization_of(session.run, envelope)
        sent, said = sent_of(session, self._parts.peer.name, number, envelope, trains=trains)
        if trains:
            said |= told_of_round(session, envelope)
        if normalization is not None:
            said = {**said, "normalization": normalization}
        shown = self._agreement.shown(session, envelope)
        beside = self._agreement.published(session, shown)
        self._require_published(published, session, number, digest, {**said, **beside})
        step = self._agreement.require(session, shown, published, number, digest, said)
        if session.normalization not in {None, normalization}:
            raise self._journal.refuse(
                "ingress.normalization", "the run normalised by other values before", session.run_id
            )
        with self._desk.deciding:
            now = self._parts.now()
            decision = self._desk.admission(session, now, again=True)
            for vector in sent.vectors:
                if decision.allowed:
                    decision = decide_ingress(self._desk.policy(), session, number, vector, now, self._parts.observe)
            detail: Detail = {"model": digest, "step": step.number, "history": step.history}
            self._journal.decide("round.ingress", decision, session.run_id, number, detail)
            self._agreement.took(session, step)
            session.normalization = normalization
        return number, sent, {} if text is None else {"normalization": text}

    def _train(self, session: Session, envelope: Envelope) -> Envelope:
        number, sent, beside = self._ingress(session, envelope, "round.begin", trains=True)
        before = sent.model
        mu = round_fields(session, number, envelope).get("mu")
        question = question_of(session, Kind.TRAIN, number, envelope, mu, sent.folded)
        if number <= session.last_round:
            return self._again(session, question, before)

        def asked() -> Frame:
            # What the worker is told, and what is debited, is of one plan: that of the worker that is asked.
            self._private.require_steps(session, number)
            fields = {**round_fields(session, number, envelope), **beside}
            return Frame("train", fields, self._controls.payload(session, sent))

        answer = self._preparation.work(session, asked)
        clip_norm = clip_norm_of(session, envelope)
        updates, residual = session.run.updates, self._residual(session)
        leaving = Leaving(
            before, answer.weights(), plan=session.plan, clip_norm=clip_norm, updates=updates, residual=residual
        )
        metrics = metrics_of(answer)
        steps, planned = steps_of(answer)
        with self._desk.deciding:
            session.require_later(number)
            self._private.debit(session, number, clip_norm)
            decision, norm = self._egress(session, number, metrics, (leaving.weights, before))
            if decision.allowed:
                norm = leaving.release(norm, decision.clip_norm)
            hidden = session.run.secure_aggregation is not None
            update = {"update": weights_digest(leaving.weights)}
            detail: Detail = {
                **({} if hidden else update),
                "norm_micro": int(norm * 1e6) if norm < 1e9 else -1,
                "bytes": packed_bytes(updates, int(leaving.weights.size)),
                "examples": session.examples,
                "steps": steps,
                "steps_planned": planned,
            }
            reply: dict[str, Scalar] = {
                "status": "ok",
                "examples": session.examples,
                "policy": self._desk.policy().digest,
            }
            reply |= {**leaving.said, "steps": steps, "planned": planned}
            weights = leaving.weights if updates is None else None
            answered = Envelope(reply, metrics, weights, leaving.packed)
            if decision.allowed:
                self._controls.keep(session, number, sent, leaving.weights, steps)
            self._keep(question, kept(session, answered, before), decision, leaving.residual)
            session.advance(number)
            self.past(session).last_round = number
            payload: dict[str, JSON] = {"metrics": recordable(metrics), **(update if hidden else {})}
            self._journal.decide("round.egress", decision, session.run_id, number, detail, payload)
        return released(session, answered)

    # -- what is asked for again

    def past(self, session: Session) -> Progress:
        """How far the session's run came, to be kept up while it goes on."""
        return self._parts.history.of(session.digest) or Progress(session.run_id, session.digest)

    def _keep(self, question: Question, reply: Envelope, decision: Decision, residual: Weights | None = None) -> None:
        """Put a reply that may leave on disk before that is recorded: from then on there is no other."""
        if decision.allowed and self._parts.replies is not None:
            self._parts.replies.keep(question, reply, residual)

    def _residual(self, session: Session) -> Weights | None:
        """What the session's last update left out when it was packed."""
        if session.run.updates is None or self._parts.replies is None:
            return None
        return self._parts.replies.residual(session.digest, session.last_round)

    def _again(self, session: Session, question: Question, before: Weights | None) -> Envelope:
        """Send the reply to a question once more, where it is that very question; else refuse (no differencing)."""
        reply = self._parts.replies.find(question) if self._parts.replies else None
        if reply is None:
            reason = f"round {question.round} was answered, and this is not the question that the kept reply is for"
            raise self._journal.refuse("round.repeated", reason, session.run_id)
        with self._desk.deciding:
            after = None if before is None else trained(session, reply, before)
            # With silo_dp a bound on the norm was held against the update before its noise, which is not kept.
            shown = before if session.run.silo_dp else after
            update = None if before is None or shown is None else (shown, before)
            decision, _ = self._egress(session, question.round, reply.metrics, update)
            leaves = released(session, reply)
            detail: Detail = {} if after is None or not leaves.array_bytes else {"update": weights_digest(after)}
            self._journal.decide("reply.again", decision, session.run_id, question.round, detail)
        return leaves

    def _evaluate(self, session: Session, envelope: Envelope) -> Envelope:
        number, sent, beside = self._ingress(session, envelope, "evaluation.begin", trains=False)
        if number < session.run.strategy.rounds:
            raise self._journal.refuse(
                "run.evaluation", "a model may be evaluated once, after the last round", session.run_id
            )
        question = question_of(session, Kind.EVALUATE, number, envelope)
        if session.evaluated:
            return self._again(session, question, None)
        answer = self._preparation.work(session, lambda: Frame("evaluate", beside, payload_of(sent.model)))
        metrics = metrics_of(answer)
        with self._desk.deciding:
            decision, _ = self._egress(session, number, metrics, None)
            reply = Envelope({"status": "ok", **release_asked(self._desk.policy())}, metrics)
            self._keep(question, reply, decision)
            session.evaluated = self.past(session).evaluated = True
            self._journal.decide(
                "evaluation.egress", decision, session.run_id, number, {}, {"metrics": recordable(metrics)}
            )
            self._desk.end_session()
        return reply

    def _egress(
        self,
        session: Session,
        number: int,
        metrics: Mapping[str, float],
        update: tuple[Weights, Weights] | None,
    ) -> tuple[Decision, float]:
        """Whether a reply may leave by the policy of now, and the norm of its update."""
        self._desk.going_on(session)
        now = self._parts.now()
        try:
            privacy: Privacy | None = self._parts.privacy_facts(session, self._desk.policy(), now)
        except (ConcordatError, OSError) as error:
            return undecided(self._desk.policy(), f"its facts could not be gathered: {str(error)[:500]}"), 0.0
        return decide_egress(self._desk.policy(), session, number, metrics, update, now, privacy, self._parts.observe)

    def _require_published(
        self, action: str, session: Session, number: int, digest: str, said: Mapping[str, str]
    ) -> None:
        """Refuse a model of which the coordinator's log does not say that every silo gets it (promise 10)."""
        try:
            self._parts.witnessing.require_published(action, session.run_id, number, digest, said)
        except VerificationError as error:
            raise self._journal.refuse("ingress.published", str(error)[:2000], session.run_id) from None


def _receipted(session: Session, answer: Envelope) -> Envelope:
    """An answer with the receipt for the model that it is about."""
    return replace(answer, config={**answer.config, RECEIPT: session.receipt})
