"""Statistics of a policy view, made in the process that reads the rows: which rows count, and which values are few."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.statistics.document import load_statistics
from federation.statistics.summary import layout_of, ranges_of
from silo.channel import Frame
from silo.config import ContractSource, CsvSource, WorkerConfig
from silo.constraint import Constraint
from silo.dataset.loading import load_contract
from silo.worker.data.summary import CHUNK_ROWS, summarise
from silo.worker.errors import DataError, WorkError
from silo.worker.statistics import summarised

from .conftest import Write

TEXT = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {range: [0, 100], bins: 4}, sick: {range: [0, 1], bins: 2}}
statistics: [mean, variance, histogram, correlation]
"""
SICK = """\
columns:
  pid: {type: text, sensitivity: medical_record}
  age: {type: integer, sensitivity: none, range: [0, 120], generalise: {bands: 10}}
  sick: {type: boolean, sensitivity: none, required: true}
  agreed: {type: boolean, sensitivity: none}
key: pid
"""
HEAD = "pid,age,sick,agreed\n"


def asked(source: Any, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """What the worker answers; the rows are read in a process of their own."""
    config = WorkerConfig.model_construct(silo="a", datasets={"heart": source}, pseudonym_key=None)
    contracts = {"heart": load_contract(source.path)} if isinstance(source, ContractSource) else {}
    constraint = changes.pop("constraint", Constraint(("age", "sick"), (), "agreed"))
    frame = Frame("summarise", {"run": TEXT, "view": constraint.fields(), "cell": 10, **changes})
    return dict(summarised(frame, config, contracts).fields)


def test_a_plain_files_complete_and_consenting_rows_are_summarised(tmp_path: Path) -> None:
    path = tmp_path / "heart.csv"
    path.write_text(HEAD + "P1,50,1,yes\nP2,70,0,yes\nP3,,1,yes\nP4,20,1,no\nP5,30,1,\nP6,60,1,true\n")
    found = asked(CsvSource(format="csv", path=path), tmp_path)
    assert (found["rows"], found["dropped"], found["withheld"]) == (3, 1, 2)
    assert found["summary"]["mean"] == [60.0, pytest.approx(2 / 3)]
    assert found["summary"]["square"] == [200.0, pytest.approx(2 / 3)]
    assert found["summary"]["product"] == [pytest.approx(-10.0)]
    assert found["summary"]["counts"] == [[0, 0, 0, 3, 0, 0], [0, 1, 2, 0]]
    assert found["tables"] == [[3, 1], [2, 1]]
    values = np.array([[50, 1], [70, 0], [60, 1]], dtype="<f4")
    assert found["view_digest"] == "sha256:" + hashlib.sha256(b"age\0sick" + values.tobytes()).hexdigest()
    assert (found["consent"], found["constraint"]) == ("agreed", Constraint(("age", "sick"), (), "agreed").digest)


def test_a_contracts_view_is_what_is_summarised_with_its_bands(contract: Write, tmp_path: Path) -> None:
    rows = "P1,53,yes,yes\nP2,78,no,yes\nP3,,yes,yes\nP4,20,yes,no\n"
    made = contract(columns=SICK, data=HEAD + rows)
    found = asked(ContractSource(format="contract", path=made.path), tmp_path)
    assert (found["rows"], found["dropped"], found["withheld"], found["contract"]) == (2, 1, 1, made.digest)
    assert found["summary"]["mean"] == [60.0, 0.5]


@pytest.mark.parametrize(
    ("rows", "constraint", "problem"),
    [
        ("P1,50,1,no\n", None, "no complete row"),
        ("P1,1e300,1,yes\n", None, "column age holds a value that is infinite"),
        ("P1,fifty-SECRET,1,yes\n", None, "column age holds text"),
        ("P1,50,1,yes\n", Constraint(("age",)), "columns that the policy does not allow"),
    ],
)
def test_what_cannot_be_summarised_is_one_sentence_without_data(
    tmp_path: Path, rows: str, constraint: Constraint | None, problem: str
) -> None:
    path = tmp_path / "heart.csv"
    path.write_text(HEAD + rows)
    changes = {} if constraint is None else {"constraint": constraint}
    with pytest.raises(WorkError, match=problem) as raised:
        asked(CsvSource(format="csv", path=path), tmp_path, **changes)
    assert "SECRET" not in str(raised.value)


def test_chunks_come_to_the_same_as_the_whole_and_many_values_are_not_counted() -> None:
    of = load_statistics(TEXT).model
    rng = np.random.default_rng(3)
    values = np.column_stack([rng.uniform(0, 100, CHUNK_ROWS + 999), rng.integers(0, 2, CHUNK_ROWS + 999)])
    table = values.astype(np.float32)
    whole, parts = summarise([table], layout_of(of), 10), summarise(np.array_split(table, 7), layout_of(of), 10)
    assert whole["tables"] == parts["tables"] == [[11, 0], [2, int(min(np.bincount(table[:, 1].astype(int))))]]
    assert whole["summary"]["counts"] == parts["summary"]["counts"]
    assert whole["view_digest"] == parts["view_digest"]
    np.testing.assert_allclose(whole["summary"]["mean"], table.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole["summary"]["square"], parts["summary"]["square"], rtol=1e-9)


def test_in_a_private_run_values_are_cut_to_their_ranges() -> None:
    of = load_statistics(TEXT + "privacy: {mode: example_dp, epsilon: 1.0, delta: 1.0e-5}\n").model
    table = np.array([[-1e6, 0], [1e6, 1], [50, np.inf]], dtype=np.float32)
    found = summarise([table], layout_of(of), 10, ranges_of(of))["summary"]
    assert found["mean"] == [50.0, pytest.approx(2 / 3)]
    assert found["counts"][0] == [0, 1, 0, 1, 1, 0]
    with pytest.raises(DataError, match="infinite"):
        summarise([table], layout_of(of), 10)
