"""That all silos took the same models, as this gate sees it: what the others signed, and what it signs itself.

The history that it signed is in its log with the ingress of the model, before the worker gets it: so it signs one
model a step, however it ended in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from audit.errors import VerificationError
from federation.receipts import (
    RECEIPTS,
    SILENT,
    Shown,
    Step,
    beginning,
    element,
    follow,
    require_receipts,
    step_of,
)
from federation.wire import Envelope
from silo.gate.admissions import Progress
from silo.gate.facts import quorum_of
from silo.gate.journal import Journal
from silo.gate.parts import Parts, Refusal
from silo.gate.session import Session


class Agreement:
    """The receipts of one handler's runs; `past` gives what this silo took of a session's run before."""

    def __init__(self, parts: Parts, journal: Journal, past: Callable[[Session], Progress]) -> None:
        self._parts, self._journal, self._past = parts, journal, past

    def shown(self, session: Session, envelope: Envelope) -> Shown:
        """What a message shows of receipts, unverified; raises Refusal where it cannot be read."""
        try:
            return Shown.load(envelope.config.get(RECEIPTS))
        except VerificationError as error:
            raise self._refusal(session, error) from None

    def published(self, session: Session, shown: Shown) -> dict[str, str]:
        """What the published entry has to say of it: the silos whose receipts the message does not bring."""
        first = shown.base + len(shown.links) == 0
        return {} if first else {SILENT: shown.silent(session.silos)}

    def require(
        self, session: Session, shown: Shown, action: str, number: int, model: str, said: Mapping[str, str]
    ) -> Step:
        """The step of a published model in the run's history; raises Refusal (promise 10).

        Refused is a model where what this silo took before is not what a quorum of the run's silos signed.
        """
        start, link = beginning(session.run_id, session.digest), element(action, number, model, said)
        taken = self._past(session).taken
        try:
            before, step = follow(shown, start, taken, step_of(action, number), link)
            own = self._parts.peer.name if before.number in taken else None
            require_receipts(shown, before, session.log_keys, quorum_of(session.run, len(session.silos)), own)
        except VerificationError as error:
            raise self._refusal(session, error) from None
        return step

    def took(self, session: Session, step: Step) -> None:
        """Sign for a step once its ingress is in the log."""
        self._past(session).took(step.number, step.history)
        session.receipt = self._parts.sign_receipt(step.number, step.history)

    def _refusal(self, session: Session, error: VerificationError) -> Refusal:
        return self._journal.refuse("ingress.receipts", str(error)[:2000], session.run_id)
