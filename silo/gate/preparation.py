"""Has a worker build view and model of a run, and asks it for work; one that is lost is replaced by the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from audit.errors import AuditEventError
from federation.errors import ConcordatError
from federation.limits import LIMITS
from silo.channel import Frame
from silo.constraint import Constraint
from silo.gate.answers import prepared_of
from silo.gate.desk import Desk
from silo.gate.journal import Detail
from silo.gate.normalization import moments_in, prepare_fields
from silo.gate.parts import Parts
from silo.gate.session import Prepared, Session, constraint_of, decide_view
from silo.gate.worker_link import WorkerError, WorkerLostError

WORKERS = 3
"""How many workers are asked for one piece of work, where each is lost during it."""
PREPARE_SECONDS = 110.0
"""How long a worker may take to read its data and build the model; within the coordinator's own limit for admission."""


class Preparation:
    """Prepares the workers of one handler's runs; `require` refuses a run that cannot be had with the view there is."""

    def __init__(self, parts: Parts, desk: Desk, require: Callable[[Session, Prepared], None]) -> None:
        self._parts, self._desk, self._require = parts, desk, require
        self._journal = desk.journal

    def prepare(self, session: Session) -> Prepared:
        """Have a worker build view and model; one that is lost meanwhile is replaced by the next."""
        for _ in range(WORKERS - 1):
            try:
                return self._prepare_once(session)
            except WorkerLostError:
                self._desk.going_on(session)
        return self._prepare_once(session)

    def _prepare_once(self, session: Session) -> Prepared:
        """Have the connected worker build view and model; the view is decided on before any training."""
        self._parts.link.wait()
        session.worker = self._parts.link.worker
        constraint = constraint_of(self._desk.policy(), session.run.dataset, session.run.columns)
        beside = prepare_fields(self._desk.policy(), session.run)
        frame = Frame("prepare", {"run": session.signed.text, "view": constraint.fields(), **beside}, session.app)
        try:
            answer = self._parts.link.ask(frame, PREPARE_SECONDS, 0)
            return self._view(session, constraint, answer.fields)
        except (ConcordatError, AuditEventError):
            # A worker serves one run: after a failed or refused one it is of no more use.
            self._parts.link.drop()
            raise

    def _view(self, session: Session, constraint: Constraint, fields: Mapping[str, Any]) -> Prepared:
        """What a worker says of the view it built, once the view is allowed; raises Refusal or WorkerError."""
        account = prepared_of(fields)
        prepared = account.prepared
        if constraint.changes_rows_or_values and account.constraint != constraint.digest:
            raise WorkerError("the worker does not say that it kept what the policy asks of the view")
        detail: Detail = {
            "dataset": session.run.dataset,
            "columns": ",".join(session.run.columns)[:8000],
            "rows": prepared.rows,
            "dropped_rows": account.dropped,
            "withheld_rows": account.withheld,
            "constraint": constraint.digest,
            "view": prepared.view_digest,
            "sockets": account.sockets,
            **({} if prepared.contract is None else {"contract": prepared.contract}),
        }
        with self._desk.deciding:
            decision = decide_view(self._desk.policy(), session.run, prepared, self._parts.now(), self._parts.observe)
            self._journal.decide("view.build", decision, session.run_id, detail=detail)
        # The policy comes first: what it asks of the rows is the reason that a person can act on.
        account.require_whole()
        session.moments = moments_in(fields, session.run, prepared.examples)
        self._require(session, prepared)
        return prepared

    def work(self, session: Session, frame: Callable[[], Frame]) -> Frame:
        """Ask the run's worker; a fresh one that took the place of a lost one is prepared first.

        The fresh one's view may have other rows, and so the run another plan: `frame` is made after that.
        """
        for _ in range(WORKERS - 1):
            try:
                return self._work_once(session, frame)
            except WorkerLostError:
                self._desk.going_on(session)
        return self._work_once(session, frame)

    def _work_once(self, session: Session, frame: Callable[[], Frame]) -> Frame:
        if self._parts.link.worker != session.worker:
            session.prepared = self.prepare(session)
        return self._parts.link.ask(frame(), session.run.strategy.deadline_seconds, _weights_bytes(session))


def _weights_bytes(session: Session) -> int:
    """What an answer with weights may weigh: those of the prepared model; a little more is refused by its own rule."""
    values = session.prepared.values if session.prepared else 0
    return 4 * values + LIMITS.reply_overhead
