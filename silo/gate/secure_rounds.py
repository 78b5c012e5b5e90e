"""What a gate does for a run with secure aggregation: its update leaves masked, and opens as part of one sum alone.

For one round of a signed run a gate reveals shares for one sum: one set of silos, one model, one scale. That is in its
log before the shares leave. As a sum takes the shares of more than half of the run's silos, no round has two. Before
the first round the same is done for what a run normalises by, where it asks for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from federation.encodings import received
from federation.errors import IdentityError, ManifestError, WireError
from federation.limits import LIMITS
from federation.secure_aggregation.cohort import (
    MOMENTS,
    Cohort,
    Place,
    Terms,
    adverts_of,
    by_name,
    bytes_by_name,
    names_of,
    text_of,
)
from federation.secure_aggregation.fixed_point import carried
from federation.secure_aggregation.masks import SHARE_BYTES
from federation.wire import Envelope, Kind, Weights, weights_digest
from silo.gate.accounting import together_of
from silo.gate.answers import question_of, round_fields
from silo.gate.journal import Journal
from silo.gate.masking import Member, StepRefused, Sums, Update
from silo.gate.parts import Parts
from silo.gate.session import Session


class SecureRounds:
    """The rounds of one handler's runs with secure aggregation; what was opened before is in the gate's history."""

    def __init__(self, parts: Parts, journal: Journal, moments: Callable[[Session], Sums]) -> None:
        self._parts, self._journal, self._moments = parts, journal, moments
        self._sums = parts.history.sums
        self._member: Member | None = None
        self._model = ""

    def require(self, session: Session) -> None:
        """Refuse a run whose sums this gate cannot take part in, or which two sets of silos could open."""
        wanted = session.run.secure_aggregation
        if wanted is None:
            return
        if self._parts.membership is None or self._parts.replies is None:
            raise self._journal.refuse(
                "secure.state", "this gate keeps no replies, or has no key to sign with", session.run_id
            )
        try:
            _terms(session, Place("", session.run_id, 0), "", 1, 1).check()
        except WireError as error:
            raise self._journal.refuse("secure.cohort", str(error), session.run_id) from None

    def answer(self, session: Session, kind: str, envelope: Envelope) -> Envelope:
        """Answer one step; raises Refusal, or WireError for what is no such question."""
        if session.run.secure_aggregation is None:
            raise self._journal.refuse("secure.state", "this run has no secure aggregation", session.run_id)
        try:
            if kind == Kind.KEYS:
                return self._keys(session, envelope)
            member = self._of(session, envelope)
            if kind == Kind.SHARES:
                return self._share(session, member, envelope)
            if member.cohort is None or envelope.text("cohort") != member.cohort.digest.hex():
                raise StepRefused("this silo has not taken this cohort", rule="secure.cohort")
            if kind == Kind.MASKED:
                return self._mask(session, member, member.cohort, envelope)
            if kind == Kind.SURVIVORS:
                survivors = names_of(envelope.text("survivors"))
                self._require_unopened(member, member.cohort, survivors)
                signature = member.confirm(survivors, self._minimum(session))
                return Envelope({"status": "ok", "signature": signature.hex()})
            return self._unmask(session, member, member.cohort, envelope)
        except StepRefused as error:
            raise self._journal.refuse(error.rule, str(error), session.run_id) from None
        except (IdentityError, ManifestError) as error:
            raise self._journal.refuse("secure.keys", str(error), session.run_id) from None

    def _keys(self, session: Session, envelope: Envelope) -> Envelope:
        """Make fresh keys for what was decided on; those made before, and what they masked, are dropped."""
        number = envelope.number("round")
        masked: Update | Sums
        masked, model = (self._moments(session), "") if number == MOMENTS else self._update(session, number, envelope)
        assert self._parts.membership is not None  # noqa: S101  `require` looked
        key, certificate = self._parts.membership.signer()
        self._member = Member(self._parts.peer.name, key, certificate, _place(session, number), masked)
        self._model = model
        return Envelope({"status": "ok", "advert": text_of(self._member.advert.fields())})

    def _update(self, session: Session, number: int, envelope: Envelope) -> tuple[Update, str]:
        """The update of a round that was decided on, and the model it goes out from; raises StepRefused."""
        question = question_of(session, Kind.TRAIN, number, envelope, round_fields(session, number, envelope).get("mu"))
        assert self._parts.replies is not None  # noqa: S101  `require` looked
        reply = self._parts.replies.find(question) if number <= session.last_round else None
        if reply is None or reply.weights is None:
            raise StepRefused("this silo has no update that it decided on for this question", rule="secure.state")
        assert session.run.secure_aggregation is not None  # noqa: S101  `answer` looked
        assert session.prepared is not None  # noqa: S101  a session is kept only once prepared
        largest = session.run.secure_aggregation.largest_change
        return Update(reply.weights, session.counted, largest, session.prepared.view_digest), question.model

    def _of(self, session: Session, envelope: Envelope) -> Member:
        if self._member is None or self._member.place != _place(session, envelope.number("round")):
            raise StepRefused("this silo holds no keys for this round since its gate started", rule="secure.state")
        return self._member

    def _share(self, session: Session, member: Member, envelope: Envelope) -> Envelope:
        planned = envelope.number("planned")
        least = member.update.examples
        if not least <= planned <= LIMITS.examples * LIMITS.members:
            raise WireError(f"got {planned} planned examples, expected at least the {least} of this silo")
        assert self._parts.membership is not None  # noqa: S101  `require` looked
        terms = _terms(session, member.place, self._model, planned, member.update.size)
        adverts = adverts_of(envelope.text("adverts"))
        try:
            cohort = Cohort(terms, adverts)
        except WireError as error:
            raise StepRefused(str(error), rule="secure.cohort") from None
        sealed = member.share(cohort, self._parts.membership.manifest(), self._minimum(session))
        return Envelope({"status": "ok", "sealed": by_name(sealed)})

    def _mask(self, session: Session, member: Member, cohort: Cohort, envelope: Envelope) -> Envelope:
        among = hashlib.sha256(",".join(cohort.terms.among).encode()).hexdigest()
        before = self._sums.among.get(cohort.summed, among)
        if before != among:
            raise StepRefused("the silos of the run changed since this round was first masked", rule="secure.cohort")
        sharing = names_of(envelope.text("sharing"))
        masked = carried(member.mask(sharing, self._minimum(session)))
        detail: dict[str, str | int | bool] = {
            "masked": weights_digest(masked),
            "cohort": f"sha256:{cohort.digest.hex()}",
            "silos": ",".join(sharing),
            "planned": cohort.terms.planned,
            "shrunk": member.update.shrunk,
            "summed": cohort.summed,
            "among": among,
        }
        self._journal.record("round.mask", run=session.run_id, number=member.place.round, detail=detail)
        self._sums.masked(cohort.summed, among)
        return Envelope({"status": "ok"}, weights=masked)

    def _unmask(self, session: Session, member: Member, cohort: Cohort, envelope: Envelope) -> Envelope:
        survivors = member.confirmed()
        mark = self._require_unopened(member, cohort, survivors)
        signatures = bytes_by_name(envelope.text("signatures"))
        shares = member.unmask(signatures, bytes_by_name(envelope.text("sealed")))
        detail: dict[str, str | int | bool] = {
            "cohort": f"sha256:{cohort.digest.hex()}",
            "silos": ",".join(survivors),
            "summed": cohort.summed,
            "mark": mark,
        }
        self._journal.record("round.unmask", run=session.run_id, number=member.place.round, detail=detail)
        self._sums.unmasked(cohort.summed, mark)
        told = {name: share.to_bytes(SHARE_BYTES) for name, share in shares.items()}
        return Envelope({"status": "ok", "shares": by_name(told)})

    def _require_unopened(self, member: Member, cohort: Cohort, survivors: tuple[str, ...]) -> str:
        """Refuse another sum of a round of which this gate helped to open one; the same sum tells nothing new."""
        mark = cohort.mark(survivors, member.update.basis)
        if self._sums.opened.get(cohort.summed, mark) != mark:
            reason = (
                "of this round of this signed run another sum was opened already, and the difference would show; "
                "to train again, submit the run with another seed"
            )
            raise StepRefused(reason, rule="secure.repeated")
        return mark

    @staticmethod
    def _minimum(session: Session) -> int:
        """The fewest silos that a sum may be of: the quorum of the signed run, which the policy bounded, or more.

        Noise of silo-level privacy is shared by so many: the same function says it for both.
        """
        return together_of(session.run, session.sharing_noise)


def kept(session: Session, reply: Envelope, before: Weights) -> Envelope:
    """A reply as it is put on disk: under secure aggregation with the change of the model and not the model."""
    if session.run.secure_aggregation is None or reply.weights is None:
        return reply
    return replace(reply, weights=(reply.weights - before).astype(np.float32))


def trained(session: Session, reply: Envelope, before: Weights) -> Weights:
    """The weights after training that a kept reply stands for; raises WireError for one without any."""
    if session.run.secure_aggregation is None or reply.weights is None:
        return received(session.run.updates, reply, before)
    return (before + reply.weights).astype(np.float32)


def released(session: Session, reply: Envelope) -> Envelope:
    """A reply as it leaves: under secure aggregation without weights, which are masked once the cohort is known."""
    return reply if session.run.secure_aggregation is None else replace(reply, weights=None)


def _place(session: Session, number: int) -> Place:
    # The text and the app, not their one submission: signed again, they train to the same updates.
    return Place(session.signed.content_digest, session.run_id, number)


def _among(session: Session) -> tuple[str, ...]:
    return tuple(sorted(party.name for party in session.parties if party.role == "silo"))


def _terms(session: Session, place: Place, model: str, planned: int, values: int) -> Terms:
    wanted = session.run.secure_aggregation
    assert wanted is not None  # noqa: S101  asked of such runs alone
    return Terms(place, model, planned, wanted.threshold, values, _among(session))
