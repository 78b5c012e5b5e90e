"""From a contract's source to the view: who is left out, what is made coarser, and one digest for one snapshot."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.run import load_run
from silo.constraint import Constraint
from silo.dataset.contract import Column, Contract, Generalisation
from silo.worker.data.building import Asked, Tally, parts
from silo.worker.data.generalise import SMALL_ZIP3, generalised
from silo.worker.data.keyed import shift
from silo.worker.data.reader import ViewRead, read_view_apart
from silo.worker.data.view import split_view
from silo.worker.errors import DataError

from .conftest import COLUMNS, ROWS, Write

ALLOWED = Constraint(("pid", "age", "sex", "sick"))
START = hmac.new(b"k" * 32, digestmod="sha256")


def asked(contract: Contract, *features: str, constraint: Constraint = ALLOWED) -> Asked:
    return Asked(contract, features, "sick", 0.5, constraint)


def built(question: Asked, key: Path | None = None) -> tuple[np.ndarray, np.ndarray, Tally]:
    tally = Tally()
    found = list(parts(question, key, tally))
    return np.concatenate([part.features for part in found]), np.concatenate([part.labels for part in found]), tally


def kept_in(tally: Tally) -> npt.NDArray[np.bool_]:
    """For each row that was not withheld, whether it is in the view."""
    return np.concatenate(tally.kept)


def test_complete_rows_become_float32_and_listed_texts_their_place(contract: Write) -> None:
    features, labels, tally = built(asked(contract(), "sex", "age"))
    assert features.dtype == labels.dtype == np.float32
    assert features.tolist() == [[0, 50], [1, 70]]
    assert labels.tolist() == [1, 1]
    assert (sorted(kept_in(tally)), tally.withheld) == ([False, True, True], 0)


@pytest.mark.parametrize(
    ("constraint", "kept"),
    [
        (Constraint(("age",), consent="agreed"), [50, 80]),
        (Constraint(("age",), opt_out="objected"), [50, 60]),
        (Constraint(("age",), consent="agreed", opt_out="objected"), [50]),
    ],
)
def test_rows_without_a_clear_yes_or_with_an_objection_are_left_out(
    contract: Write, constraint: Constraint, kept: list[int]
) -> None:
    columns = COLUMNS.replace("key: pid", "  agreed: {type: text, sensitivity: none}\n").replace(
        "label: sick", "  objected: {type: boolean, sensitivity: none}\n"
    )
    data = "pid,age,sex,sick,agreed,objected\na,50,F,1,yes,no\nb,60,F,1,no,0\nc,70,F,0,perhaps,\nd,80,F,0,1,yes\n"
    features, _, tally = built(asked(contract(columns=columns, data=data), "age", constraint=constraint))
    assert features.ravel().tolist() == kept
    assert tally.withheld == 4 - len(kept)


def test_the_contracts_own_consent_holds_without_a_policy_that_asks(contract: Write) -> None:
    columns = COLUMNS.replace("key: pid", "  agreed: {type: text, sensitivity: none}\nconsent: agreed")
    data = "pid,age,sex,sick,agreed\na,50,F,1,yes\nb,60,F,1,no\n"
    features, _, tally = built(asked(contract(columns=columns, data=data), "age"))
    assert (features.tolist(), tally.withheld) == ([[50]], 1)


def test_text_is_in_no_view_but_as_a_pseudonym(contract: Write, pseudonym_key: Path) -> None:
    with pytest.raises(DataError, match="column pid is a text without a list of values"):
        built(asked(contract(), "pid"))
    hidden = Constraint(("pid",), pseudonymize=("pid",))
    with pytest.raises(DataError, match="this worker has no key"):
        built(asked(contract(), "pid", constraint=hidden))
    features, _, _ = built(asked(contract(), "pid", constraint=hidden), pseudonym_key)
    digests = [hmac.new(b"k" * 32, b"pid\0" + who, hashlib.sha256).digest() for who in (b"P1", b"P2", b"P3")]
    assert features.ravel().tolist() == [int.from_bytes(digest[:3]) for digest in digests]


def test_a_column_that_the_contract_lacks_is_refused(contract: Write) -> None:
    with pytest.raises(DataError, match="the contract of heart has no column weight"):
        built(asked(contract(), "weight"))


# -- generalisation


def number(**fields: object) -> Column:
    return Column.model_validate_json(json.dumps({"type": "number", "sensitivity": "none", **fields}))


def test_ages_fall_into_bands_and_those_over_89_into_one() -> None:
    column = number(generalise={"bands": 5, "top": 90})
    ages = np.array([0, 4, 5, 89, 90, 117, np.nan])
    np.testing.assert_array_equal(generalised(ages, column, None, None), [0, 0, 5, 85, 90, 90, np.nan])


def test_outliers_are_clipped_before_they_are_banded() -> None:
    column = number(clip=[10, 50], generalise={"bands": 20})
    assert generalised(np.array([-5.0, 30.0, 1000.0]), column, None, None).tolist() == [0, 20, 40]


def test_a_zip_code_keeps_three_digits_unless_few_people_live_there() -> None:
    column = Column(type="text", sensitivity="geography", generalise=Generalisation(zip3="us-census-2000"))
    codes = pa.array(["02139", "03601", "893000001", "89301-0001", " 10001 ", None])
    np.testing.assert_array_equal(generalised(codes, column, None, None), [21, 0, 0, 0, 100, np.nan])
    own = Column(type="text", sensitivity="geography", generalise=Generalisation(zip3=("021",)))
    assert generalised(pa.array(["02139", "03601"]), own, None, None).tolist() == [0, 36]
    assert len(set(SMALL_ZIP3)) == 17


def test_what_is_no_zip_code_is_refused_with_its_row(contract: Write) -> None:
    columns = COLUMNS.replace("values: [F, M]", "generalise: {zip3: us-census-2000}")
    data = "pid,age,sex,sick\nP1,,02139,1\nP2,50,02139,1\nP3,50,2139,1\n"
    with pytest.raises(DataError, match=r"heart\.csv: row 3, column sex: got text, expected a ZIP code"):
        built(asked(contract(columns=columns, data=data), "sex", "age"))


def test_dates_of_one_person_move_together_and_by_a_bounded_amount(contract: Write, pseudonym_key: Path) -> None:
    columns = COLUMNS.replace("  sex:", "  seen: {type: date, sensitivity: date, generalise: {shift_days: 30}}\n  sex:")
    data = "pid,age,seen,sex,sick\nP1,50,2024-03-01,F,1\nP2,50,2024-03-01,F,1\nP1,50,2024-03-11,F,0\n"
    found = contract(columns=columns, data=data)
    with pytest.raises(DataError, match="dates moved by a key and this worker has none"):
        built(asked(found, "seen"))
    days = built(asked(found, "seen"), pseudonym_key)[0].ravel()
    first = (dt.date(2024, 3, 1) - dt.date(1970, 1, 1)).days
    assert days[2] - days[0] == 10
    assert days[:2].tolist() == [first + shift("P1", 30, START), first + shift("P2", 30, START)]


@given(st.text(max_size=20), st.integers(1, 3650))
def test_a_shift_is_within_its_bounds_and_always_the_same(who: str, days: int) -> None:
    assert -days <= shift(who, days, START) == shift(who, days, START) <= days


def test_a_date_becomes_its_years_first_day() -> None:
    column = Column(type="date", sensitivity="date", generalise=Generalisation(year=True))
    days = np.array([19783.0, -1.0, np.nan])  # 2024-03-01, 1969-12-31
    np.testing.assert_array_equal(generalised(days, column, None, None), [19723.0, -365.0, np.nan])


# -- one digest for one snapshot


def _parquet(contract: Write, tmp_path: Path, group: int, shuffle: bool = False) -> Contract:
    rows = 200
    order = np.arange(rows)[::-1] if shuffle else np.arange(rows)
    table = {
        "pid": [f"P{n}" for n in order],
        "age": [50] * rows,
        "sex": ["F"] * rows,
        "sick": [n % 2 for n in range(rows)],
    }
    pq.write_table(pa.table(table), tmp_path / "heart.parquet", row_group_size=group)
    return contract("source: {format: parquet, path: heart.parquet}\n")


def _digest(question: Asked, key: Path | None) -> str:
    features, labels, tally = built(question, key)
    run = load_run(RUN).model
    return split_view(features, labels, run, "a", kept_in(tally), tally.identities.encode()).digest


RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: view}
purpose: HMB
dataset: heart
features: [age]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 1}
"""


def test_the_digest_is_of_the_rows_and_not_of_the_chunks(contract: Write, tmp_path: Path, pseudonym_key: Path) -> None:
    found = {_digest(asked(_parquet(contract, tmp_path, group), "age"), pseudonym_key) for group in (200, 7, 1)}
    assert len(found) == 1


def test_other_rows_with_the_same_values_or_another_key_have_another_digest(
    contract: Write, tmp_path: Path, pseudonym_key: Path
) -> None:
    first = _digest(asked(_parquet(contract, tmp_path, 200), "age"), pseudonym_key)
    other = _digest(asked(_parquet(contract, tmp_path, 200, shuffle=True), "age"), pseudonym_key)
    pseudonym_key.write_bytes(b"o" * 32)
    salted = _digest(asked(_parquet(contract, tmp_path, 200), "age"), pseudonym_key)
    assert len({first, other, salted}) == 3


# -- in a process of its own


def test_a_view_is_built_apart(contract: Write, pseudonym_key: Path) -> None:
    question = asked(contract(), "sex", "age")
    features, labels, tally = built(question, pseudonym_key)
    found = read_view_apart(question, pseudonym_key)
    assert isinstance(found, ViewRead)
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.kept, kept_in(tally))
    assert (found.withheld, found.identities) == (tally.withheld, tally.identities)


def test_what_does_not_fit_is_told_from_the_other_process(contract: Write) -> None:
    question = asked(contract(data=ROWS + "P4,secret,F,no\n"), "age")
    with pytest.raises(DataError, match=r"^heart\.csv: row 4, column age: got text, expected a whole number$"):
        read_view_apart(question, None)
