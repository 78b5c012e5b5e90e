"""Conducts secure aggregation: after a round's training, five short questions whose answers open one sum."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from coordinator.dialogue import Dialogue, Record
from coordinator.roster import Roster
from coordinator.rounds import Round
from coordinator.unmasking import MaskedSum, shares_of
from federation.errors import IdentityError, RunFailedError, WireError
from federation.identity import load_certificate, verify
from federation.manifest import SignedManifest
from federation.run import Run
from federation.secure_aggregation.cohort import (
    MOMENTS,
    SURVIVORS_DOMAIN,
    Advert,
    Cohort,
    Place,
    Terms,
    advert_of,
    by_name,
    bytes_by_name,
    text_of,
    verify_advert,
)
from federation.secure_aggregation.fixed_point import Integers, add_mean, integers_of
from federation.secure_aggregation.masks import SEALED_BYTES
from federation.wire import Envelope, Kind, Scalar, Weights

ATTEMPTS = 3
"""How often a round's sum is attempted, each time under fresh keys."""


class AttemptLost(WireError):  # noqa: N818  the next attempt may do
    """Too few silos were left at a step, or what they revealed opens nothing."""


@dataclass(frozen=True)
class Trained:
    """A round after its training: the model it began with, the silos that trained on it, and what they were asked."""

    number: int
    model: Weights
    question: Mapping[str, Scalar]
    nodes: Mapping[str, int]
    roster: Roster


@dataclass(frozen=True)
class Asked:
    """What a sum is of: its round, the model and scale that its cohort agrees on, how many values, who is asked what.

    `what` is what a person is told of it.
    """

    number: int
    model: str
    planned: int
    values: int
    question: Mapping[str, Scalar]
    nodes: Mapping[str, int]
    roster: Roster
    what: str


@dataclass(frozen=True)
class Opened:
    """A round's opened sum: the model plus its mean change, and the silos in it with what they count together."""

    model: Weights
    silos: tuple[str, ...]
    examples: int


class SecureRounds:
    """The sums of one run; `opened` names the silos of those that were begun to be opened by an earlier process."""

    def __init__(
        self,
        dialogue: Dialogue,
        run: Run,
        place: Callable[[int], Place],
        manifest: Callable[[], SignedManifest],
        record: Record,
        silos: Iterable[str],
        opened: Mapping[int, tuple[str, ...]],
    ) -> None:
        assert run.secure_aggregation is not None  # noqa: S101  made for such runs alone
        self.dialogue, self.place, self.manifest, self.record = dialogue, place, manifest, record
        self.wanted, self.seconds = run.secure_aggregation, run.strategy.deadline_seconds
        self.opened, self.alike = dict(opened), run.silo_dp
        self._among = tuple(sorted(silos))

    def require(self) -> None:
        """Raise RunFailedError where the threshold does not fit the silos of the run."""
        try:
            self.terms(0, "", 1, 1).check()
        except WireError as error:
            raise RunFailedError(str(error), advice="change secure_aggregation.threshold in the run") from None

    def open(self, trained: Trained, minimum: int) -> Opened:
        """Open the sum of as many of these silos as stay to the end, of `minimum` at least; raises RunFailedError."""
        counted = trained.roster.counted(alike=self.alike)
        planned, what = sum(counted.values()), f"round {trained.number}"
        digest, size = str(trained.question["digest"]), trained.model.size
        asked = Asked(trained.number, digest, planned, size, trained.question, trained.nodes, trained.roster, what)
        total, silos = self._open(asked, minimum)
        examples = sum(counted[name] for name in silos)
        model = add_mean(trained.model, total, examples, planned, self.wanted.largest_change)
        return Opened(model, silos, examples)

    def open_moments(
        self, values: int, nodes: Mapping[str, int], roster: Roster, minimum: int
    ) -> tuple[Integers, tuple[str, ...]]:
        """Open the one sum that the run normalises by, and say of whom it is; raises RunFailedError."""
        asked = Asked(MOMENTS, "", 1, values, {"round": MOMENTS}, nodes, roster, "means and variances")
        return self._open(asked, minimum)

    def _open(self, asked: Asked, minimum: int) -> tuple[Integers, tuple[str, ...]]:
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                return _Attempt(self, asked, max(minimum, self.wanted.threshold)).open()
            except AttemptLost as error:
                problem = str(error)
        raise RunFailedError(f"the sum of {asked.what} cannot be opened: {problem}")

    def terms(self, number: int, model: str, planned: int, values: int) -> Terms:
        """What the cohort of a round agrees on."""
        return Terms(self.place(number), model, planned, self.wanted.threshold, values, self._among)


class _Attempt:
    """One attempt at one sum: the steps in their order, each with the silos that the last one left."""

    def __init__(self, rounds: SecureRounds, asked: Asked, minimum: int) -> None:
        self._rounds, self._asked, self._minimum = rounds, asked, minimum
        self._number, self._threshold = asked.number, rounds.wanted.threshold
        self._nodes = dict(asked.nodes)
        # Gates that revealed shares for a sum reveal none for another: an interrupted round opens the same one.
        before = rounds.opened.get(asked.number)
        if before is not None:
            self._nodes = {name: node for name, node in self._nodes.items() if name in before}
            self._minimum = len(before)

    def open(self) -> tuple[Integers, tuple[str, ...]]:
        """All steps, to the sum and the silos in it; raises AttemptLost."""
        cohort = self._keys()
        sealed = self._share(cohort)
        total = self._mask(cohort, tuple(sorted(sealed)))
        signatures = self._confirm(cohort, total.survivors)
        shares = self._unmask(cohort, total.survivors, sealed, signatures)
        try:
            return total.open(shares), total.survivors
        except WireError as error:
            raise AttemptLost(str(error)) from None

    def _keys(self) -> Cohort:
        asked, adverts, place = self._asked, dict[str, Advert](), self._rounds.place(self._number)

        def take(name: str, answer: Envelope) -> None:
            advert = advert_of(answer.text("advert"))
            if advert.silo != name:
                raise WireError(f"{name} sent the keys of {advert.silo}")
            try:
                verify_advert(advert, place, self._rounds.manifest())
            except IdentityError as error:
                raise WireError(str(error)) from None
            adverts[name] = advert

        self._ask(Kind.KEYS, Envelope(asked.question), self._nodes, take, self._minimum)
        terms = self._rounds.terms(self._number, asked.model, asked.planned, asked.values)
        try:
            return Cohort(terms, tuple(advert for _, advert in sorted(adverts.items())))
        except WireError as error:
            raise AttemptLost(str(error)) from None

    def _share(self, cohort: Cohort) -> dict[str, dict[str, bytes]]:
        """What each silo sealed, by the silo and then by whom it is for."""
        sealed: dict[str, dict[str, bytes]] = {}

        def take(name: str, answer: Envelope) -> None:
            found = bytes_by_name(answer.text("sealed"))
            if set(found) != set(cohort.names) - {name}:
                raise WireError(f"{name} did not share with each other silo of the cohort")
            if any(len(one) != SEALED_BYTES for one in found.values()):
                # A longer one would not fit beside the others' in the question to the silo that it is for.
                raise WireError(f"{name} sealed what are no two shares, expected {SEALED_BYTES} bytes for each silo")
            sealed[name] = found

        adverts = text_of([advert.fields() for advert in cohort.adverts])
        question = Envelope({"round": self._number, "planned": cohort.terms.planned, "adverts": adverts})
        self._ask(Kind.SHARES, question, self._those(cohort.names), take, self._minimum)
        return sealed

    def _mask(self, cohort: Cohort, sharing: tuple[str, ...]) -> MaskedSum:
        total = MaskedSum(cohort, sharing)

        def take(name: str, answer: Envelope) -> None:
            if answer.weights is None:
                raise WireError(f"{name} sent no masked update")
            total.add(name, integers_of(answer.weights))

        question = self._step(cohort, sharing=text_of(list(sharing)))
        self._ask(Kind.MASKED, question, self._those(sharing), take, self._minimum)
        return total

    def _confirm(self, cohort: Cohort, survivors: tuple[str, ...]) -> dict[str, bytes]:
        """The signatures over the survivors, by silo."""
        signatures: dict[str, bytes] = {}
        content = cohort.survivors(survivors)

        def take(name: str, answer: Envelope) -> None:
            certificate = load_certificate(cohort.of(name).certificate.encode())
            try:
                signature = bytes.fromhex(answer.text("signature"))
                verify(certificate.public_key(), SURVIVORS_DOMAIN, content, signature)
            except (ValueError, IdentityError):
                raise WireError(f"{name} did not sign the survivors") from None
            signatures[name] = signature

        question = self._step(cohort, survivors=text_of(list(survivors)))
        self._ask(Kind.SURVIVORS, question, self._those(survivors), take, self._threshold)
        return signatures

    def _unmask(
        self,
        cohort: Cohort,
        survivors: tuple[str, ...],
        sealed: Mapping[str, Mapping[str, bytes]],
        signatures: Mapping[str, bytes],
    ) -> dict[str, dict[str, int]]:
        """What each silo reveals, by the silo and then by whose secret it is a share of."""
        shares: dict[str, dict[str, int]] = {}

        def take(name: str, answer: Envelope) -> None:
            shares[name] = shares_of(bytes_by_name(answer.text("shares")), sorted(sealed))

        self._rounds.opened[self._number] = survivors
        detail: dict[str, str | int | bool] = {
            "silos": ",".join(survivors),
            "lost": ",".join(sorted(set(sealed) - set(survivors))),
            "cohort": f"sha256:{cohort.digest.hex()}",
            "threshold": self._threshold,
        }
        self._rounds.record("round.unmask", round=self._number, detail=detail)
        signed = by_name(signatures)
        questions = {}
        for name in signatures:
            own = {sender: told[name] for sender, told in sealed.items() if sender != name}
            questions[name] = self._step(cohort, signatures=signed, sealed=by_name(own))
        self._ask(Kind.UNMASK, questions, self._those(signatures), take, self._threshold)
        return shares

    def _step(self, cohort: Cohort, **fields: str) -> Envelope:
        return Envelope({"round": self._number, "cohort": cohort.digest.hex(), **fields})

    def _those(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self._nodes[name] for name in names}

    def _ask(
        self,
        kind: str,
        question: Envelope | Mapping[str, Envelope],
        nodes: Mapping[str, int],
        take: Callable[[str, Envelope], None],
        minimum: int,
    ) -> None:
        """Put one step's question; raises AttemptLost where fewer than `minimum` silos answered it well."""
        if len(nodes) < minimum:
            raise AttemptLost(f"{len(nodes)} silos are left, expected at least {minimum}")
        state = Round(frozenset(nodes), minimum, time.monotonic() + self._rounds.seconds)
        group = f"{self._number} {kind.rpartition('_')[2]}"
        self._rounds.dialogue.ask(kind, question, nodes, state, take, group, self._asked.roster)
        if len(state.answered) < minimum:
            lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
            step = kind.rpartition("_")[2]
            raise AttemptLost(f"{len(state.answered)} silos answered for {step}, expected at least {minimum} ({lost})")
