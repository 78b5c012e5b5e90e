"""The table of what a metric can be: complete, documented, and safe to compute with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.executor import _mean_metrics
from coordinator.fairness import better_alone, spread
from federation.errors import WireError
from federation.limits import LIMITS
from federation.measures import RANGES, beyond_range, reported
from federation.run import Metric

EVERY = get_args(Metric)
LEARNING = (Path(__file__).resolve().parents[2] / "docs" / "learning.md").read_text()


def test_every_metric_of_a_run_has_a_range_that_the_documentation_tells() -> None:
    assert tuple(RANGES) == EVERY
    (table,) = [part for part in LEARNING.split("\n\n") if part.startswith("| metric | can be |")]
    for name, allowed in RANGES.items():
        (row,) = [line for line in table.splitlines() if f"`{name.removeprefix('own_')}`" in line]
        assert row.endswith(f"| {allowed} |"), name


@given(st.sampled_from(EVERY), st.floats() | st.integers())
def test_the_gate_refuses_what_the_coordinator_would_not_take(name: str, value: float) -> None:
    if beyond_range({name: value}):
        with pytest.raises(WireError, match=f"^a sent {name} "):
            reported("a", {name: value}, [name])
    else:
        taken = reported("a", {name: value}, [name])
        assert taken == {name: value}
        assert math.isfinite(taken[name])


def test_a_metric_that_was_not_asked_for_is_named_without_what_a_terminal_would_obey() -> None:
    with pytest.raises(WireError, match=r"a sent metric 'x\\x1b\[2J', which the run did not ask for"):
        reported("a", {"x\x1b[2J": 0.5}, EVERY)
    with pytest.raises(WireError, match="'loss', which the run did not ask for"):
        reported("a", {"loss": 0.5}, ["auc"])
    with pytest.raises(WireError, match=r"x{40}'"):
        reported("a", {"x" * 10**6: 0.5}, EVERY)


IN_RANGE = st.fixed_dictionaries({name: st.floats(limit.least, limit.most) for name, limit in RANGES.items()})


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), IN_RANGE, min_size=1))
def test_means_and_spreads_of_numbers_in_range_are_numbers(metrics: dict[str, dict[str, float]]) -> None:
    found = _mean_metrics(metrics, dict.fromkeys("abc", LIMITS.examples))
    even = spread(metrics)
    numbers = [*found.values(), even["value"], even["mean"], even["variance"]]
    assert all(math.isfinite(number) for number in numbers)
    assert set(better_alone(metrics)) <= set(metrics)
