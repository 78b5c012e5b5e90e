"""`kind: Silo` and `kind: Worker`."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import UsageError
from policies.errors import DocumentError
from silo.config import MAX_SOCKET_PATH, CsvSource, ParquetSource, load_silo_config, load_worker_config

SILO = """\
apiVersion: concordat/v1
kind: Silo
policy: policy.yaml
socket: run/worker.sock
"""

LISTEN = """\
listen: {address: "0.0.0.0:9551", certificate: tls/tls.crt, key: tls/tls.key, authority: tls/ca.crt, peer: worker}
"""

WORKER = """\
apiVersion: concordat/v1
kind: Worker
silo: hospital-a
socket: ../gate/worker.sock
scratch: scratch
datasets:
  heart: {format: csv, path: data/heart.csv, columns: [age, sick], missing: ["?"], separator: ";"}
  lung: {format: parquet, path: /srv/lung.parquet}
"""


@pytest.fixture
def place(short_path: Path) -> Path:
    return short_path.resolve()


def _write(place: Path, text: str) -> Path:
    path = place / "config.yaml"
    path.write_text(text)
    return path


def test_a_gates_paths_are_relative_to_its_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(place, SILO)
    monkeypatch.chdir(place.parent)
    config = load_silo_config(Path(place.name) / "config.yaml")
    assert (config.policy, config.socket) == (place / "policy.yaml", place / "run/worker.sock")
    assert config.worker_uid is None


def test_a_workers_paths_are_relative_to_its_file(place: Path) -> None:
    config = load_worker_config(_write(place, WORKER))
    assert config.scratch == place / "scratch"
    assert config.socket == place / "../gate/worker.sock"
    assert config.datasets == {
        "heart": CsvSource(
            format="csv", path=place / "data/heart.csv", columns=("age", "sick"), missing=("?",), separator=";"
        ),
        "lung": ParquetSource(format="parquet", path=Path("/srv/lung.parquet")),
    }


def test_a_csv_file_needs_no_more_than_its_path(place: Path) -> None:
    config = load_worker_config(
        _write(place, WORKER.split("  heart:", maxsplit=1)[0] + "  heart: {format: csv, path: t.csv}\n")
    )
    source = config.datasets["heart"]
    assert isinstance(source, CsvSource)
    assert (source.columns, source.missing, source.separator) == (None, ("", "NA", "NaN"), ",")


@pytest.mark.parametrize(
    ("load", "text", "problem"),
    [
        (load_silo_config, SILO + "data: /srv/t.csv\n", "config.yaml:5:1: .*data"),
        (load_silo_config, SILO.replace("policy:", "polcy:"), 'config.yaml:3:1: .*did you mean "policy"'),
        (load_silo_config, SILO + "worker_uid: -1\n", "config.yaml:5:13: "),
        (
            load_silo_config,
            SILO.replace("socket: run/worker.sock\n", ""),
            "either socket .* or listen",
        ),
        (load_silo_config, SILO + LISTEN, "config.yaml:4:9: .*either socket .one host. or listen"),
        (
            load_silo_config,
            SILO.replace("socket: run/worker.sock\n", LISTEN) + "worker_uid: 7\n",
            "config.yaml:5:13: .*no worker_uid beside listen",
        ),
        (load_silo_config, SILO + "place: {country: Germany}\n", "config.yaml:5:"),
        (load_worker_config, WORKER + LISTEN.replace("listen", "connect"), "config.yaml:4:9: .*socket .* or connect"),
        (load_silo_config, WORKER, "config.yaml:2:7: .*Worker.*expected Silo"),
        (load_worker_config, WORKER + "policy: p.yaml\n", "config.yaml:9:1: .*policy"),
        (load_worker_config, WORKER + "threads: 0\n", "config.yaml:9:10: "),
        (load_worker_config, WORKER.replace('separator: ";"', 'separator: ";;"'), "config.yaml:7:"),
        (load_worker_config, WORKER.replace("format: parquet, path", "format: excel, path"), "config.yaml:8:"),
        (load_worker_config, WORKER.replace("lung.parquet}", "lung.parquet, columns: [a]}"), "config.yaml:8:.*columns"),
        (load_worker_config, WORKER.replace("silo: hospital-a", "silo: Hospital A"), "config.yaml:3:7: "),
        (load_worker_config, WORKER.split("datasets:", maxsplit=1)[0] + "datasets: {}\n", "config.yaml:6:1: "),
    ],
)
def test_a_mistake_is_named_with_its_position(place: Path, load, text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem):
        load(_write(place, text))


@pytest.mark.parametrize(("load", "text"), [(load_silo_config, SILO), (load_worker_config, WORKER)])
def test_a_socket_path_that_the_kernel_does_not_take_is_refused(place: Path, load, text: str) -> None:
    room = MAX_SOCKET_PATH - len(str(place)) - 1
    line = next(line for line in text.splitlines() if line.startswith("socket:"))
    assert load(_write(place, text.replace(line, f"socket: {'s' * room}"))).socket.name == "s" * room
    with pytest.raises(UsageError, match=f"has {MAX_SOCKET_PATH + 1} bytes.*choose a shorter path"):
        load(_write(place, text.replace(line, f"socket: {'s' * (room + 1)}")))
    wide = room // 2 + 1  # as characters it would fit; the kernel counts bytes
    with pytest.raises(UsageError, match="bytes"):
        load(_write(place, text.replace(line, f"socket: {'ü' * wide}")))


@pytest.mark.parametrize("load", [load_silo_config, load_worker_config])
def test_a_missing_file_and_one_that_is_no_text_are_one_sentence(place: Path, load) -> None:
    with pytest.raises(UsageError, match="is missing"):
        load(place / "none.yaml")
    path = place / "config.yaml"
    path.write_bytes(b"apiVersion: concordat/v1\nkind: \xff\n")
    with pytest.raises(DocumentError, match=r"config\.yaml:2:7: got the byte 0xff"):
        load(path)


def test_an_end_of_the_channel_between_pods_has_its_files_beside_the_configuration(place: Path) -> None:
    listen = load_silo_config(_write(place, SILO.replace("socket: run/worker.sock\n", LISTEN))).listen
    assert listen is not None
    assert (listen.address, listen.peer) == ("0.0.0.0:9551", "worker")
    assert (listen.certificate, listen.key) == (place / "tls/tls.crt", place / "tls/tls.key")


def test_the_gates_address_can_come_from_outside(place: Path) -> None:
    text = WORKER.replace("socket: ../gate/worker.sock\n", LISTEN.replace("listen", "connect"))
    config = load_worker_config(_write(place, text), "10.0.0.7:9551")
    assert config.connect is not None
    assert config.connect.address == "10.0.0.7:9551"
    with pytest.raises(UsageError, match="expected host:port"):
        load_worker_config(_write(place, text), "10.0.0.7")
    with pytest.raises(UsageError, match="expected none"):
        load_worker_config(_write(place, WORKER), "10.0.0.7:9551")


@pytest.mark.parametrize("line", ["metrics: 9550", "metrics: here", "metrics: 0.0.0.0:0"])
def test_an_address_for_metrics_that_is_none_is_refused(place: Path, line: str) -> None:
    with pytest.raises((UsageError, DocumentError)):
        load_silo_config(_write(place, SILO + line + "\n"))
