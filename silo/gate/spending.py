"""What a policy is told of a run's privacy: the plan where it is known, what the ledger has, and what both come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime

from federation.run import Run
from policies.document import Document
from policies.model import SiloPolicy
from policies.request import Privacy
from silo.gate.accounting import MOST_NOISE, Mechanism, epsilon_of
from silo.gate.ledger import Entry, Ledger, privacy_facts, within
from silo.gate.session import Session


def facts_of(ledger: Ledger | None) -> Callable[[Session, Document[SiloPolicy], datetime], Privacy | None]:
    """The facts of a session beside a ledger, at the delta and over the window of the policy's budget.

    Until the view is built nobody knows how many rows there are, and so what a run costs: it is then taken for the
    least that it can be, and asked about again once its plan is made, before anything is trained.
    """

    def facts(session: Session, policy: Document[SiloPolicy], now: datetime) -> Privacy | None:
        run, wanted = session.run, policy.model.privacy
        masked = run.secure_aggregation is not None
        if run.privacy is None:
            return Privacy(mode="none", secure_aggregation=masked)
        if ledger is None:
            return None
        budget = wanted.budget if wanted else None
        delta = budget.delta if budget else run.privacy.delta
        since = budget.window.before(now) if budget else now
        if session.plan is None:
            return _before_the_view(run, ledger, since, delta, now)
        found = privacy_facts(session.plan, session.digest, run.dataset, ledger.entries, since, delta, now)
        return Privacy(
            mode=found.mode,
            clip_norm=found.clip_norm,
            noise_multiplier=found.noise_multiplier,
            epsilon=found.epsilon,
            spent=found.spent,
            delta=found.delta,
            secure_aggregation=masked,
        )

    return facts


def epsilon_left(ledger: Ledger, policy: Document[SiloPolicy], now: datetime) -> float:
    """The least that is left of any dataset's budget; not a number where the policy has no budget."""
    budget = policy.model.privacy.budget if policy.model.privacy else None
    if budget is None:
        return math.nan
    since = budget.window.before(now)
    debits = [entry.debit for entry in within(ledger.entries, since, now)]
    spent = (
        epsilon_of([debit.mechanism for debit in debits if debit.dataset == dataset], budget.delta)
        for dataset in policy.model.datasets
    )
    return budget.epsilon - max(spent, default=0.0)


def debits_of(entries: Iterable[Entry], run_digest: str, dataset: str) -> list[Entry]:
    """What one signed run was debited for a dataset."""
    return [entry for entry in entries if entry.debit.is_of(run_digest, dataset)]


def is_paid(debits: Iterable[Entry], number: int, since: int, mechanism: Mechanism) -> bool:
    """Whether a round has a debit for this very mechanism that came after the first `since` lines of the ledger.

    One that was debited for other rows, before the gate was started anew, pays for another mechanism.
    """
    return any(
        entry.number > since and (entry.debit.round, entry.debit.mechanism) == (number, mechanism) for entry in debits
    )


def _before_the_view(run: Run, ledger: Ledger, since: datetime, delta: float, now: datetime) -> Privacy:
    assert run.privacy is not None  # noqa: S101  asked of private runs alone
    debits = [entry.debit for entry in within(ledger.entries, since, now)]
    spent = [debit.mechanism for debit in debits if debit.dataset == run.dataset]
    noise = run.privacy.noise_multiplier
    return Privacy(
        mode=run.privacy.mode,
        clip_norm=run.privacy.largest_clip_norm,
        noise_multiplier=MOST_NOISE if noise is None else noise,
        epsilon=0.0,
        spent=epsilon_of(spent, delta),
        delta=delta,
        secure_aggregation=run.secure_aggregation is not None,
    )
