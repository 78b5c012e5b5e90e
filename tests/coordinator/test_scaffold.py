"""SCAFFOLD with both sides' arithmetic: by hand, against the paper's algorithm, and for its laws."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.strategies import ServerStrategy, strategy_of
from federation.errors import RunFailedError, WireError
from federation.run import Strategy
from federation.wire import Weights
from simulation.control_variates import Controls

Vector = npt.NDArray[np.float64]


class Quadratic:
    """A silo with the loss a/2 (y - b)^2, whose gradient is a (y - b)."""

    def __init__(self, a: Vector | float, b: Vector | float) -> None:
        self.a, self.b = np.asarray(a), np.asarray(b)

    def gradient(self, y: Vector) -> Vector:
        return np.asarray(self.a * (y - self.b))


def scaffold(silos: int, rate: float) -> ServerStrategy:
    server = strategy_of(Strategy(name="scaffold", rounds=1))
    server.admitted(silos, rate)
    return server


class Federation:
    """Silos of quadratic losses under a strategy, by the kit's own arithmetic; all count the same rows."""

    def __init__(self, silos: Mapping[str, Quadratic], rate: float, steps: int, values: int) -> None:
        self.silos, self.rate, self.steps = silos, rate, steps
        self.server = scaffold(len(silos), rate)
        self.controls = Controls(rate, values)
        self.model: Weights = np.zeros(values, dtype=np.float32)

    @property
    def control(self) -> Weights:
        return self.server.outgoing(self.model)[self.model.size :]

    def round(self, folded: Collection[str], lost: Collection[str] = ()) -> Weights:
        fold = self.server.begin(self.model, 10 * len(self.silos))
        self.controls.begin(self.server.outgoing(self.model))
        for name in folded:
            correction = self.controls.correction(name)
            assert correction is not None
            y = self.model.astype(np.float64)
            for _ in range(self.steps):
                y = y - self.rate * (self.silos[name].gradient(y) + correction)
            released = y.astype(np.float32)
            if name not in lost:
                fold.fold(name, released, 10, {}, self.steps)
                self.controls.released(name, released, self.steps)
        self.model = fold.result()
        return self.model


def test_two_rounds_by_hand() -> None:
    """Losses (y-4)^2/2 and 2(y+1)^2/2, eta 0.5, two steps, x = c = c_a = c_b = 0.

    Round 1: a: 0 -> 2 -> 3, c_a = (0-3)/1 = -3. b: 0 -> -1 -> -1, c_b = 1. x = 1, c = (-3 + 1)/2 = -1.
    Round 2: a, corrected by c - c_a = 2: 1 -> 1 - .5(-3 + 2) = 1.5 -> 1.5 - .5(-2.5 + 2) = 1.75, c_a becomes
    -3 + 1 + (1 - 1.75)/1 = -2.75. b, by c - c_b = -2: 1 -> 1 - .5(4 - 2) = 0 -> 0 - .5(2 - 2) = 0, c_b becomes
    1 + 1 + 1 = 3. x = 0.875, c = (-2.75 + 3)/2 = 0.125.
    """
    federation = Federation({"a": Quadratic(1, 4), "b": Quadratic(2, -1)}, 0.5, 2, 1)
    assert federation.round("ab").tolist() == [1]
    assert federation.control.tolist() == [-1]
    assert federation.round("ba").tolist() == [0.875]
    assert federation.control.tolist() == [0.125]
    assert federation.controls.correction("a") is not None
    federation.controls.begin(federation.server.outgoing(federation.model))
    assert [federation.controls.correction(name) for name in "ab"] == [[0.125 + 2.75], [0.125 - 3]]


def paper(silos: Mapping[str, Quadratic], rate: float, steps: int, values: int, sampled: list[list[str]]) -> Vector:
    """Algorithm 1 of the paper with option II and global step 1, line by line, in float64."""
    x, c = np.zeros(values), np.zeros(values)
    c_of = {name: np.zeros(values) for name in silos}
    for chosen in sampled:
        dy, dc = [], []
        for name in chosen:
            y = x.copy()
            for _ in range(steps):
                y = y - rate * (silos[name].gradient(y) - c_of[name] + c)
            plus = c_of[name] - c + (x - y) / (steps * rate)
            dy.append(y - x)
            dc.append(plus - c_of[name])
            c_of[name] = plus
        x = x + np.mean(dy, axis=0)
        c = c + len(chosen) / len(silos) * np.mean(dc, axis=0)
    return x


def drawn(seed: int, silos: int, values: int) -> dict[str, Quadratic]:
    draw = np.random.default_rng(seed)
    return {f"s{n}": Quadratic(draw.uniform(0.2, 2, values), draw.normal(0, 3, values)) for n in range(silos)}


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_it_is_the_papers_algorithm(share: float) -> None:
    silos, draw = drawn(1, 5, 7), np.random.default_rng(2)
    sampled = [sorted(draw.choice(list(silos), round(share * 5), replace=False)) for _ in range(12)]
    federation = Federation(silos, 0.1, 6, 7)
    for chosen in sampled:
        federation.round(chosen)
    np.testing.assert_allclose(federation.model, paper(silos, 0.1, 6, 7, sampled), rtol=1e-4, atol=1e-5)


def test_it_finds_the_minimum_of_the_mean_loss_from_which_fedavg_stays_away() -> None:
    silos = drawn(3, 4, 5)
    federation = Federation(silos, 0.1, 10, 5)
    fedavg: Vector = np.zeros(5)
    for _ in range(150):
        federation.round(sorted(silos))
        local = []
        for silo in silos.values():
            y = fedavg
            for _ in range(10):
                y = y - 0.1 * silo.gradient(y)
            local.append(y)
        fedavg = np.mean(local, axis=0)
    minimum = sum(s.a * s.b for s in silos.values()) / sum(s.a for s in silos.values())
    assert np.abs(federation.model - minimum).max() < 1e-4
    assert np.abs(fedavg - minimum).max() > 0.05


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6))
def test_with_the_same_data_at_all_silos_it_is_fedavg(seed: int, silos: int, steps: int) -> None:
    one = drawn(seed, 1, 3)["s0"]
    federation = Federation(dict.fromkeys([f"s{n}" for n in range(silos)], one), 0.2, steps, 3)
    y = np.zeros(3)
    for _ in range(4):
        federation.round(list(federation.silos))
        for _ in range(steps):
            y = y - 0.2 * one.gradient(y)
    np.testing.assert_allclose(federation.model, y, rtol=1e-4, atol=1e-4)


@given(st.lists(st.tuples(*[st.sampled_from(["absent", "folded", "lost"])] * 4), min_size=1, max_size=8))
def test_c_stays_the_mean_of_the_silos_control_variates(rounds: list[tuple[str, ...]]) -> None:
    """Whoever takes part, and whosever work comes too late to be folded in."""
    silos = drawn(5, 4, 3)
    federation = Federation(silos, 0.1, 3, 3)
    for what in rounds:
        parts = {name: one for name, one in zip(sorted(silos), what, strict=True) if one != "absent"}
        if "folded" in parts.values():
            federation.round(list(parts), [name for name, one in parts.items() if one == "lost"])
    federation.controls.begin(federation.server.outgoing(federation.model))
    corrections = [federation.controls.correction(name) for name in silos]
    np.testing.assert_allclose(np.sum(corrections, axis=0), 0, atol=1e-4)


def test_silos_without_a_learning_rate_fail_the_run() -> None:
    with pytest.raises(RunFailedError, match="announce no learning rate"):
        strategy_of(Strategy(name="scaffold", rounds=1)).admitted(3, None)


def test_an_update_that_makes_no_usable_control_variate_leaves_no_trace() -> None:
    model = np.zeros(2, dtype=np.float32)
    server = scaffold(2, 1e-4)
    fold = server.begin(model, 20)
    with pytest.raises(WireError, match="control variate that follows"):
        fold.fold("a", np.array([0, 1], dtype=np.float32), 10, {}, 1)
    fold.fold("a", np.array([0, 1e-4], dtype=np.float32), 10, {}, 1)
    assert fold.result().tolist() == [0, np.float32(1e-4)]
    np.testing.assert_allclose(server.outgoing(model), [0, 0, 0, -0.5], rtol=1e-6)
