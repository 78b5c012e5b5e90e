"""Answers the messages of a run: decides, records durably, then acts, in this order (promise 3)."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime

from audit.errors import AuditError, AuditEventError, RollbackError, VerificationError
from federation.errors import ConcordatError, IdentityError, ManifestError, UnreachableError, WireError
from federation.faults import attempt
from federation.identity import load_certificate
from federation.membership import recognise
from federation.receipts import keys_of
from federation.run import Run, load_run
from federation.wire import EVIDENCE, KINDS, Envelope, Kind
from policies.bundle import version_of
from policies.decision import Decision
from policies.document import Document
from policies.engine import undecided
from policies.errors import PolicyError
from policies.model import SiloPolicy
from policies.wording import nearest
from silo.channel import ChannelError
from silo.gate.active_policy import remember
from silo.gate.answers import admission_answer
from silo.gate.desk import Desk
from silo.gate.fleet import FleetRefusedError, Task
from silo.gate.journal import Detail, Journal
from silo.gate.ledger import LedgerError
from silo.gate.manifest_news import hear_manifest, with_manifest_digest
from silo.gate.parts import Parts, Refusal, standing
from silo.gate.policy_file import Rejected
from silo.gate.releasing import asked_of, decide_release
from silo.gate.replies import RepliesError
from silo.gate.retention import declare_retention
from silo.gate.rounds import Rounds
from silo.gate.session import Session, decide_admission, decide_view
from silo.gate.statistics import Surveys
from silo.gate.verified import Verified, verified
from silo.gate.worker_link import WorkerError

__all__ = ["Handler", "Parts", "Refusal"]

STOPS = (AuditError, LedgerError, FleetRefusedError, UnreachableError)
"""No record, no action: without its log or its ledger a gate decides nothing. The last two end a connection."""


class Handler:
    """Handles one silo's messages, one after the other; `reload` may be called from another thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._policy = parts.policy
        self._session: Session | None = None
        # Held while something is decided and recorded, so that a newer policy comes before or after it as a whole.
        self._deciding = threading.RLock()
        self._journal = Journal(parts.log, parts.peer, lambda: self._policy, self._run_in_progress)
        desk = Desk(
            deciding=self._deciding,
            policy=lambda: self._policy,
            journal=self._journal,
            admission=self._admission,
            going_on=self._going_on,
            running=self._running,
            end_session=self._end_session,
        )
        self._rounds = Rounds(parts, desk)
        self._surveys = Surveys(parts, desk)

    @property
    def policy(self) -> Document[SiloPolicy]:
        """The active policy."""
        return self._policy

    def _run_in_progress(self) -> str | None:
        return self._session.run_id if self._session else None

    def handle(self, task: Task) -> Envelope:
        """Answer a message; a refusal or a failure is an answer too. Raises only STOPS."""
        answer = with_manifest_digest(self._parts, attempt(lambda: self._answer(task), self._undecided, *STOPS))
        evidence = self._parts.witnessing.answer()
        return answer if evidence is None else replace(answer, config={**answer.config, EVIDENCE: evidence})

    def _answer(self, task: Task) -> Envelope:
        try:
            envelope = self._parts.node.fetch(task)
            hear_manifest(self._parts, self._journal, task.kind, envelope)
            self._hear(envelope)
            self.reload()
            return self._dispatch(task, envelope)
        except Refusal as refusal:
            return Envelope(refusal.fields)
        except (WorkerError, ChannelError, WireError, RepliesError, AuditEventError) as error:
            session = self._session
            if session is not None and isinstance(session.refusal, Refusal):
                # The worker was let go because a newer policy refuses the run: that is the answer.
                return Envelope(session.refusal.fields)
            # AuditEventError: what a peer sent does not fit an entry, so nothing was recorded and nothing was done.
            return self._failed(task, str(error) or "no reason was given")

    def _failed(self, task: Task, reason: str) -> Envelope:
        self._journal.record("message.failed", reason=reason[:2000], detail={"kind": task.kind[:40]})
        return Envelope({"status": "failed", "reason": reason[:1000]})

    def _undecided(self, problem: str) -> Envelope:
        """A fault of our own about one message refuses it and ends the run in progress, as a restart would.

        Were it to end the gate, whoever finds such a message could keep this silo from serving any run.
        """
        with self._deciding:
            if self._session is not None:
                self._leave(self._session, {})
        refusal = undecided(self._policy, problem)
        return Envelope(self._journal.refuse(refusal.rule, refusal.reason).fields)

    def _dispatch(self, task: Task, envelope: Envelope) -> Envelope:
        match task.kind:
            case Kind.ADMIT:
                return self._admit(task, envelope)
            case Kind.WITNESS:
                return Envelope({"status": "ok"})  # what is said of logs goes with every answer
            case Kind.STATISTICS:
                return self._surveys.answer(envelope)
            case Kind.RELEASE:
                return self._release(envelope)
            case kind if kind in KINDS:
                return self._rounds.answer(self._of(task), kind, envelope)
        close = nearest(task.kind, KINDS)
        like = f"; the nearest is {close}, failed on the name" if close else ""
        raise self._journal.refuse(
            "default-deny", f"got a message of type {task.kind[:40]!r}, which no rule allows{like}"
        )

    # -- other parties' logs, and this one as they saw it

    def _hear(self, envelope: Envelope) -> None:
        try:
            self._parts.witnessing.hear(envelope.config.get(EVIDENCE))
        except RollbackError as error:
            raise self._journal.refuse("log.rollback", str(error)) from None
        except VerificationError as error:
            raise self._journal.refuse("coordinator.log", str(error)[:2000]) from None

    # -- the policy

    def reload(self) -> None:
        """Take a newer policy that lies in the file, and hold the run in progress against it; else do nothing.

        What lies there and does not become active is recorded and said; the policy so far stays.
        """
        file = self._parts.policy_file
        if file is None:
            return
        with self._deciding:
            found = attempt(
                lambda: file.poll(version_of(self._policy)), lambda problem: Rejected(f"it cannot be read: {problem}")
            )
            if isinstance(found, Rejected):
                self._journal.record("policy.rejected", reason=found.reason[:2000])
                self._parts.say(f"POLICY REJECTED, {self._named()} stays active: {found.reason}")
            elif found is not None:
                self._activate(found)

    def _activate(self, policy: Document[SiloPolicy]) -> None:
        self._policy = policy
        version = version_of(policy)
        self._journal.record("policy.activate", detail={"name": version.name, "version": version.version})
        self._parts.history.active = version
        session = self._session
        if session is not None and session.refusal is None:
            try:
                self._hold(session)
            except Refusal as refusal:
                session.refusal = refusal
                self._parts.link.end_work()
        remember(self._parts.log.folder, version)
        declare_retention(self._parts.log, policy, self._parts.peer.uri)
        self._parts.say(f"policy {self._named()} is active")

    def _named(self) -> str:
        metadata = self._policy.model.metadata
        return f"{metadata.name} version {metadata.version}"

    def _hold(self, session: Session) -> None:
        """Hold a run in progress against the policy of now; raises Refusal, recorded as the end of the run."""

        def decided() -> list[Decision]:
            now = self._parts.now()
            decisions = [self._admission(session, now, again=True)]
            if session.prepared is not None:
                decisions.append(decide_view(self._policy, session.run, session.prepared, now, self._parts.observe))
            return decisions

        for decision in attempt(decided, lambda problem: [undecided(self._policy, problem)]):
            if not decision.allowed:
                self._journal.decide("run.revoke", decision, session.run_id)

    # -- admission

    def _admit(self, task: Task, envelope: Envelope) -> Envelope:
        found = verified(self._parts, self._journal, envelope, load_run)
        session = _session_of(task, found, envelope)
        with self._deciding:
            self._decide_admission(session, found)
            current = self._session
            if found.before is not None and current is not None and self._serves(current, session):
                current.flower_run, current.operator, current.parties = task.run_id, found.operator, found.parties
                current.log_keys = session.log_keys
                self._going_on(current)
                return admission_answer(current, self._policy)
            if found.before is None and self._parts.replies is not None:
                self._parts.replies.clear()
            self._end_session()
            self._session = session
        try:
            session.app = self._parts.node.fetch_app(task.run_id, session.signed.app_digest.removeprefix("sha256:"))
            session.prepared = self._rounds.prepare(session)
            self._planned(session)
        except BaseException:
            if session.refusal is None:
                self._session = None
            raise
        self._going_on(session)
        return admission_answer(session, self._policy)

    def _decide_admission(self, session: Session, found: Verified[Run]) -> None:
        """Decide whether a run is admitted or goes on, record it, and remember the new one; raises Refusal."""
        detail = {**found.detail(), "app": session.signed.app_digest, "manifest": found.manifest.document.digest}
        debits, now = 0, self._parts.now()
        if session.run.privacy is not None and self._parts.ledger is not None:
            debits = detail["debits"] = len(self._parts.ledger.entries)
        # A run that goes on is no further use of its app.
        action = "run.admit" if found.before is None else "run.readmit"
        decision = self._admission(session, now, again=found.before is not None)
        self._journal.decide(action, decision, session.run_id, detail=detail)
        if found.before is None:
            self._parts.history.admitted(found.progress(debits), now, session.signed.app_digest)

    def _serves(self, current: Session, asked: Session) -> bool:
        """Whether the run in progress is the one asked for, its view and model still with the worker."""
        return (
            current.digest == asked.digest
            and current.refusal is None
            and current.prepared is not None
            and self._parts.link.worker == current.worker
        )

    def _planned(self, session: Session) -> None:
        """Ask admission again now that the view is known, and with it what the run would spend of a privacy budget."""
        try:
            with self._deciding:
                self._hold(session)
        except Refusal:
            self._parts.link.drop()
            raise

    def _admission(self, session: Session, now: datetime, *, again: bool = False) -> Decision:
        """Whether a run is admitted, or goes on (`again`), by the policy and the facts of now."""
        try:
            facts = standing(self._parts, session, self._policy, now, self._session, again=again)
        except (ConcordatError, PolicyError, OSError) as error:
            return undecided(self._policy, f"its facts could not be gathered: {str(error)[:500]}")
        return decide_admission(
            self._policy,
            session.run,
            session.signed.app_digest,
            session.parties,
            self._parts.peer.name,
            now,
            facts,
            self._parts.observe,
        )

    # -- rounds

    def _of(self, task: Task) -> Session:
        if self._session is None or self._session.flower_run != task.run_id:
            raise self._journal.refuse("run.unknown", "this run was not admitted by this silo since its gate started")
        self._going_on(self._session)
        self._require_operator(self._session)
        return self._session

    def _require_operator(self, session: Session) -> None:
        """Refuse to go on with the run of an operator who left the federation, or whose certificate was revoked."""
        if self._parts.manifest is None:
            return
        try:
            recognise(self._parts.manifest, load_certificate(session.signed.operator_certificate))
        except IdentityError as error:
            session.refusal = self._journal.refuse("run.signature", str(error)[:2000], session.run_id)
            self._parts.link.end_work()
            raise session.refusal from None

    def _going_on(self, session: Session) -> None:
        """Raise the Refusal of a run that a newer policy refused; else note that it goes on."""
        with self._deciding:
            self.reload()
            if session.refusal is not None:
                raise session.refusal
            session.touched = self._parts.steady()

    def _release(self, envelope: Envelope) -> Envelope:
        """Decide whether a final model may be handed out, on the word of the approvers alone who signed for it."""
        try:
            asked = asked_of(self._parts, envelope, self._parts.take_manifest(envelope))
        except (IdentityError, ManifestError) as error:
            raise self._journal.refuse("release.request", str(error)) from None
        with self._deciding:
            decision = decide_release(self._parts, self._policy, asked, self._parts.now())
            self._journal.decide("model.release", decision, asked.handover.run, detail=asked.detail())
        return Envelope({"status": "released"})

    def _end_session(self) -> None:
        """Let the worker of a finished run go; a fresh one takes its place."""
        session = self._session
        if session is not None:
            taken = self._rounds.past(session).taken
            # Whether the other silos took the model of the last step, too, no later message has said.
            detail: Detail = {"unconfirmed": max(taken)} if taken and not session.evaluated else {}
            self._leave(session, detail)

    def _leave(self, session: Session, detail: Detail) -> None:
        self._session = None
        self._journal.record("run.leave", run=session.run_id, detail=detail)
        if self._parts.link.worker == session.worker:  # and not the fresh one that already took its place
            self._parts.link.drop()

    def _running(self) -> int:
        """How many runs are in progress here."""
        return int(self._session is not None and self._session.in_progress(self._parts.steady()))


def _session_of(task: Task, found: Verified[Run], envelope: Envelope) -> Session:
    """A run that asks to be admitted; where this silo admitted it before, from where it came to."""
    session = Session(
        found.label,
        task.run_id,
        found.document.model,
        found.operator,
        found.signed,
        b"",
        parties=found.parties,
        log_keys=keys_of(found.manifest.federation, [party.name for party in found.parties]),
        release_asked=envelope.config.get("release_asked") is True or None,
    )
    if found.before is not None:
        session.last_round, session.evaluated = found.before.last_round, found.before.evaluated
    return session
