"""What a gate does for a run of statistics: admits it, has the view summarised, hides or blurs, decides, answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from federation.identity import load_certificate
from federation.run import SignedRun
from federation.statistics.document import Statistics, load_statistics
from federation.statistics.reading import read_summary
from federation.statistics.summary import Layout, Summary, layout_of, to_fields
from federation.wire import Envelope
from policies.decision import Decision
from policies.document import Document
from policies.engine import decide
from policies.model import SiloPolicy
from policies.request import Admission, Egress, Party, Privacy, View
from silo.channel import Frame
from silo.constraint import Constraint
from silo.gate.account import Account
from silo.gate.accounting import Mechanism, PlanError, epsilon_of, noise_for
from silo.gate.cells import Table, conceal
from silo.gate.desk import Desk
from silo.gate.facts import certificate_facts
from silo.gate.journal import Detail
from silo.gate.ledger import Debit, LedgerError, within
from silo.gate.noise import noisy, sensitivity
from silo.gate.normalization import summary_in
from silo.gate.parts import Parts
from silo.gate.preparation import WORKERS
from silo.gate.replies import Question
from silo.gate.session import constraint_of
from silo.gate.spending import debits_of
from silo.gate.verified import Verified, verified
from silo.gate.worker_link import WorkerError, WorkerLostError


@dataclass(frozen=True)
class Asked:
    """One signed run of statistics, as this silo sees it."""

    found: Verified[Statistics]
    noise: float | None
    """The noise multiplier of its one release, where it is private."""

    @property
    def run_id(self) -> str:
        """The coordinator's label for it."""
        return self.found.label

    @property
    def signed(self) -> SignedRun:
        """What the operator signed."""
        return self.found.signed

    @property
    def parties(self) -> tuple[Party, ...]:
        """Everyone who takes part."""
        return self.found.parties

    @property
    def statistics(self) -> Statistics:
        """What is asked for."""
        return self.found.document.model

    @property
    def mechanism(self) -> Mechanism | None:
        """What a private run is debited: one step on every row."""
        return None if self.noise is None else Mechanism(1.0, self.noise, 1)

    @property
    def question(self) -> Question:
        """As its reply is kept by."""
        return Question(self.signed.digest, "statistics", 1, "")


class Surveys:
    """The runs of statistics of one handler."""

    def __init__(self, parts: Parts, desk: Desk) -> None:
        self._parts, self._desk = parts, desk

    def answer(self, envelope: Envelope) -> Envelope:
        """Answer a question for statistics; raises Refusal, or ConcordatError where it cannot be answered."""
        asked = self._asked(verified(self._parts, self._desk.journal, envelope, load_statistics))
        kept = self._parts.replies.find(asked.question) if self._parts.replies else None
        before, paid = asked.found.before, self._is_paid(asked)
        if kept is None and (paid or (before is not None and before.released)):
            reason = (
                "the one release of this run left or was debited, and its reply is not kept any more; "
                "submit it as a new run"
            )
            raise self._desk.journal.refuse("statistics.repeated", reason, asked.run_id)
        with self._desk.deciding:
            policy = self._admit(asked, again=before is not None, paid=paid)
            if before is None:
                self._parts.history.admitted(asked.found.progress(), self._parts.now())
            self._desk.end_session()
            if kept is None and self._parts.replies is not None:
                self._parts.replies.clear()
        if kept is not None:
            return self._again(asked, kept)
        summary, tables = self._summarised(asked, policy)
        with self._desk.deciding:
            if self._desk.policy().digest != policy.digest:
                self._admit(asked, again=True)
            reply = self._release(asked, summary, tables)
            self._desk.journal.record("run.leave", run=asked.run_id, detail={})
        return reply

    # -- admission

    def _asked(self, found: Verified[Statistics]) -> Asked:
        statistics, noise = found.document.model, None
        if statistics.privacy is not None:
            if self._parts.ledger is None or self._parts.replies is None:
                reason = "this gate keeps no privacy ledger, or no replies"
                raise self._desk.journal.refuse("privacy.ledger", reason, found.label)
            try:
                noise = noise_for(1.0, 1, statistics.privacy.epsilon, statistics.privacy.delta)
            except PlanError as error:
                raise self._desk.journal.refuse("privacy.plan", str(error), found.label) from None
        return Asked(found, noise)

    def _admit(self, asked: Asked, *, again: bool, paid: bool = False) -> Document[SiloPolicy]:
        """Admit the run, or let it go on (`again`), under the policy of now, which is returned; raises Refusal.

        One that is paid for has its one release in the ledger.
        """
        policy, statistics, now = self._desk.policy(), asked.statistics, self._parts.now()
        silos = sum(party.role == "silo" for party in asked.parties)
        quorum = silos if statistics.quorum == "all" else statistics.quorum
        certificates = [
            certificate_facts(asked.found.operator.name, load_certificate(asked.signed.operator_certificate))
        ]
        if self._parts.certificate is not None:
            certificates.append(certificate_facts(self._parts.peer.name, self._parts.certificate()))
        request = Admission(
            purpose=statistics.purpose,
            dataset=statistics.dataset,
            columns=statistics.names,
            app_digest="",
            rounds=1,
            metrics=(),
            parties=asked.parties,
            silo=self._parts.peer.name,
            statistics=True,
            kinds=statistics.statistics,
            per_silo=statistics.per_silo or min(quorum, silos) < 2,
            code=False,
            quorum=quorum,
            running=self._desk.running(),
            certificates=tuple(certificates),
            privacy=self._privacy(asked, now, debited=paid),
            log=self._parts.log_facts.health(now) if self._parts.log_facts else None,
        )
        detail: Detail = {**asked.found.detail(), "statistics": ",".join(statistics.statistics)}
        decision = decide(policy, request, now, self._parts.observe)
        self._desk.journal.decide("run.readmit" if again else "run.admit", decision, asked.run_id, detail=detail)
        return policy

    def _privacy(self, asked: Asked, now: datetime, *, debited: bool = False) -> Privacy | None:
        """What the run does for privacy, and what is spent once it has; `debited` where the ledger has it already."""
        mechanism, ledger, wanted = asked.mechanism, self._parts.ledger, self._desk.policy().model.privacy
        if mechanism is None:
            return Privacy(mode="none")
        assert ledger is not None  # noqa: S101  a private run is not asked about without one
        assert asked.statistics.privacy is not None  # noqa: S101  it has noise
        budget = wanted.budget if wanted else None
        delta = budget.delta if budget else asked.statistics.privacy.delta
        since = budget.window.before(now) if budget else now
        dataset, digest = asked.statistics.dataset, asked.signed.digest
        counted = {entry.number for entry in within(ledger.entries, since, now)}
        debits = [entry for entry in ledger.entries if entry.debit.dataset == dataset]
        spent = [
            entry.debit.mechanism for entry in debits if entry.number in counted or entry.debit.is_of(digest, dataset)
        ]
        return Privacy(
            mode="example_dp",
            noise_multiplier=mechanism.noise_multiplier,
            epsilon=epsilon_of([mechanism], delta),
            spent=epsilon_of(spent if debited else [*spent, mechanism], delta),
            delta=delta,
        )

    # -- the view

    def _summarised(self, asked: Asked, policy: Document[SiloPolicy]) -> tuple[Summary, tuple[Table, ...]]:
        """Have the worker read and summarise the view, once the view is decided on; the worker is then let go."""
        statistics, allowed = asked.statistics, policy.model.egress.statistics
        assert allowed is not None  # noqa: S101  a policy without it admits no such run
        constraint = constraint_of(policy, statistics.dataset, statistics.names)
        if constraint.pseudonymize:
            reason = f"{', '.join(constraint.pseudonymize)[:500]} would be pseudonyms, which have no statistics"
            raise self._desk.journal.refuse("statistics.pseudonyms", reason, asked.run_id)
        fields = {"run": asked.signed.text, "view": constraint.fields(), "cell": allowed.minimum_cell}
        answer = self._worked(Frame("summarise", fields), statistics.deadline_seconds)
        return self._view(asked, constraint, answer.fields)

    def _worked(self, frame: Frame, seconds: float) -> Frame:
        """Ask a worker; one that is lost meanwhile is replaced by the next."""
        for _ in range(WORKERS - 1):
            try:
                return self._worked_once(frame, seconds)
            except WorkerLostError:
                continue
        return self._worked_once(frame, seconds)

    def _worked_once(self, frame: Frame, seconds: float) -> Frame:
        self._parts.link.wait()
        worker = self._parts.link.worker
        try:
            return self._parts.link.ask(frame, seconds, 0)
        finally:
            if self._parts.link.worker == worker:  # and not the fresh one that already took its place
                self._parts.link.drop()

    def _view(
        self, asked: Asked, constraint: Constraint, fields: Mapping[str, Any]
    ) -> tuple[Summary, tuple[Table, ...]]:
        statistics = asked.statistics
        account = Account("the worker's statistics", fields)
        if constraint.changes_rows_or_values and account.optional_digest("constraint") != constraint.digest:
            raise WorkerError("the worker does not say that it kept what the policy asks of the view")
        layout = layout_of(statistics)
        summary, tables = summary_in("summary", fields, layout, lambda text: read_summary(text, layout))
        dropped, withheld = account.count("dropped"), account.count("withheld")
        consent, opt_out = account.optional_name("consent"), account.optional_name("opt_out")
        contract, view_digest = account.optional_digest("contract"), account.digest("view_digest")
        view = View(statistics.dataset, statistics.names, summary.rows, consent, opt_out, (), contract)
        detail: Detail = {
            "dataset": statistics.dataset,
            "columns": ",".join(statistics.names)[:8000],
            "rows": summary.rows,
            "dropped_rows": dropped,
            "withheld_rows": withheld,
            "constraint": constraint.digest,
            "view": view_digest,
            **({} if contract is None else {"contract": contract}),
        }
        with self._desk.deciding:
            decision = decide(self._desk.policy(), view, self._parts.now(), self._parts.observe)
            self._desk.journal.decide("view.build", decision, asked.run_id, detail=detail)
        return summary, tables

    # -- egress

    def _release(self, asked: Asked, summary: Summary, tables: tuple[Table, ...]) -> Envelope:
        """Hide, decide and keep, or blur, keep, debit and decide; once that is recorded it may leave."""
        policy, layout = self._desk.policy(), layout_of(asked.statistics)
        allowed = policy.model.egress.statistics
        assert allowed is not None  # noqa: S101  a policy without it admits no such run
        if asked.noise is not None:
            detail: dict[str, str | int | bool] = {"noise_multiplier": f"{asked.noise:g}"}
            cell, fields = None, noisy(summary, asked.statistics, layout, asked.noise).fields(layout)
        else:
            # A policy that came meanwhile may ask for larger cells than the worker counted up to: then more is hidden.
            shown = conceal(summary, tables, allowed.minimum_cell)
            detail = {
                "hidden_cells": shown.hidden_cells,
                "hidden_columns": shown.hidden_columns,
                "hidden_pairs": shown.hidden_pairs,
            }
            cell, fields = shown.smallest, to_fields(shown.summary, layout)
        payload = {"statistics": fields}
        self._desk.journal.require_fits("statistics.egress", asked.run_id, payload)
        reply = Envelope({"status": "ok", "policy": policy.digest, "statistics": json.dumps(fields)})
        kept = Envelope({**reply.config, "rows": summary.rows, "cell": -1 if cell is None else cell})
        if asked.noise is not None and self._parts.replies is not None:
            # Before the debit: whenever the ledger has one, there is a reply that it pays for, with the one noise.
            self._parts.replies.keep(asked.question, kept)
            self._debit(asked, layout)
        decision = self._egress(asked, summary.rows, cell)
        if asked.noise is None and decision.allowed and self._parts.replies is not None:
            self._parts.replies.keep(asked.question, kept)
        self._desk.journal.decide("statistics.egress", decision, asked.run_id, 1, detail, payload)
        self._released(asked)
        return reply

    def _again(self, asked: Asked, kept: Envelope) -> Envelope:
        """Send the reply once more: the same numbers, the same noise, by the policy of now; debited if it was not."""
        cell = kept.number("cell")
        with self._desk.deciding:
            if asked.noise is not None and not self._is_paid(asked):
                self._debit(asked, layout_of(asked.statistics))
            decision = self._egress(asked, kept.number("rows"), None if cell < 0 else cell)
            self._desk.journal.decide("reply.again", decision, asked.run_id, 1)
            self._released(asked)
        return Envelope({name: value for name, value in kept.config.items() if name not in {"rows", "cell"}})

    def _released(self, asked: Asked) -> None:
        progress = self._parts.history.of(asked.signed.digest)
        if progress is not None:
            progress.released = True

    def _egress(self, asked: Asked, rows: int, cell: int | None) -> Decision:
        now = self._parts.now()
        request = Egress(
            round=1,
            examples=rows,
            metrics={},
            declared_metrics=(),
            privacy=self._privacy(asked, now, debited=True),
            cell=cell,
        )
        return decide(self._desk.policy(), request, now, self._parts.observe)

    def _is_paid(self, asked: Asked) -> bool:
        """Whether the ledger has a debit for the one release of a private run."""
        if asked.noise is None or self._parts.ledger is None:
            return False
        return bool(debits_of(self._parts.ledger.entries, asked.signed.digest, asked.statistics.dataset))

    def _debit(self, asked: Asked, layout: Layout) -> None:
        """Debit the one release, whose reply is kept (promise 7)."""
        assert self._parts.ledger is not None  # noqa: S101  a private run is not admitted without one
        assert asked.mechanism is not None  # noqa: S101  it has noise
        statistics, now = asked.statistics, self._parts.now()
        debit = Debit(
            now,
            statistics.dataset,
            asked.run_id,
            1,
            asked.found.operator.uri,
            asked.mechanism,
            sensitivity(layout),
            submission=asked.signed.digest,
        )
        try:
            entry = self._parts.ledger.debit(debit)
        except LedgerError as error:
            raise self._desk.journal.refuse("privacy.ledger", str(error), asked.run_id) from None
        detail: dict[str, str | int | bool] = {
            "number": entry.number,
            "digest": entry.digest,
            "dataset": statistics.dataset,
            "round": 1,
            "steps": 1,
        }
        self._desk.journal.record("privacy.debit", run=asked.run_id, detail=detail)
