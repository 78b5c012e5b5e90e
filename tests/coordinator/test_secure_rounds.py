"""The coordinator's conduct of secure aggregation among played silos: who is lost when, what is asked again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from coordinator.checkpoints import LayerShape
from coordinator.roster import Admitted, Roster
from coordinator.rounds import Round
from coordinator.secure_rounds import ATTEMPTS, Opened, SecureRounds, Trained
from federation.errors import RunFailedError, WireError
from federation.run import load_run
from federation.secure_aggregation.cohort import (
    Cohort,
    Terms,
    adverts_of,
    by_name,
    bytes_by_name,
    names_of,
    text_of,
)
from federation.secure_aggregation.fixed_point import PlainSum, carried
from federation.secure_aggregation.masks import SHARE_BYTES
from federation.wire import Envelope, Kind, weights_digest
from silo.gate.masking import Member, StepRefused
from tests.secure_aggregation.attempt import LARGEST, PLACE, Attempt, Silos, found_silos, updates_of

SIZE, THRESHOLD = 40, 3
RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: sums}
purpose: HMB
dataset: heart
features: [age]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 5, quorum: 3, deadline_seconds: 5}
secure_aggregation: {threshold: 3}
"""
STEPS = (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK)
MODEL = np.linspace(-1, 1, SIZE, dtype=np.float32)


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Silos:
    return found_silos(tmp_path_factory.mktemp("silos"), 5)


@dataclass
class PlayedSilo:
    """A silo that answers each step, and makes fresh keys whenever it is asked for them."""

    attempt: Attempt
    name: str
    member: Member = field(init=False)

    def answer(self, kind: str, question: Envelope) -> Envelope:
        if kind == Kind.KEYS:
            self.member = self.attempt.member(self.name)
            return Envelope({"advert": text_of(self.member.advert.fields())})
        if kind == Kind.SHARES:
            terms = replace(self.attempt.terms, planned=question.number("planned"), model=weights_digest(MODEL))
            cohort = Cohort(terms, adverts_of(question.text("adverts")))
            return Envelope({"sealed": by_name(self.member.share(cohort, self.attempt.silos.manifest, THRESHOLD))})
        if kind == Kind.MASKED:
            return Envelope(weights=carried(self.member.mask(names_of(question.text("sharing")), THRESHOLD)))
        if kind == Kind.SURVIVORS:
            signature = self.member.confirm(names_of(question.text("survivors")), THRESHOLD)
            return Envelope({"signature": signature.hex()})
        sealed = bytes_by_name(question.text("sealed"))
        shares = self.member.unmask(bytes_by_name(question.text("signatures")), sealed)
        return Envelope({"shares": by_name({name: one.to_bytes(SHARE_BYTES) for name, one in shares.items()})})


Spoil = Callable[[str, str, Envelope], Envelope | None]
"""(kind, silo, answer) -> what comes of the answer; None where nothing comes."""


@dataclass
class PlayedDialogue:
    """Puts each question to the silos, in this process."""

    silos: Mapping[str, PlayedSilo]
    spoil: Spoil = lambda _kind, _name, answer: answer
    asked: list[str] = field(default_factory=list)

    def ask(
        self,
        kind: str,
        question: Envelope | Mapping[str, Envelope],
        nodes: Mapping[str, int],
        state: Round,
        take: Callable[[str, Envelope], None],
        group: str,
        roster: Roster,
    ) -> None:
        self.asked.append(kind)
        for name in nodes:
            own = question if isinstance(question, Envelope) else question[name]
            try:
                answer = self.spoil(kind, name, self.silos[name].answer(kind, own))
                if answer is not None:
                    take(name, answer)
                    state.answer(name)
            except (WireError, StepRefused) as error:
                state.drop(name, str(error))
        state.close()


@dataclass
class Conducted:
    """A round's sum among five played silos."""

    silos: Silos
    spoil: Spoil = lambda _kind, _name, answer: answer
    opened: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    records: list[tuple[str, Any]] = field(default_factory=list)
    nodes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        names = self.silos.names
        self.examples = {name: 50 + 30 * at for at, name in enumerate(names)}
        self.attempt = Attempt(self.silos, updates_of(names, SIZE), self.examples, THRESHOLD)
        self.dialogue = PlayedDialogue({name: PlayedSilo(self.attempt, name) for name in names}, self.spoil)
        self.rounds = SecureRounds(
            self.dialogue,  # type: ignore[arg-type]
            load_run(RUN).model,
            lambda _: PLACE,
            lambda: self.silos.manifest,
            lambda action, **fields: self.records.append((action, fields)),
            names,
            self.opened,
        )

    def open(self, minimum: int = THRESHOLD) -> Opened:
        shapes = (LayerShape("dense", (SIZE,)),)
        admitted = {name: Admitted(at, self.examples[name], shapes, "") for at, name in enumerate(self.silos.names)}
        nodes = {name: admitted[name].node_id for name in self.nodes or self.silos.names}
        question = {"round": PLACE.round, "digest": weights_digest(MODEL)}
        return self.rounds.open(Trained(PLACE.round, MODEL, question, nodes, Roster(admitted)), minimum)

    def expect(self, opened: Opened, names: tuple[str, ...]) -> None:
        """The model has the bits of the unmasked fixed-point sum of these silos."""
        plain = PlainSum(SIZE, sum(self.examples.values()), LARGEST)
        for name in names:
            plain.add(self.attempt.updates[name], self.examples[name])
        assert (opened.silos, opened.examples) == (names, plain.examples)
        np.testing.assert_array_equal(opened.model, plain.model_after(MODEL))


def losing(step: str, *names: str) -> Spoil:
    """From one step on nothing comes of these silos."""
    lost: set[str] = set()

    def spoil(kind: str, name: str, answer: Envelope) -> Envelope | None:
        if kind == step and name in names:
            lost.add(name)
        return None if name in lost else answer

    return spoil


def test_all_silos_sum_has_the_bits_of_the_unmasked_one(silos: Silos) -> None:
    conducted = Conducted(silos)
    conducted.expect(conducted.open(), silos.names)
    assert conducted.dialogue.asked == list(STEPS)
    ((action, fields),) = conducted.records
    assert (action, fields["round"]) == ("round.unmask", PLACE.round)
    assert fields["detail"]["silos"] == ",".join(silos.names)
    assert (fields["detail"]["lost"], fields["detail"]["threshold"]) == ("", THRESHOLD)


@pytest.mark.parametrize("step", STEPS)
def test_two_silos_of_five_lost_at_any_step_cost_no_attempt(silos: Silos, step: str) -> None:
    lost = silos.names[1], silos.names[3]
    conducted = Conducted(silos, losing(step, *lost))
    # One that is lost once its masked update has come is in the sum.
    left = silos.names if step in {Kind.SURVIVORS, Kind.UNMASK} else tuple(n for n in silos.names if n not in lost)
    conducted.expect(conducted.open(), left)
    assert conducted.dialogue.asked == list(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_nothing_is_opened_and_the_round_fails(silos: Silos, step: str) -> None:
    conducted = Conducted(silos, losing(step, *silos.names[:3]))
    with pytest.raises(RunFailedError, match="cannot be opened"):
        conducted.open()


def test_an_attempt_that_is_lost_is_made_again_under_fresh_keys(silos: Silos) -> None:
    """Three of five are away for one step, and back."""
    away = set(silos.names[:3])

    def spoil(kind: str, name: str, answer: Envelope) -> Envelope | None:
        if kind == Kind.MASKED and name in away:
            away.remove(name)
            return None
        return answer

    conducted = Conducted(silos, spoil)
    conducted.expect(conducted.open(), silos.names)
    assert conducted.dialogue.asked == [*STEPS[:3], *STEPS]


def test_once_shares_were_asked_for_the_next_attempt_is_at_the_same_sum(silos: Silos) -> None:
    """Gates that revealed shares for a sum refuse another: a silo that comes back has to wait for the next round."""
    silent = {"yes"}

    def spoil(kind: str, name: str, answer: Envelope) -> Envelope | None:
        if kind == Kind.MASKED and name == silos.names[0] and silent:
            return None
        if kind == Kind.UNMASK and name == silos.names[-1]:
            silent.clear()
        return None if kind == Kind.UNMASK and conducted.dialogue.asked.count(Kind.UNMASK) == 1 else answer

    conducted = Conducted(silos, spoil)
    conducted.expect(conducted.open(), silos.names[1:])
    assert conducted.dialogue.asked == [*STEPS, *STEPS]


def test_a_run_that_is_taken_up_opens_the_sum_that_was_begun(silos: Silos) -> None:
    begun = silos.names[:4]
    conducted = Conducted(silos, opened={PLACE.round: begun})
    conducted.expect(conducted.open(), begun)
    without = Conducted(silos, opened={PLACE.round: begun}, nodes=silos.names[1:])
    with pytest.raises(RunFailedError, match="3 silos are left, expected at least 4"):
        without.open()
    assert without.dialogue.asked == []


def test_fewer_silos_than_the_rounds_minimum_are_not_summed(silos: Silos) -> None:
    conducted = Conducted(silos, losing(Kind.KEYS, silos.names[0]))
    with pytest.raises(RunFailedError, match="expected at least 5"):
        conducted.open(minimum=5)
    assert conducted.dialogue.asked == [Kind.KEYS] * ATTEMPTS


def spoiled(step: str, change: Callable[[Envelope], Envelope]) -> Callable[[Silos], Spoil]:
    def of(silos: Silos) -> Spoil:
        return lambda kind, name, answer: change(answer) if (kind, name) == (step, silos.names[0]) else answer

    return of


@pytest.mark.parametrize(
    ("spoil", "left_out"),
    [
        (spoiled(Kind.KEYS, lambda _: Envelope({"advert": "{}"})), True),
        (spoiled(Kind.KEYS, lambda _: Envelope()), True),
        (
            spoiled(
                Kind.KEYS,
                lambda answer: Envelope({"advert": answer.text("advert").replace('"silo-00"', '"silo-01"')}),
            ),
            True,
        ),
        (
            spoiled(
                Kind.KEYS,
                lambda answer: Envelope({"advert": answer.text("advert").replace('"mask_key":"', '"mask_key":"00')}),
            ),
            True,
        ),
        (spoiled(Kind.SHARES, lambda _: Envelope({"sealed": "{}"})), True),
        (spoiled(Kind.SHARES, lambda _: Envelope({"sealed": "nothing"})), True),
        (spoiled(Kind.MASKED, lambda _: Envelope()), True),
        (spoiled(Kind.MASKED, lambda _: Envelope(weights=np.zeros(SIZE - 1, dtype=np.float32))), True),
        (spoiled(Kind.SURVIVORS, lambda _: Envelope({"signature": "00"})), False),
        (spoiled(Kind.SURVIVORS, lambda _: Envelope({"signature": "no hex"})), False),
        (spoiled(Kind.UNMASK, lambda _: Envelope({"shares": '{"stranger": ""}'})), False),
        (spoiled(Kind.UNMASK, lambda _: Envelope({"shares": "{}"})), False),
    ],
)
def test_a_silo_that_answers_without_form_is_left_out_and_no_other(
    silos: Silos, spoil: Callable[[Silos], Spoil], *, left_out: bool
) -> None:
    conducted = Conducted(silos, spoil(silos))
    conducted.expect(conducted.open(), silos.names[1:] if left_out else silos.names)
    assert conducted.dialogue.asked == list(STEPS)


def test_shares_that_open_nothing_leave_the_sum_closed(silos: Silos) -> None:
    def spoil(kind: str, name: str, answer: Envelope) -> Envelope:
        if kind != Kind.UNMASK or name not in silos.names[:3]:
            return answer
        told = {silo: bytes(SHARE_BYTES) for silo in bytes_by_name(answer.text("shares"))}
        return Envelope({"shares": by_name(told)})

    with pytest.raises(RunFailedError, match="are not those of the secret"):
        Conducted(silos, spoil).open()


def test_a_threshold_that_does_not_fit_the_silos_fails_the_run(silos: Silos) -> None:
    conducted = Conducted(silos)
    conducted.rounds.require()
    small = SecureRounds(
        conducted.dialogue,  # type: ignore[arg-type]
        load_run(RUN).model,
        lambda _: PLACE,
        lambda: silos.manifest,
        lambda *_, **__: None,
        [*silos.names, "silo-05"],
        {},
    )
    with pytest.raises(RunFailedError, match="threshold 3 for 6 silos"):
        small.require()


def test_two_sums_of_one_round_have_a_silo_in_common_that_opened_both() -> None:
    """For every threshold that is taken any two sets of so many silos meet; for each other one two do not."""
    for silos in range(2, 8):
        names = tuple(f"silo-{at}" for at in range(silos))
        for threshold in range(2, silos + 1):
            sets = [set(some) for some in itertools.combinations(names, threshold)]
            apart = any(not one & other for one, other in itertools.combinations(sets, 2))
            terms = Terms(PLACE, "", 1, threshold, 1, names)
            if apart:
                with pytest.raises(WireError, match="more than half"):
                    terms.check()
            else:
                terms.check()


def test_what_a_log_says_of_sums_is_read_back() -> None:
    from coordinator.recorded import logged_of

    def entry(action: str, **detail: str) -> dict[str, Any]:
        return {"run": "run-1", "action": action, "round": 2, "detail": detail}

    found = logged_of([entry("round.unmask", silos="a,b"), entry("round.end", model="m")], "run-1")
    assert (found.opened, found.closed) == ({2: ("a", "b")}, {2: "m"})
