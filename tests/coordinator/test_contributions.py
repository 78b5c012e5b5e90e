"""What a silo says of itself is bounded before it stands in a passport."""

from __future__ import annotations

import math
from typing import Any

import pytest

from coordinator.contributions import Contributions
from federation.errors import WireError
from federation.passport import Spent
from federation.wire import Envelope

FIRST, SECOND = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def answer(**changes: Any) -> Envelope:
    return Envelope({"examples": 140, "policy": FIRST, **changes})


def test_each_silo_has_its_rows_its_rounds_and_every_policy_it_answered_under() -> None:
    found = Contributions()
    found.admitted("a", answer(epsilon=2.5, delta=1e-5))
    found.admitted("b", answer(examples=7))
    found.folded(1, ["a", "b"])
    found.answered("a", answer(policy=SECOND))
    found.folded(2, ["a"])
    found.admitted("b", answer(examples=7))
    found.folded(3, ["a", "b"])
    each = found.of_each()
    assert (each["a"].policies, each["a"].rounds, each["a"].privacy) == (
        (FIRST, SECOND),
        ((1, 3),),
        Spent(epsilon=2.5, delta=1e-5),
    )
    assert (each["b"].policies, each["b"].rounds, each["b"].privacy) == ((FIRST,), ((1, 1), (3, 3)), None)
    assert (each["a"].examples, each["b"].examples) == (140, 7)
    assert (found.cost("a"), found.cost("b")) == ({"epsilon": 2.5, "delta": 1e-5}, {})


def test_an_epsilon_without_bound_is_said_so() -> None:
    found = Contributions()
    found.admitted("a", answer(epsilon=math.inf, delta=1e-5))
    assert found.of_each()["a"].privacy == Spent(epsilon=None, delta=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "none"},
        {"policy": 5},
        {"policy": FIRST + "\n"},
        {"epsilon": -1.0, "delta": 1e-5},
        {"epsilon": math.nan, "delta": 1e-5},
        {"epsilon": 1.0},
        {"epsilon": 1.0, "delta": 0.0},
        {"epsilon": "3", "delta": 1e-5},
    ],
)
def test_what_cannot_be_is_refused_and_not_kept(changes: dict[str, Any]) -> None:
    found = Contributions()
    with pytest.raises(WireError):
        found.admitted("a", answer(**changes))
    assert found.of_each() == {}
