"""`concordat data`: a draft without identifying values, a report with remedies, a made-up table within its contract."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.cli import command
from silo.dataset.contract import Dataset
from silo.dataset.loading import load_contract
from silo.dataset.readiness import FoundProblem, Readiness
from silo.worker.data.owner.check import check
from silo.worker.data.owner.describe import draft
from silo.worker.data.owner.locating import located
from silo.worker.data.owner.mock import contract as mocked_contract
from silo.worker.data.owner.mock import table
from silo.worker.data.owner.page import lines, page
from silo.worker.data.sources import typed_chunks
from silo.worker.errors import DataError

from .conftest import COLUMNS, Write

SECRETS = ("Ada Lovelace", "ada@example.org", "MRN-4711", "02139", "1970-03-05", "rare-word")


def concordat(*words: str | Path) -> Result:
    return CliRunner().invoke(command, ["data", *map(str, words)], catch_exceptions=False)


def people(path: Path, rows: int = 60) -> Path:
    """Rows in which each text of SECRETS stands once."""
    frame = pd.DataFrame(
        {
            "full_name": ["Ada Lovelace"] + [f"Name {n}" for n in range(rows - 1)],
            "email": ["ada@example.org"] + [f"n{n}@example.org" for n in range(rows - 1)],
            "mrn": ["MRN-4711"] + [f"MRN-{n}" for n in range(rows - 1)],
            "zip": ["02139"] + ["10001"] * (rows - 1),
            "birth_date": ["1970-03-05"] + ["1980-01-01"] * (rows - 1),
            "remark": ["rare-word"] + ["common"] * (rows - 1),
            "sex": ["F", "M"] * (rows // 2),
            "age": [93] + [n % 50 + 20 for n in range(rows - 1)],
            "chol": [None] + [200.5] * (rows - 1),
            "sick": [0, 1] * (rows // 2),
        }
    )
    frame.to_csv(path, index=False)
    return path


# -- describe


def test_a_draft_is_a_contract_that_the_data_satisfy_and_holds_no_identifying_value(tmp_path: Path) -> None:
    source = people(tmp_path / "people.csv")
    result = concordat("describe", source)
    assert result.exit_code == 0
    assert [secret for secret in SECRETS if secret in result.output] == []
    path = tmp_path / "people.dataset.yaml"
    path.write_text(result.output)
    found = load_contract(path)
    columns = found.dataset.columns
    kinds = {name: column.type for name, column in columns.items()}
    assert kinds == {
        "full_name": "text", "email": "text", "mrn": "text", "zip": "text", "birth_date": "date", "remark": "text",
        "sex": "text", "age": "integer", "chol": "number", "sick": "boolean",
    }  # fmt: skip
    assert columns["sex"].values == ("F", "M")
    assert columns["age"].range == (20, 100)
    assert not columns["chol"].required
    assert columns["age"].required
    suspected = {name: column.sensitivity for name, column in columns.items() if column.sensitivity != "none"}
    assert suspected == {
        "full_name": "name", "email": "email", "mrn": "medical_record", "zip": "geography", "birth_date": "date",
        "remark": "other",
    }  # fmt: skip
    assert check(found).ready


def test_a_usual_mark_among_numbers_is_drafted_as_a_missing_value(tmp_path: Path) -> None:
    rows = [
        f"{row},{'?' if row % 3 else row},{'?' if row < 5 else '-'},{'none' if row < 30 else 'some'}"
        for row in range(60)
    ]
    (tmp_path / "marks.csv").write_text("id,chol,empty,dose\n" + "\n".join(rows) + "\n")
    (tmp_path / "c.yaml").write_text(draft(*located(tmp_path / "marks.csv")))
    contract = load_contract(tmp_path / "c.yaml")
    columns = contract.dataset.columns
    assert (columns["chol"].type, columns["chol"].missing, columns["chol"].required) == ("integer", ("?",), False)
    assert columns["empty"].missing == ("-", "?")
    assert (columns["dose"].type, columns["dose"].missing, columns["dose"].required) == ("text", (), True)
    assert columns["id"].required
    assert "integer" in next(line for line in lines(check(contract)) if line.startswith("chol"))


def test_a_parquet_directory_and_a_german_csv_file_are_described(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": range(40), "site": ["a", "b"] * 20})
    frame.to_parquet(tmp_path / "parts", partition_cols=["site"])
    text = draft(*located(tmp_path / "parts"))
    assert "age: {type: integer" in text
    assert "site: {type: text" in text
    german = tmp_path / "de.csv"
    german.write_text("alter;wert\n" + "40;1\n" * 20)
    assert "separator: ;" in draft(*located(german))


@pytest.mark.parametrize("content", ["", "a,b\n"])
def test_what_has_no_rows_is_not_described(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"empty\.csv"):
        draft(*located(path))
    with pytest.raises(DataError, match=r"expected \.csv, \.gz, \.parquet"):
        located(tmp_path / "table.xlsx")


# -- check


def found_in(readiness: Readiness) -> set[tuple[str, str | None]]:
    return {(finding.level, finding.column) for finding in readiness.findings}


def test_everything_that_is_wrong_is_counted_and_nothing_ends_the_check(contract: Write) -> None:
    data = "pid,age,sex,sick\n" + "".join(f"P{n},{20 + n % 60},{'FM'[n % 2]},{n % 2}\n" for n in range(100))
    data += "X1,old,F,1\nX2,50.5,F,1\nX3,121,F,1\nX4,50,X,1\nX5,50,F,\nX5,,F,0\n"
    readiness = check(contract(data=data))
    by_name = {summary.name: summary for summary in readiness.columns}
    assert (by_name["age"].wrong, by_name["age"].outside, by_name["age"].missing) == (2, 1, 1)
    assert (by_name["sex"].outside, by_name["sick"].missing) == (1, 1)
    assert (readiness.rows, readiness.usable) == (106, 100)
    assert not readiness.ready
    assert {("error", "age"), ("error", "sex"), ("error", "sick"), ("note", "pid")} <= found_in(readiness)
    told = "\n".join(lines(readiness)) + page(readiness)
    assert not re.search(r"\b(old|50\.5|X[1-5])\b", told)


def test_a_column_that_gives_the_label_away_is_suspected_and_others_are_not(contract: Write) -> None:
    rows = "".join(f"P{n},{(n * 7) % 60},F,{n % 2},{10 * (n % 2) + n / 1e6}\n" for n in range(200))
    columns = COLUMNS.replace("key: pid", "  bill: {type: number, sensitivity: none}\nkey: pid")
    readiness = check(contract(columns=columns, data="pid,age,sex,sick,bill\n" + rows))
    assert found_in(readiness) == {("warning", "bill")}
    assert readiness.ready


def test_a_rare_class_and_a_small_cell_are_told(contract: Write) -> None:
    data = "pid,age,sex,sick\n" + "".join(f"P{n},{n % 50},F,{int(n < 3)}\n" for n in range(100))
    readiness = check(contract(data=data))
    assert readiness.classes == {"1": 3, "0": 97}
    assert readiness.smallest_cell == ("class of the label", 3)
    assert found_in(readiness) == {("warning", "sick"), ("warning", None)}


def test_a_label_with_one_value_is_not_ready(contract: Write) -> None:
    assert not check(contract(data="pid,age,sex,sick\n" + "P1,50,F,1\n" * 20)).ready


def test_drift_against_the_last_check_is_told(contract: Write, tmp_path: Path) -> None:
    head = "pid,age,sex,sick\n"
    first = contract(data=head + "".join(f"P{n},{40 + n % 10},{'FM'[n % 2]},{n % 2}\n" for n in range(100)))
    record = tmp_path / "record.json"
    assert concordat("check", first.path, "--record", record).exit_code == 0
    assert record.stat().st_mode & 0o777 == 0o600
    assert "moved" not in concordat("check", first.path, "--record", record).output
    contract(data=head + "".join(f"P{n},{43 + n % 10},{'FFM'[n % 3]},{n % 2}\n" for n in range(100)))
    output = concordat("check", first.path, "--record", record).output
    assert "age: its mean moved by 1.0" in output
    assert "sex: the share of a value moved by 17 points" in output
    record.write_text("[]")
    assert "nothing to compare with" in concordat("check", first.path, "--record", record).stderr


def test_the_report_is_one_page_that_loads_nothing_and_runs_nothing(contract: Write, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    assert concordat("check", contract(data="pid,age,sex,sick\nP1,old,F,1\n").path, "--html", html).exit_code == 1
    tags: list[tuple[str, list[tuple[str, str | None]]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, attrs))

    Reader().feed(html.read_text())
    names = {tag for tag, _ in tags}
    assert not names & {"script", "img", "link", "iframe", "object", "a"}
    assert "default-src 'none'" in html.read_text()
    assert not [attrs for _, attrs in tags if any(name in {"src", "href"} for name, _ in attrs)]


def test_a_columns_name_cannot_write_into_the_page(contract: Write) -> None:
    readiness = check(contract())
    spoilt = replace(readiness, dataset="<script>x</script>", findings=(FoundProblem("note", "<b>", "<i>", "<u>"),))
    assert not re.search("<(script|b|i|u)>", page(spoilt))


def test_the_report_as_json_has_the_verdict(contract: Write) -> None:
    data = "pid,age,sex,sick\n" + "".join(f"P{n},{n},F,{n % 2}\n" for n in range(100))
    found = contract(data=data)
    content = json.loads(concordat("check", found.path, "--json").stdout)
    assert (content["ready"], content["rows"], content["contract"]) == (True, 100, found.digest)


# -- mock

KINDS = st.sampled_from(
    [
        {"type": "integer", "range": [3, 9]},
        {"type": "integer", "values": [1, 5, 7]},
        {"type": "number", "range": [-0.5, 0.25], "required": True},
        {"type": "boolean"},
        {"type": "date", "generalise": {"year": True}},
        {"type": "text", "values": ["a", "b, c", 'd"e']},
        {"type": "text", "generalise": {"zip3": "us-census-2000"}},
        {"type": "text", "missing": ["?"]},
        {"type": "number", "missing": ["-9"]},
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(KINDS, min_size=1, max_size=6), st.integers(1, 60), st.integers(0, 5))
def test_a_made_up_table_satisfies_its_contract(
    tmp_path: Path, kinds: list[dict[str, object]], n: int, seed: int
) -> None:
    columns = {f"c{at}": {"sensitivity": "none", **kind} for at, kind in enumerate(kinds)}
    dataset = Dataset.model_validate_json(
        json.dumps(
            {
                "apiVersion": "concordat/v1",
                "kind": "Dataset",
                "metadata": {"name": "mock", "version": 1},
                "source": {"format": "csv", "path": "elsewhere.csv"},
                "columns": columns,
            }
        )
    )
    (tmp_path / "mock.csv").write_text(table(dataset, n, seed))
    path = tmp_path / "mock.dataset.yaml"
    path.write_text(mocked_contract(dataset, "mock.csv"))
    found = load_contract(path)
    assert found.dataset.columns == dataset.columns
    assert sum(len(chunk["c0"]) for chunk in typed_chunks(found, tuple(columns))) == n
    assert table(dataset, n, seed) == table(dataset, n, seed)


def test_the_mock_command_needs_no_data(contract: Write, tmp_path: Path) -> None:
    result = concordat("mock", contract(data=None).path, "--rows", "50", "--out", tmp_path / "mock")
    assert result.exit_code == 0
    found = load_contract(tmp_path / "mock" / "heart.dataset.yaml")
    (rows,) = typed_chunks(found, ("pid", "age", "sex", "sick"))
    assert len(set(rows["pid"].to_pylist())) == 50
