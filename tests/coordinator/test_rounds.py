from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coordinator.rounds import Round, Verdict, quorum_of

DEADLINE = 100.0
SILOS = ("a", "b", "c")


def round_of(states: tuple[str, ...], quorum: int) -> Round:
    made = Round(frozenset(SILOS), quorum, DEADLINE)
    for silo, state in zip(SILOS, states, strict=True):
        match state:
            case "answered":
                made.answer(silo)
            case "dropped":
                made.drop(silo, "lost")
            case "refused":
                made.refuse(silo, "policy")
    return made


@pytest.mark.parametrize("quorum", [1, 2, 3])
@pytest.mark.parametrize("states", list(itertools.product(["waiting", "answered", "dropped", "refused"], repeat=3)))
def test_the_verdict_of_every_state(states: tuple[str, ...], quorum: int):
    """A round waits while waiting can change what becomes of it, and no longer than its deadline."""
    answered, waiting = states.count("answered"), states.count("waiting")
    for now in (0.0, DEADLINE - 1e-9):
        if waiting and answered + waiting >= quorum:
            expected = Verdict.WAIT
        else:
            expected = Verdict.CLOSE if answered >= quorum else Verdict.FAIL
        assert round_of(states, quorum).verdict(now) is expected
    for now in (DEADLINE, DEADLINE + 1):
        expected = Verdict.CLOSE if answered >= quorum else Verdict.FAIL
        assert round_of(states, quorum).verdict(now) is expected


def test_a_round_that_fails_early_could_not_have_closed():
    for states, quorum in itertools.product(itertools.product(["waiting", "answered", "dropped"], repeat=3), (1, 2, 3)):
        if round_of(states, quorum).verdict(0) is Verdict.FAIL:
            best = tuple("answered" if state == "waiting" else state for state in states)
            assert round_of(best, quorum).verdict(0) is Verdict.FAIL


def test_closing_a_round_records_who_was_late():
    made = round_of(("answered", "dropped", "waiting"), 1)
    assert made.close() == frozenset({"c"})
    assert made.dropped == {"b": "lost", "c": "no answer before the deadline"}
    assert made.close() == frozenset()
    made.answer("c")
    assert made.answered == {"a"}


@pytest.mark.parametrize(("quorum", "silos", "needed"), [("all", 3, 3), ("all", 1, 1), (2, 3, 2), (5, 3, 5)])
def test_the_quorum_is_a_number_or_all(quorum: int | str, silos: int, needed: int):
    assert quorum_of(quorum, silos) == needed


class RoundMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, the first thing that a silo does is what counts."""

    def __init__(self) -> None:
        super().__init__()
        self.round = Round(frozenset(SILOS), 2, DEADLINE)
        self.first: dict[str, str] = {}

    silos = st.sampled_from([*SILOS, "stranger"])

    def note(self, silo: str, what: str) -> None:
        if silo in SILOS:
            self.first.setdefault(silo, what)

    @rule(silo=silos)
    def answer(self, silo: str) -> None:
        self.round.answer(silo)
        self.note(silo, "answered")

    @rule(silo=silos)
    def drop(self, silo: str) -> None:
        self.round.drop(silo, "lost")
        self.note(silo, "lost")

    @rule(silo=silos)
    def refuse(self, silo: str) -> None:
        self.round.refuse(silo, "policy")
        self.note(silo, "policy")

    @invariant()
    def each_silo_counts_once(self) -> None:
        assert self.round.answered == {silo for silo, what in self.first.items() if what == "answered"}
        assert self.round.dropped == {silo: what for silo, what in self.first.items() if what != "answered"}
        assert self.round.refused == {silo for silo, what in self.first.items() if what == "policy"}
        assert self.round.waiting_for == set(SILOS) - set(self.first)

    @invariant()
    def a_verdict_once_reached_stays(self) -> None:
        verdict = self.round.verdict(0)
        reached = getattr(self, "reached", None)
        assert reached in {None, verdict}
        if verdict is not Verdict.WAIT:
            self.reached = verdict


TestRoundMachine = RoundMachine.TestCase
TestRoundMachine.settings = settings(max_examples=80, stateful_step_count=10, deadline=None, derandomize=True)
