"""Where each hospital's table comes from."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from demo import scenarios
from demo.scenarios import (
    CREDIT_COLUMNS,
    CREDIT_FILE,
    CREDIT_SHARES,
    HEART_COLUMNS,
    HEART_FILES,
    SCENARIOS,
    WISCONSIN_SHARES,
    DataSource,
    scenario,
    write_credit,
    write_heart,
    write_wisconsin,
)
from federation.errors import ConcordatError, UnreachableError, UsageError
from federation.limits import MIB
from federation.run import load_run

# -- breast cancer


def _wisconsin(directory: Path) -> dict[str, Path]:
    directory.mkdir()
    paths = {name: directory / f"{name}.csv" for name in WISCONSIN_SHARES}
    write_wisconsin(paths, DataSource())
    return paths


@pytest.fixture(scope="module")
def wisconsin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _wisconsin(tmp_path_factory.mktemp("demo") / "wisconsin")


def test_the_split_is_the_same_each_time(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    for name, path in _wisconsin(tmp_path / "again").items():
        assert path.read_bytes() == wisconsin[name].read_bytes()


def test_every_row_of_the_table_is_at_one_hospital(wisconsin: dict[str, Path]) -> None:
    from sklearn.datasets import load_breast_cancer

    original = load_breast_cancer(as_frame=True).frame
    tables = pd.concat([pd.read_csv(path) for path in wisconsin.values()])
    assert len(tables) == len(original) == 569
    assert sorted(tables["mean_radius"]) == sorted(original["mean radius"])
    assert tables["malignant"].sum() == (original["target"] == 0).sum() == 212


def test_each_hospital_has_its_share_of_each_class(wisconsin: dict[str, Path]) -> None:
    for malignant, index in ((1, 0), (0, 1)):
        counts = {name: int((pd.read_csv(path)["malignant"] == malignant).sum()) for name, path in wisconsin.items()}
        total = sum(counts.values())
        for name, count in counts.items():
            assert count / total == pytest.approx(WISCONSIN_SHARES[name][index], abs=0.06), (name, counts)
    assert [sum(share[i] for share in WISCONSIN_SHARES.values()) for i in (0, 1)] == pytest.approx([1, 1])


def test_the_hospitals_differ_in_size_and_in_what_they_see(wisconsin: dict[str, Path]) -> None:
    tables = [pd.read_csv(path) for path in wisconsin.values()]
    share = [table["malignant"].mean() for table in tables]
    assert share[0] > 0.45 > share[1] > share[2]
    assert len(tables[2]) < 0.6 * len(tables[0])


def test_the_tables_have_the_columns_that_the_run_reads(wisconsin: dict[str, Path]) -> None:
    run = load_run((SCENARIOS["breast_cancer"].directory / "run.yaml").read_text()).model
    for path in wisconsin.values():
        assert set(pd.read_csv(path).columns) == set(run.columns)


# -- heart


CONTENTS = {name: f"{name}: 63.0,1.0,?\n".encode() for name in HEART_FILES}


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Small files take the place of the published ones, each with its own sum."""
    files = {name: (file, hashlib.sha256(CONTENTS[name]).hexdigest()) for name, (file, _) in HEART_FILES.items()}
    monkeypatch.setattr(scenarios, "HEART_FILES", files)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return {name: file for name, (file, _) in files.items()}


@pytest.fixture
def published(pinned: dict[str, str], tmp_path: Path) -> Path:
    directory = tmp_path / "published"
    directory.mkdir()
    for name, file in pinned.items():
        (directory / file).write_bytes(CONTENTS[name])
    return directory


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return {name: tmp_path / f"{name}.csv" for name in HEART_FILES}


@contextmanager
def _serving(directory: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, directory=str(directory), **options)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def test_the_files_of_a_directory_are_taken(published: Path, places: dict[str, Path]) -> None:
    write_heart(places, DataSource(published))
    assert {name: path.read_bytes() for name, path in places.items()} == CONTENTS


def test_a_file_with_another_sum_is_refused(published: Path, places: dict[str, Path], pinned: dict[str, str]) -> None:
    (published / pinned["budapest"]).write_bytes(CONTENTS["budapest"] + b"\n")
    with pytest.raises(ConcordatError, match=r"hungarian\.data has SHA-256 .*, expected .*not the published"):
        write_heart(places, DataSource(published))
    assert not places["budapest"].exists()


def test_a_missing_and_an_oversized_file_are_refused(
    published: Path, places: dict[str, Path], pinned: dict[str, str]
) -> None:
    (published / pinned["cleveland"]).write_bytes(b"x" * (MIB + 1))
    with pytest.raises(ConcordatError, match=f"has more than {MIB} bytes"):
        write_heart(places, DataSource(published))
    (published / pinned["cleveland"]).unlink()
    with pytest.raises(UsageError, match=r"processed\.cleveland\.data is missing"):
        write_heart(places, DataSource(published))


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_files_are_downloaded(published: Path, places: dict[str, Path], slash: str) -> None:
    with _serving(published) as url:
        write_heart(places, DataSource(url=url.rstrip("/") + slash))
    assert {name: path.read_bytes() for name, path in places.items()} == CONTENTS


def test_a_download_with_another_sum_is_refused(
    published: Path, places: dict[str, Path], pinned: dict[str, str]
) -> None:
    (published / pinned["cleveland"]).write_bytes(b"an error page\n")
    with _serving(published) as url, pytest.raises(ConcordatError, match="nothing was trained on it"):
        write_heart(places, DataSource(url=url))
    assert not any(path.exists() for path in places.values())


def test_a_download_without_end_is_cut(published: Path, places: dict[str, Path], pinned: dict[str, str]) -> None:
    (published / pinned["cleveland"]).write_bytes(b"x" * (3 * MIB))
    with _serving(published) as url, pytest.raises(ConcordatError, match="expected a small table"):
        write_heart(places, DataSource(url=url))


def test_a_download_that_is_not_there_says_what_to_give_instead(
    published: Path, places: dict[str, Path], pinned: dict[str, str]
) -> None:
    (published / pinned["cleveland"]).unlink()
    with _serving(published) as url, pytest.raises(UnreachableError, match=r"404.*give --data-dir"):
        write_heart(places, DataSource(url=url))
    with pytest.raises(UnreachableError, match=r"cannot be downloaded: .*give --data-dir"):
        write_heart(places, DataSource(url=url))  # the server is gone
    with pytest.raises(UnreachableError, match="cannot be downloaded"):
        write_heart(places, DataSource(url="gopher://127.0.0.1/"))


def test_the_published_files_have_their_sums_and_their_patients(
    request: pytest.FixtureRequest, places: dict[str, Path]
) -> None:
    directory = request.config.getoption("--heart-dir", default=None)
    if directory is None:
        pytest.skip("UCI Heart Disease files not given")
    write_heart(places, DataSource(Path(directory)))
    patients = {"cleveland": 303, "budapest": 294, "zurich-basel": 123, "long-beach": 200}
    for name, path in places.items():
        table = pd.read_csv(path, header=None, names=list(HEART_COLUMNS), na_values=["?"])
        assert len(table) == patients[name]
        assert set(table["num"]) <= {0, 1, 2, 3, 4}


# -- both


@pytest.mark.parametrize(("given", "found"), [("heart", "heart"), ("breast-cancer", "breast_cancer")])
def test_a_scenario_is_found_by_its_name(given: str, found: str) -> None:
    assert scenario(given).name == found


def test_an_unknown_scenario_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="got example 'lung', expected one of breast_cancer, heart, credit"):
        scenario("lung")


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_scenario_has_a_policy_for_each_of_its_silos(name: str) -> None:
    chosen = SCENARIOS[name]
    found = {path.name.removesuffix(".yaml") for path in (chosen.directory / "policies").glob("*.yaml")}
    assert {name for name in found if not name.endswith(".test")} == set(chosen.silos)
    run = load_run((chosen.directory / "run.yaml").read_text()).model
    assert run.dataset == chosen.dataset
    columns = chosen.source.get("columns")
    if isinstance(columns, list):
        assert set(run.columns) <= set(columns)


# -- credit


@pytest.fixture(scope="module")
def credit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    directory = request.config.getoption("--credit-dir", default=None)
    if directory is None:
        pytest.skip("UCI credit card file not given")
    place = tmp_path_factory.mktemp("credit")
    paths = {name: place / f"{name}.csv" for name in CREDIT_SHARES}
    write_credit(paths, DataSource(Path(directory)))
    return {name: pd.read_csv(path) for name, path in paths.items()}


def test_every_customer_is_at_one_bank(credit: dict[str, pd.DataFrame]) -> None:
    together = pd.concat(credit.values())
    assert sorted(together["id"]) == list(range(1, 30_001))
    assert together["default_next_month"].sum() == 6636
    assert {name: len(table) for name, table in credit.items()} == {
        "consumer-bank": 9514,
        "universal-bank": 17783,
        "us-bank": 2703,
    }
    assert all(tuple(table.columns) == CREDIT_COLUMNS for table in credit.values())


def test_the_banks_differ_in_their_customers_limits_and_defaults(credit: dict[str, pd.DataFrame]) -> None:
    limits = [table["limit_bal"].median() for table in credit.values()]
    assert limits[0] < 0.4 * limits[1] < limits[1] < limits[2]
    defaults = [table["default_next_month"].mean() for table in credit.values()]
    assert defaults[0] > 0.25 > 0.21 > defaults[1] > defaults[2]
    assert [sum(share[band] for share in CREDIT_SHARES.values()) for band in range(3)] == pytest.approx([1, 1, 1])


def test_a_credit_file_with_another_sum_is_refused(tmp_path: Path) -> None:
    (tmp_path / CREDIT_FILE[0]).write_text("ID,X1,Y\n1,20000,1\n")
    paths = {name: tmp_path / f"{name}.csv" for name in CREDIT_SHARES}
    with pytest.raises(ConcordatError, match=r"taiwan_credit_default\.csv has SHA-256 .*not the published file"):
        write_credit(paths, DataSource(tmp_path))
    assert not any(path.exists() for path in paths.values())
