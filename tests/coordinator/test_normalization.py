"""What a run normalises by, as it lies beside the run: taken up again, damaged, and in the model's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coordinator.checkpoints import LayerShape, save_model
from coordinator.normalization import NORMALIZATION, kept_normalization
from federation.errors import RunFailedError
from federation.run import load_run
from federation.statistics.normalization import Normalization

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
"""
BY = Normalization(np.array([1 / 3, 2.0]), np.array([0.1, 1.0]))


def test_a_run_that_is_taken_up_goes_on_with_the_very_same(tmp_path: Path) -> None:
    run = load_run(RUN + "normalization: federated\n").model
    assert kept_normalization(tmp_path, run) is None, "not asked for yet"
    (tmp_path / NORMALIZATION).write_text(BY.text())
    assert kept_normalization(tmp_path, run) == BY.text()
    assert kept_normalization(tmp_path, load_run(RUN).model) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", BY.text().replace("0.1", "0.0").encode()])
def test_one_that_is_damaged_ends_the_run_and_no_other_takes_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NORMALIZATION).write_bytes(content)
    with pytest.raises(RunFailedError, match="what the run normalises by cannot be read"):
        kept_normalization(tmp_path, load_run(RUN + "normalization: federated\n").model)


def test_the_models_file_holds_it_beside_the_weights(tmp_path: Path) -> None:
    weights, shapes = np.arange(3, dtype=np.float32), [LayerShape("dense", (3,))]
    save_model(tmp_path / "plain.npz", weights, shapes)
    save_model(tmp_path / "scaled.npz", weights, shapes, BY)
    with np.load(tmp_path / "plain.npz") as plain, np.load(tmp_path / "scaled.npz") as scaled:
        assert set(scaled) - set(plain) == {"normalization:mean", "normalization:scale"}
        np.testing.assert_array_equal(scaled["normalization:mean"], BY.mean)
        np.testing.assert_array_equal(scaled["normalization:scale"], BY.scale)
