"""What a gate does for a run with privacy: its plan, the steps it has left, the debit of each round."""

from __future__ import annotations

from collections.abc import Callable

from silo.gate.accounting import PlanError, plan_of, together_of
from silo.gate.admissions import Progress
from silo.gate.journal import Journal
from silo.gate.ledger import Debit, LedgerError
from silo.gate.parts import Parts
from silo.gate.session import Session
from silo.gate.spending import debits_of, is_paid


class PrivateRounds:
    """The private runs of one handler; `past` says how far a session's run came before this gate was started."""

    def __init__(self, parts: Parts, journal: Journal, past: Callable[[Session], Progress]) -> None:
        self._parts, self._journal, self._past = parts, journal, past

    def plan(self, session: Session, examples: int) -> None:
        """Fix what a private run will do to these rows; raises Refusal where it cannot be had or cannot be counted."""
        if session.run.privacy is None:
            return
        if self._parts.ledger is None:
            raise self._journal.refuse("privacy.ledger", "this gate keeps no privacy ledger", session.run_id)
        try:
            session.plan = plan = plan_of(session.run, examples, together_of(session.run, session.sharing_noise))
        except PlanError as error:
            raise self._journal.refuse("privacy.plan", str(error), session.run_id) from None
        assert plan is not None  # noqa: S101  the run has privacy
        detail: dict[str, str | int | bool] = {
            "sampling_rate": f"{plan.a_round.sampling_rate:.6g}",
            "mode": plan.mode,
            "noise_multiplier": f"{plan.noise_multiplier:g}",
            "clip_norm": f"{plan.clip_norm:g}",
            "steps": plan.whole.steps,
            "epsilon": f"{plan.epsilon:.4g}",
            "delta": f"{plan.delta:g}",
        }
        if plan.share is not None:
            detail["noise_share"] = f"{plan.share.update:g}"
        self._journal.record("privacy.plan", run=session.run_id, detail=detail)

    def _is_paid(self, session: Session, number: int) -> bool:
        """Whether a round that was not released yet has its debit already, made since the run was admitted."""
        assert self._parts.ledger is not None and session.plan is not None  # noqa: S101, PT018  asked of private runs
        debits = debits_of(self._parts.ledger.entries, session.digest, session.run.dataset)
        since, mechanism = self._past(session).debits, session.plan.a_round
        return number > session.last_round and is_paid(debits, number, since, mechanism)

    def require_steps(self, session: Session, number: int) -> None:
        """Refuse a private round for which the plan has no steps left; one that is paid for has them."""
        plan = session.plan
        if plan is None:
            return
        if self._is_paid(session, number):
            return
        assert self._parts.ledger is not None  # noqa: S101  a plan is made beside a ledger alone
        debits = debits_of(self._parts.ledger.entries, session.digest, session.run.dataset)
        spent = sum(entry.debit.mechanism.steps for entry in debits)
        if spent + plan.a_round.steps > plan.whole.steps:
            reason = f"the run has spent {spent} of its {plan.whole.steps} private steps, which leaves no round"
            raise self._journal.refuse("privacy.plan", reason, session.run_id)

    def debit(self, session: Session, number: int, clip_norm: float) -> None:
        """Debit what the plan allows the round to cost, whatever the worker says it did (promise 7).

        A round is debited once: where the gate ended between debit and release, what was debited never left, and one
        reply alone is released for a round.
        """
        if session.plan is None or self._is_paid(session, number):
            return
        assert self._parts.ledger is not None  # noqa: S101  a plan is made beside a ledger alone
        run, plan, mechanism = session.run, session.plan, session.plan.a_round
        now, operator = self._parts.now(), session.operator.uri
        debit = Debit(
            now, run.dataset, session.run_id, number, operator, mechanism, clip_norm, plan.mode, session.digest
        )
        try:
            entry = self._parts.ledger.debit(debit)
        except LedgerError as error:
            raise self._journal.refuse("privacy.ledger", str(error), session.run_id) from None
        detail: dict[str, str | int | bool] = {
            "number": entry.number,
            "digest": entry.digest,
            "dataset": run.dataset,
            "round": number,
            "steps": mechanism.steps,
        }
        self._journal.record("privacy.debit", run=session.run_id, detail=detail)
