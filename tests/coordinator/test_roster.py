from __future__ import annotations

import math

import pytest

from coordinator.checkpoints import LayerShape
from coordinator.roster import Admitted, Roster
from federation.errors import RunFailedError

SHAPES = (LayerShape("w", (3, 2)),)
NEVER = -math.inf


def admitted(node_id: int, examples: int = 10, shapes: tuple[LayerShape, ...] = SHAPES) -> Admitted:
    return Admitted(node_id, examples, shapes, "sha256:0")


def never(_node_id: int) -> float:
    return NEVER


@pytest.fixture
def roster() -> Roster:
    return Roster({"b": admitted(2, 20), "a": admitted(1, 10)})


def test_everyone_admitted_can_be_asked(roster: Roster):
    assert list(roster.available(never).items()) == [("a", 1), ("b", 2)]
    assert roster.planned_examples == 30
    assert roster.shapes() == SHAPES


def test_silos_with_different_models_make_no_run():
    other = (LayerShape("w", (2, 3)),)
    with pytest.raises(RunFailedError, match="different model shapes"):
        Roster({"a": admitted(1), "b": admitted(2, shapes=other)}).shapes()


def test_a_silo_that_missed_a_round_is_asked_again_when_it_is_seen(roster: Roster):
    roster.missed("a", 50.0)
    assert roster.available({1: 50.0, 2: NEVER}.__getitem__) == {"b": 2}
    assert roster.available({1: 50.1, 2: NEVER}.__getitem__) == {"a": 1, "b": 2}
    roster.answered("a")
    assert roster.available(never) == {"a": 1, "b": 2}


def test_a_silo_that_forgot_the_run_is_asked_for_admission_first(roster: Roster):
    roster.forgot("a")
    assert roster.forgotten() == {"a": 1}
    assert roster.available(lambda _: math.inf) == {"b": 2}
    assert roster.returned("a", admitted(1, 10))
    assert roster.forgotten() == {}
    assert roster.available(never) == {"a": 1, "b": 2}


@pytest.mark.parametrize("again", [admitted(1, 11), admitted(1, 10, (LayerShape("w", (6,)),))])
def test_a_silo_that_comes_back_with_other_data_or_another_model_stays_out(roster: Roster, again: Admitted):
    roster.forgot("a")
    assert not roster.returned("a", again)
    assert (roster.forgotten(), roster.available(lambda _: math.inf)) == ({}, {"b": 2})


def test_a_silo_that_does_not_admit_the_run_again_stays_out(roster: Roster):
    roster.forgot("a")
    roster.left("a")
    assert (roster.forgotten(), roster.available(lambda _: math.inf)) == ({}, {"b": 2})
    assert roster.planned_examples == 30
