"""Statistics of a silo that says the largest numbers it may: what is merged are numbers that JSON and logs hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import Event
from federation.errors import WireError
from federation.limits import LIMITS
from federation.statistics.document import LARGEST_END, load_statistics
from federation.statistics.normalization import (
    Normalization,
    normalization_layout,
    read_normalization,
    read_silos_moments,
)
from federation.statistics.reading import LARGEST_NOISY, read_noisy, read_summary
from federation.statistics.result import noisy_result_of, result_of
from federation.statistics.summary import layout_of
from policies.errors import PolicyError

TEXT = f"""\
apiVersion: concordat/v1
kind: Statistics
metadata: {{name: ages}}
purpose: HMB
dataset: heart
columns: {{age: {{range: [-1, {LARGEST_END:.1e}], bins: 2}}, sex: {{range: [0, 1], bins: 2}}}}
statistics: [mean, variance, correlation, histogram]
quantiles: [0.5]
"""
ASKED = load_statistics(TEXT).model
NOISY = load_statistics(TEXT + "privacy: {mode: example_dp, epsilon: 1.0, delta: 1.0e-5}\n").model
LARGE = st.sampled_from([0, 1, -1, 1e120, -1e120, 1e12, -1e12, 1e121, 5e-324, math.nan, math.inf, 2**70, 10**400, True])


def numbers(size: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(LARGE | st.none(), min_size=size, max_size=size)


EXACT = st.fixed_dictionaries(
    {
        "rows": st.sampled_from([1, 2, LIMITS.examples, LIMITS.examples + 1, 0, 1.0, True]),
        "mean": numbers(2),
        "square": numbers(2),
        "product": numbers(1),
        "counts": st.lists(
            st.lists(st.sampled_from([0, 1, 2, LIMITS.examples, None]), min_size=4, max_size=4) | st.none(),
            min_size=2,
            max_size=2,
        ),
    }
)
SUMS = st.fixed_dictionaries(
    {
        "rows": LARGE,
        "deviation": LARGE,
        "sums": numbers(2),
        "squares": numbers(2),
        "products": numbers(1),
        "counts": st.lists(numbers(4), min_size=2, max_size=2),
    }
)


def recordable(result: dict[str, Any]) -> None:
    json.dumps(result, allow_nan=False)
    Event("hub", "statistics.merge", "run/x", detail={"rows": int(result["rows"])})


@given(st.lists(EXACT, min_size=1, max_size=3))
def test_exact_statistics_that_are_read_can_be_merged(sent: list[dict[str, Any]]) -> None:
    found = {}
    for number, fields in enumerate(sent):
        try:
            found[f"s{number}"] = read_summary(json.dumps(fields), layout_of(ASKED))
        except WireError:
            continue
    if found:
        with np.errstate(over="ignore"):
            recordable(result_of(ASKED, found))


@given(st.lists(SUMS, min_size=1, max_size=3))
def test_noisy_statistics_that_are_read_can_be_merged(sent: list[dict[str, Any]]) -> None:
    found = {}
    for number, fields in enumerate(sent):
        try:
            found[f"s{number}"] = read_noisy(json.dumps(fields), layout_of(NOISY))
        except WireError:
            continue
    if found:
        recordable(noisy_result_of(NOISY, found))


@pytest.mark.parametrize("name", ["rows", "deviation", "sums", "squares", "products", "counts"])
def test_noise_has_a_largest_size(name: str) -> None:
    """Rows of 1e100 could not be recorded, and what cannot be recorded ends the run."""
    good: dict[str, Any] = {
        "rows": 100.5,
        "deviation": 1.0,
        "sums": [0.5, 0.5],
        "squares": [1.0, 1.0],
        "products": [0.5],
        "counts": [[1.0] * 4] * 2,
    }
    read_noisy(json.dumps(good), layout_of(NOISY))
    wild: Any = 2 * LARGEST_NOISY
    bad = {"products": [wild], "counts": [[1.0] * 4, [1.0, wild, 1.0, 1.0]], "rows": wild, "deviation": wild}
    with pytest.raises(WireError, match=r"expected a number up to 1e\+12"):
        read_noisy(json.dumps({**good, name: bad.get(name, [wild, 0.0])}), layout_of(NOISY))


@pytest.mark.parametrize("end", ["1e308", "1e101", ".inf"])
def test_a_range_whose_square_no_float_holds_is_refused(end: str) -> None:
    with pytest.raises(PolicyError, match=r"range|number"):
        load_statistics(TEXT.replace(f"{LARGEST_END:.1e}", end))


LAYOUT = normalization_layout(("age",))


@pytest.mark.parametrize(
    "fields",
    [
        {"rows": 101, "mean": [1.0], "square": [1.0]},
        {"rows": 10**9, "mean": [1.0], "square": [1.0]},
        {"rows": 100, "mean": [1e100], "square": [1.0]},
        {"rows": 100, "mean": [1.0], "square": [1e119]},
        {"rows": 100, "mean": [-3.5e38], "square": [0.0]},
    ],
)
def test_moments_of_other_rows_or_of_no_float32_values_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=r"rows|float32"):
        read_silos_moments(json.dumps(fields), LAYOUT, 100)


@given(st.lists(st.tuples(st.floats(-3e38, 3e38), st.floats(0, 1e70)), min_size=1, max_size=4))
def test_moments_that_are_read_give_a_normalisation_that_gates_take(parts: list[tuple[float, float]]) -> None:
    found = [read_silos_moments(json.dumps({"rows": 7, "mean": [m], "square": [q]}), LAYOUT, 7) for m, q in parts]
    read_normalization(Normalization.of(found).text(), 1)
