"""Statistics of silos: what is asked for, what is sent, what it comes to together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import WireError
from federation.statistics.document import Statistics, load_statistics
from federation.statistics.plot import svg
from federation.statistics.reading import Noisy, read_noisy, read_summary
from federation.statistics.result import noisy_result_of, result_of
from federation.statistics.summary import HIDDEN, Summary, Tally, layout_of, to_fields
from federation.statistics.table import lines
from policies.errors import DocumentError

TEXT = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {range: [0, 10], bins: 5}, chol: {range: [0, 100], bins: 2}}
statistics: [mean, variance, histogram, correlation]
quantiles: [0.5]
"""
PRIVATE = TEXT + "privacy: {mode: example_dp, epsilon: 1.0, delta: 1.0e-5}\n"


def asked(text: str = TEXT, **changes: Any) -> Statistics:
    return load_statistics(text).model.model_copy(update=changes)


def summary(values: Sequence[Sequence[float]], of: Statistics, parts: int = 1) -> Summary:
    tally = Tally(layout_of(of))
    for part in np.array_split(np.array(values, dtype=np.float64), parts):
        tally.add(part)
    return tally.summary()


# -- by hand


def test_three_rows_and_two_rows_come_to_what_five_rows_are_by_hand() -> None:
    """age 1 2 3 | 5 9, chol 10 20 30 | 60 80: means 4 and 40, M2 40 and 3400, products 360."""
    of = asked()
    found = result_of(of, {"a": summary([[1, 10], [2, 20], [3, 30]], of), "b": summary([[5, 60], [9, 80]], of)})
    assert (found["rows"], found["silos"], found["format"]) == (5, ["a", "b"], "concordat/statistics/v1")
    age, chol = found["columns"]["age"], found["columns"]["chol"]
    assert (age["rows"], age["mean"], age["variance"]) == (5, pytest.approx(4), pytest.approx(40 / 4))
    assert (chol["mean"], chol["variance"]) == (pytest.approx(40), pytest.approx(3400 / 4))
    assert found["correlation"]["values"][0][1] == pytest.approx(360 / math.sqrt(40 * 3400))
    assert age["histogram"] == {
        "edges": [0, 2, 4, 6, 8, 10],
        "counts": [1, 2, 1, 0, 1],  # 2 is in the bin that begins with it
        "below": 0,
        "above": 0,
        "incomplete": [],
        "hidden_rows": 0,
    }
    # The third of five values is 3, in the bin from 2 to 4; half of the rows are 1.5 of its 2 rows in.
    assert age["quantiles"] == [{"share": 0.5, "value": pytest.approx(3.5), "lower": 2, "upper": 4}]
    assert "per_silo" not in found


def test_values_beyond_the_range_are_counted_beside_it_and_the_upper_end_belongs_to_the_last_bin() -> None:
    of = asked()
    found = result_of(of, {"a": summary([[-1, 0], [10, 100], [11, 101]], of)})
    histogram = found["columns"]["age"]["histogram"]
    assert (histogram["below"], histogram["counts"], histogram["above"]) == (1, [0, 0, 0, 0, 1], 1)
    late = result_of(asked(quantiles=(0.9,)), {"a": summary([[-1, 0], [10, 100], [11, 101]], of)})
    assert late["columns"]["age"]["quantiles"] == [{"share": 0.9, "value": None, "lower": 10, "upper": None}]


def test_a_hidden_cell_widens_the_bounds_of_a_quantile_and_a_hidden_column_leaves_the_others() -> None:
    of = asked()
    one = summary([[1, 10], [3, 20], [5, 30], [7, 60], [9, 80]], of)
    scatter = one.scatter.copy()
    scatter[1, :] = scatter[:, 1] = np.nan
    hidden = Summary(5, np.array([5.0, np.nan]), scatter, (np.array([0, 1, HIDDEN, 1, HIDDEN, 1, 0]), None))
    found = result_of(of, {"a": hidden})
    age, chol = found["columns"]["age"], found["columns"]["chol"]
    assert age["histogram"]["counts"] == [1, 0, 1, 0, 1]
    assert (age["histogram"]["hidden_rows"], age["histogram"]["incomplete"]) == (2, [2, 4])
    # With both hidden rows between 2 and 4 the median lies there; with both between 6 and 8, there.
    assert (age["quantiles"][0]["lower"], age["quantiles"][0]["upper"]) == (2, 8)
    assert (chol["rows"], chol["mean"], chol["variance"]) == (0, None, None)
    assert chol["histogram"]["hidden_rows"] == 5
    assert found["correlation"]["values"] == [[1.0, None], [None, None]]


def test_a_far_mean_loses_no_digits() -> None:
    """The sum of squares of values near 1e9 has no digit left for a variance of 1; merged moments do."""
    of = asked()
    values = np.array([[1e9 - 1, 0], [1e9, 0], [1e9 + 1, 0]])
    found = result_of(of, {"a": summary(values[:1], of), "b": summary(values[1:2], of), "c": summary(values[2:], of)})
    assert found["columns"]["age"]["variance"] == pytest.approx(1.0, rel=1e-9)


# -- laws

rows = st.lists(st.tuples(st.floats(-20, 20), st.floats(-1e6, 1e6)), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 5), st.integers(1, 3))
def test_merged_is_pooled(values: list[tuple[float, float]], silos: int, chunks: int) -> None:
    of = asked(quantiles=(0.1, 0.5, 0.9))
    table = np.array(values)
    parts = [part for part in np.array_split(table, silos) if len(part)]
    found = result_of(of, {f"s{index}": summary(part, of, chunks) for index, part in enumerate(parts)})
    assert found["rows"] == len(table)
    scale = np.maximum(1.0, np.abs(table).max(axis=0))
    for index, name in enumerate(of.names):
        column = found["columns"][name]
        assert column["mean"] == pytest.approx(table[:, index].mean(), abs=1e-9 * scale[index])
        assert column["variance"] == pytest.approx(table[:, index].var(ddof=1), rel=1e-6, abs=1e-9 * scale[index] ** 2)
        counts = np.histogram(table[:, index], column["histogram"]["edges"])[0]
        assert column["histogram"]["counts"] == counts.tolist()
        for one in column["quantiles"]:
            true = np.quantile(table[:, index], one["share"], method="inverted_cdf")
            assert one["lower"] is None or one["lower"] <= true
            assert one["upper"] is None or true <= one["upper"]
            assert one["value"] is None or one["lower"] <= one["value"] <= one["upper"]
    found_r = found["correlation"]["values"][0][1]
    if found_r is not None and table.std(axis=0).min() > 1e-3 * scale.max():
        assert found_r == pytest.approx(np.corrcoef(table.T)[0, 1], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows)
def test_what_is_sent_is_read_as_it_was(values: list[tuple[float, float]]) -> None:
    of = asked()
    before = summary(values, of)
    after = read_summary(json.dumps(to_fields(before, layout_of(of))), layout_of(of))
    assert after.rows == before.rows
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.scatter, np.triu(before.scatter) + np.triu(before.scatter, 1).T)
    for one, two in zip(after.counts, before.counts, strict=True):
        np.testing.assert_array_equal(one, two)


# -- hostile answers


def good() -> dict[str, Any]:
    return to_fields(summary([[1, 10], [2, 20], [3, 30], [5, 60], [9, 80]], asked()), layout_of(asked()))


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("no number", {"mean": [math.nan, 1.0]}, "expected a number"),
    ("infinite", {"square": [math.inf, 1.0]}, "expected a number"),
    ("too large", {"mean": [1e300, 1.0]}, "expected a number"),
    ("an integer beyond any float", {"mean": [10**400, 1.0]}, "expected a number"),
    ("a text", {"mean": ["1", 1.0]}, "expected a number"),
    ("a flag", {"mean": [True, 1.0]}, "expected a number"),
    ("too few means", {"mean": [1.0]}, "got 1 means, expected 2"),
    ("no list", {"mean": 3}, "got no list of means"),
    ("no rows", {"rows": 0}, "got statistics of 0 rows"),
    ("too many rows", {"rows": 10**12}, "rows, expected 1 to"),
    ("rows as a flag", {"rows": True}, "rows, expected 1 to"),
    ("a negative sum of squares", {"square": [-1.0, 1.0]}, "below zero"),
    ("a hidden mean with its square", {"mean": [None, 1.0]}, "without its sum of squares"),
    ("a correlation beyond one", {"product": [1e9]}, "correlation beyond one"),
    ("a pair of a hidden column", {"mean": [None, 1.0], "square": [None, 1.0]}, "of a column that is hidden"),
    ("a negative count", {"counts": [[0, -1, 2, 2, 1, 1, 0], [0, 3, 2, 0]]}, "a count of age"),
    ("a count above the rows", {"counts": [[0, 6, 0, 0, 0, 0, 0], [0, 3, 2, 0]]}, "a count of age"),
    ("counts above the rows", {"counts": [[0, 5, 1, 0, 0, 0, 0], [0, 3, 2, 0]]}, "got 6 rows in the histogram of age"),
    ("counts below the rows", {"counts": [[0, 1, 1, 1, 1, 0, 0], [0, 3, 2, 0]]}, "got 4 rows in the histogram of age"),
    ("a fraction of a row", {"counts": [[0, 1.5, 1, 1, 1, 0, 0], [0, 3, 2, 0]]}, "a count of age"),
    ("hidden cells without rows", {"counts": [[0, 5, None, None, 0, 0, 0], [0, 3, 2, 0]]}, "rows in the histogram"),
    ("too few cells", {"counts": [[0, 5], [0, 3, 2, 0]]}, "without its 7 cells"),
    ("too few histograms", {"counts": [[0, 3, 2, 0]]}, "no list of 2 histograms"),
    ("a field too many", {"secret": 1}, "no JSON object of"),
]


@pytest.mark.parametrize(("change", "problem"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_answer_is_one_clear_error(change: dict[str, Any], problem: str) -> None:
    read_summary(json.dumps(good()), layout_of(asked()))
    with pytest.raises(WireError, match=problem):
        read_summary(json.dumps({**good(), **change}), layout_of(asked()))


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, "{}", "x" * (4 * 1024 * 1024)])
def test_what_is_no_summary_is_one_clear_error(text: str) -> None:
    with pytest.raises(WireError, match="statistics"):
        read_summary(text, layout_of(asked()))
    with pytest.raises(WireError, match="statistics"):
        read_noisy(text, layout_of(asked()))


def noisy(**changes: Any) -> str:
    sums = Noisy(5.2, np.zeros(2), np.ones(2), np.zeros(1), (np.ones(7), -np.ones(4)), 2.0)
    return json.dumps({**sums.fields(layout_of(asked())), **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"rows": None},
        {"rows": math.nan},
        {"deviation": 0},
        {"deviation": -1.0},
        {"sums": [0.0]},
        {"sums": [None, 0.0]},
        {"products": [1.0, 2.0]},
        {"counts": [[1.0] * 7]},
        {"counts": [[1.0] * 7, [None] * 4]},
        {"counts": "none"},
    ],
)
def test_hostile_noisy_sums_are_one_clear_error(change: dict[str, Any]) -> None:
    read_noisy(noisy(), layout_of(asked()))
    with pytest.raises(WireError):
        read_noisy(noisy(**change), layout_of(asked()))


# -- with noise


def test_noisy_sums_are_merged_and_scaled_back_by_hand() -> None:
    """age from 0 to 10 is scaled by 5 around 5: sums of 2 over 10 rows are a mean of 0.2, so 6; squares of 4, 0.36."""
    of = load_statistics(PRIVATE).model
    counts = (np.array([0.0, 4, 6, 0, 0, -3, 0]), np.array([0.0, 5, 5, 0]))
    half = Noisy(5.0, np.array([1.0, 0.0]), np.array([2.0, 2.5]), np.array([1.0]), tuple(c / 2 for c in counts), 3.0)
    found = noisy_result_of(of, {"a": half, "b": half})
    age = found["columns"]["age"]
    assert found["rows"] == 10
    assert found["noise_deviation"] == pytest.approx(3 * math.sqrt(2))
    assert age["mean"] == pytest.approx(6)
    assert age["variance"] == pytest.approx(0.36 * 25)
    assert found["correlation"]["values"][0][1] == pytest.approx(0.2 / math.sqrt(0.36 * 0.5))
    assert age["histogram"]["counts"] == [4, 6, 0, 0, 0], "a count below zero is shown as none"
    assert found["privacy"] == {"mode": "example_dp", "epsilon": 1.0, "delta": 1e-5}
    assert any(line.startswith("private: epsilon 1 at delta 1e-05") for line in lines(found))


# -- what may be asked for


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("quantiles: [0.5]", "quantiles: [1.5]"), ":8:13: got the number 1.5"),
        (("[mean, variance, histogram, correlation]", "[mean, variance]"), "histogram among the statistics"),
        (("[mean, variance, histogram, correlation]", "[variance, histogram]"), "mean among the statistics"),
        (("[mean, variance, histogram, correlation]", "[mean, correlation, histogram]"), "variance among the stat"),
        (("{range: [0, 100], bins: 2}", "{}"), "a range with histograms"),
        (("range: [0, 100]", "range: [5, 5]"), "the smaller first"),
        (("bins: 2", "bins: 1"), "got the number 1, expected at least 2"),
        (("purpose: HMB", "purpose: HMB\nquorum: 1"), "a quorum of two or more"),
        (("purpose: HMB", "purpose: HMB\nsilos: [one]"), "two silos or more"),
        (("purpose: HMB", "purpose: HMB\napp: {model: m:f}"), "app"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(change: tuple[str, str], problem: str) -> None:
    assert change[0] in TEXT
    with pytest.raises(DocumentError, match=problem):
        load_statistics(TEXT.replace(*change))


def test_one_silos_statistics_can_be_asked_for_by_themselves() -> None:
    of = load_statistics(TEXT + "per_silo: true\nsilos: [one]\n").model
    found = result_of(of, {"one": summary([[1, 10], [2, 20]], of)})
    assert found["per_silo"]["one"]["columns"]["age"]["mean"] == pytest.approx(1.5)
    assert "one: 2 rows" in list(lines(found))


# -- for people


def test_table_and_picture_hold_the_numbers_and_say_what_is_hidden() -> None:
    of = asked()
    one = summary([[1, 10], [3, 20], [5, 30], [7, 60], [9, 80]], of)
    hidden = Summary(5, one.mean, one.scatter, (np.array([0, 1, HIDDEN, 1, HIDDEN, 1, 0]), one.counts[1]))
    found = result_of(of, {"a": one, "b": hidden})
    text = "\n".join(lines(found))
    assert "ages: 10 rows of heart at a, b" in text
    assert "+0.9" in text
    assert "some silo hides" in text
    evil = {**found, "name": "<script>", "columns": {"<b>": found["columns"]["age"]}}
    picture = svg(evil)
    root = ET.fromstring(picture)
    assert len(root.findall(".//{http://www.w3.org/2000/svg}rect")) > 5
    assert "<script>" not in picture
    assert "<b>" not in picture
