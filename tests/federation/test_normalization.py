"""Means and deviations over silos, by which all of them scale alike."""

from __future__ import annotations

import json

import numpy as np
import pytest

from federation.errors import WireError
from federation.run import load_run
from federation.statistics.normalization import (
    Normalization,
    normalization_digest,
    normalization_layout,
    read_normalization,
)
from federation.statistics.summary import Summary, Tally
from policies.errors import DocumentError

RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: sick-or-not}
purpose: HMB
dataset: heart
features: [age, sex]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 3}
normalization: federated
"""


def summary(values: list[list[float]]) -> Summary:
    tally = Tally(normalization_layout(("age", "sex")))
    tally.add(np.array(values))
    return tally.summary()


def test_two_silos_are_scaled_as_their_rows_together_by_hand() -> None:
    """Ages 1 2 3 | 5 9: mean 4, variance 40 / 5 = 8. The second feature does not vary."""
    by = Normalization.of([summary([[1, 7], [2, 7], [3, 7]]), summary([[5, 7], [9, 7]])])
    np.testing.assert_allclose(by.mean, [4, 0])
    np.testing.assert_allclose(by.scale, [np.sqrt(8), 1])
    scaled = by.applied(np.array([[4, 7], [4 + np.sqrt(8), 7]], dtype=np.float32))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[0, 7], [1, 7]], atol=1e-6)


def test_what_a_silo_hides_is_taken_from_the_others() -> None:
    shown, hidden = summary([[1, 0], [3, 2]]), summary([[100, 5], [300, 9]])
    hidden.mean[0], hidden.scatter[0, 0] = np.nan, np.nan
    by = Normalization.of([shown, hidden])
    assert (by.mean[0], by.scale[0]) == (2, 1)
    assert by.mean[1] == 4
    alone = Normalization.of([hidden])
    assert (alone.mean[0], alone.scale[0]) == (0, 1), "shown by no one, left as it is"


def test_it_travels_bit_by_bit() -> None:
    by = Normalization(np.array([1 / 3, -1e-12]), np.array([2 / 3, 1e9]))
    again = read_normalization(by.text(), 2)
    np.testing.assert_array_equal(again.mean, by.mean)
    np.testing.assert_array_equal(again.scale, by.scale)
    assert normalization_digest(again.text()) == normalization_digest(by.text())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({"mean": [0.0, 0.0]}),
        json.dumps({"mean": [0.0], "scale": [1.0]}),
        json.dumps({"mean": [0.0, 0.0], "scale": [1.0, 0.0]}),
        json.dumps({"mean": [0.0, 0.0], "scale": [1.0, -1.0]}),
        '{"mean": [NaN, 0.0], "scale": [1.0, 1.0]}',
        '{"mean": [0.0, 0.0], "scale": [1.0, Infinity]}',
        json.dumps({"mean": [[0.0], [0.0]], "scale": [[1.0], [1.0]]}),
        json.dumps({"mean": ["a", "b"], "scale": [1.0, 1.0]}),
        json.dumps({"mean": [0.0, 0.0], "scale": [1.0, 1.0], "more": 1}),
    ],
)
def test_what_cannot_be_one_is_one_clear_error(text: str) -> None:
    with pytest.raises(WireError, match="got no normalisation"):
        read_normalization(text, 2)


def test_it_is_not_to_be_had_beside_noise_or_for_too_many_features() -> None:
    load_run(RUN)
    with pytest.raises(DocumentError, match="no federated normalization with privacy"):
        load_run(RUN + "privacy: {mode: example_dp, clip_norm: 1.0, delta: 1.0e-5, epsilon: 1.0}\n")
    load_run(RUN + "secure_aggregation: {threshold: 3}\n")
    many = ", ".join(f"f{index}" for index in range(1001))
    with pytest.raises(DocumentError, match="at most 1000 features"):
        load_run(RUN.replace("age, sex", many))
