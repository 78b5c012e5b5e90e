"""Ranges that a contract declares: a run of statistics drafted from them, a worker that holds a run to them."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner

from federation.cli import command
from federation.statistics.document import load_statistics
from silo.channel import Frame
from silo.config import ContractSource, WorkerConfig
from silo.constraint import Constraint
from silo.dataset.contract import Column, Generalisation
from silo.worker.data.owner.survey import survey
from silo.worker.errors import DataError, WorkError
from silo.worker.statistics import summarised

from .conftest import COLUMNS, Write


@pytest.mark.parametrize(
    ("column", "reach"),
    [
        ({"type": "integer", "range": (0, 120)}, (0, 120)),
        ({"type": "integer", "range": (0, 120), "generalise": Generalisation(bands=50.0)}, (0, 100)),
        ({"type": "integer", "range": (3, 120), "generalise": Generalisation(bands=5.0, top=90)}, (0, 90)),
        ({"type": "number", "range": (0.0, 390.0), "clip": (100.0, 350.0)}, (100, 350)),
        ({"type": "number", "clip": (100.0, 350.0)}, (100, 350)),
        ({"type": "number", "range": (0.0, 50.0), "clip": (100.0, 350.0)}, None),
        ({"type": "text", "values": ("F", "M", "X")}, (0, 2)),
        ({"type": "text", "values": ("F",)}, None),
        ({"type": "integer", "values": (7, 3, 5)}, (3, 7)),
        ({"type": "boolean"}, (0, 1)),
        ({"type": "number"}, None),
        ({"type": "text"}, None),
        ({"type": "date"}, None),
    ],
)
def test_how_far_a_column_reaches(column: dict[str, object], reach: tuple[float, float] | None) -> None:
    assert Column(sensitivity="none", **column).reach == reach  # type: ignore[arg-type]


def test_a_draft_is_a_run_of_statistics_with_the_contracts_ranges(contract: Write) -> None:
    columns = COLUMNS.replace("key: pid", "  loose: {type: number, sensitivity: none}\nkey: pid")
    found = contract(columns=columns)
    result = CliRunner().invoke(command, ["data", "statistics", str(found.path), "--purpose", "HMB"])
    assert result.exit_code == 0, result.output
    asked = load_statistics(result.output).model
    assert (asked.dataset, asked.purpose) == ("heart", "HMB")
    assert {name: (column.range, column.bins) for name, column in asked.columns.items()} == {
        "age": ((0, 120), None),
        "sex": ((0, 1), 2),
        "sick": ((0, 1), 2),
    }
    assert "2 columns are left out" in result.output


def test_a_contract_without_ranges_gives_no_draft(contract: Write) -> None:
    found = contract(columns="columns:\n  pid: {type: text, sensitivity: medical_record}\n")
    with pytest.raises(DataError, match="has no column with a range"):
        survey(found.dataset, "HMB")


TEXT = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {range: %s}}
statistics: [mean, histogram]
"""


def ask(contract: Write, ages: str) -> Frame:
    found = contract()
    config = WorkerConfig.model_construct(
        datasets={"heart": ContractSource(format="contract", path=found.path)}, pseudonym_key=None
    )
    view = Constraint(("age",)).fields()
    return summarised(Frame("summarise", {"run": TEXT % ages, "view": view, "cell": 1}), config, {"heart": found})


@pytest.mark.parametrize("ages", ["[0.01, 0.02]", "[100, 300]", "[-5, 0]"])
def test_a_range_that_overlaps_the_contracts_is_answered(contract: Write, ages: str) -> None:
    assert ask(contract, ages).fields["rows"] == 2


@pytest.mark.parametrize("ages", ["[121, 200]", "[-3, -1]"])
def test_a_range_that_has_nothing_in_common_with_the_contracts_is_told(contract: Write, ages: str) -> None:
    with pytest.raises(WorkError, match="expected one that overlaps the contract's 0 to 120"):
        ask(contract, ages)


def test_a_reach_is_of_finite_numbers() -> None:
    column = Column(type="number", sensitivity="none", range=(-1e308, 1e308))
    assert column.reach is None
    assert math.isinf(1e308 + 1e308)
