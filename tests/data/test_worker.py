"""A worker as the process that it is: a view from a real database, and nothing trained on data that do not fit."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trustme

from federation.processes import Child, command_line
from silo.channel import Frame, receive, send
from silo.constraint import Constraint
from silo.dataset.loading import load_contract

from .conftest import COLUMNS, CSV, HEAD, ROWS
from .postgresql import PASSWORD, server

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

SECONDS = 90.0
RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: view}
purpose: HMB
dataset: DATASET
features: [age, sex]
label: {column: sick, positive_above: 0.5}
app: {model: "model:build_model"}
strategy: {rounds: 1}
metrics: [loss]
"""
APP = """
import os

def build_model(features):
    import keras
    for path in PATHS:
        try:
            open(path).read()
        except (PermissionError, FileNotFoundError):
            continue
        raise EOFError
    import socket
    for make in (lambda: socket.socket(socket.AF_UNIX).connect(SOCKET), lambda: socket.socketpair()):
        try:
            make()
        except PermissionError:
            continue
        raise KeyError
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    return model
"""
WORKER = """\
apiVersion: concordat/v1
kind: Worker
silo: hospital-a
socket: gate.sock
scratch: scratch
threads: 1
datasets:
  spoilt: {format: contract, path: contracts/spoilt.yaml}
  heart: {format: contract, path: contracts/heart.yaml}
"""


@contextmanager
def _site() -> Iterator[tuple[Path, socket.socket]]:
    path = Path(tempfile.mkdtemp(prefix="cc-")).resolve()
    path.chmod(0o755)
    (path / "db").mkdir()
    (path / "contracts").mkdir()
    try:
        with server(path / "db") as database, database.connect() as owner, socket.socket(socket.AF_UNIX) as sock:
            owner.execute(
                "CREATE TABLE heart AS SELECT n AS pid, n % 90 AS age, 'F' AS sex, n % 3 = 0 AS sick"
                " FROM generate_series(1, 900) n"
            )
            owner.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
            owner.execute("GRANT SELECT ON heart TO reader")
            credentials = path / "contracts" / "reader.txt"
            credentials.write_text(f"reader\n{PASSWORD}\n")
            credentials.chmod(0o600)
            sql = f"source: {{format: sql, url: '{database.url()}', credentials: reader.txt, query: TABLE heart}}\n"
            (path / "contracts" / "heart.yaml").write_text(HEAD + sql + COLUMNS)
            (path / "contracts" / "spoilt.yaml").write_text(HEAD + CSV + COLUMNS)
            (path / "contracts" / "heart.csv").write_text(ROWS + "P4,secret,F,no\n")
            (path / "worker.yaml").write_text(WORKER)
            sock.bind(str(path / "gate.sock"))
            sock.listen(8)
            sock.settimeout(SECONDS)
            command = command_line("silo", "worker", str(path / "worker.yaml"))
            child = Child("worker", command, path / "worker.log", dict(os.environ))
            try:
                yield path, sock
            finally:
                child.signal(signal.SIGKILL)
                child.wait(30)
    finally:
        shutil.rmtree(path)


def _prepare(sock: socket.socket, dataset: str, app: str) -> Frame:
    """The answer of the next trainer, which has said that it has no network."""
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("model.py", app)
    connection, _ = sock.accept()
    connection.settimeout(SECONDS)
    with closing(connection):
        hello = receive(connection)
        if not str(hello.fields["network"]).startswith("empty"):
            pytest.skip(f"this host allows no network namespace: {hello.fields['network']}")
        constraint = Constraint(("age", "sex", "sick"))
        fields = {"run": RUN.replace("DATASET", dataset), "view": constraint.fields()}
        send(connection, Frame("prepare", fields, bundle.getvalue()))
        answer = receive(connection)
        if dataset == "spoilt":
            send(connection, Frame("initial", {}))
            assert receive(connection).op == "error"
        return answer


def test_a_database_is_read_without_a_network_and_what_does_not_fit_trains_nothing() -> None:
    with _site() as (path, sock):
        credentials = path / "contracts" / "reader.txt"
        app = f"SOCKET = {str(path / 'db' / '.s.PGSQL.5432')!r}\nPATHS = [{str(credentials)!r}]\n{APP}"
        refused = _prepare(sock, "spoilt", app)
        assert refused.op == "error"
        assert refused.fields["message"] == "heart.csv: row 4, column age: got text, expected a whole number"
        answer = _prepare(sock, "heart", app)
        assert answer.op == "prepared", answer.fields
        assert answer.fields["rows"] == 900
        assert answer.fields["contract"] == load_contract(path / "contracts" / "heart.yaml").digest
        assert PASSWORD not in (path / "worker.log").read_text()


# -- a database over TCP

HOST = "db.hospital.example"
TCP_APP = """
import os
import socket
import stat

def build_model(features):
    import keras
    for path in PATHS:
        try:
            open(path).read()
        except (PermissionError, FileNotFoundError):
            continue
        raise EOFError
    for make in (
        lambda: socket.create_connection(("127.0.0.1", PORT), 5),
        lambda: socket.create_connection(("127.0.0.1", 9), 5),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    ):
        try:
            make()
        except PermissionError:
            continue
        raise KeyError
    held = [int(name) for name in os.listdir("/proc/self/fd")]
    sockets = 0
    for number in held:
        try:
            sockets += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            pass
    if sockets != 1:
        raise IndexError  # the gate's connection is the only one there may be
    if "CONCORDAT_DATABASE_DOOR" in os.environ:
        raise LookupError
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    return model
"""
STATISTICS = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {}}
"""


def test_a_database_on_another_host_is_read_over_tls_by_a_worker_without_a_network() -> None:
    path = Path(tempfile.mkdtemp(prefix="cc-")).resolve()
    path.chmod(0o755)
    (path / "db").mkdir()
    contracts = path / "contracts"
    contracts.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
    try:
        with (
            server(path / "db", (chain, issued.private_key_pem.bytes())) as database,
            database.connect() as owner,
            socket.socket(socket.AF_UNIX) as sock,
        ):
            owner.execute(
                "CREATE TABLE heart AS SELECT n AS pid, n % 90 AS age, 'F' AS sex, n % 3 = 0 AS sick"
                " FROM generate_series(1, 900) n"
            )
            owner.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
            owner.execute("GRANT SELECT ON heart TO reader")
            credentials = contracts / "reader.txt"
            credentials.write_text(f"reader\n{PASSWORD}\n")
            credentials.chmod(0o600)
            (contracts / "ca.pem").write_bytes(authority.cert_pem.bytes())
            url = f"postgresql://{HOST}:{database.port}/postgres?hostaddr=127.0.0.1"
            given = f"format: sql, url: '{url}', authority: ca.pem, credentials: reader.txt, query: TABLE heart"
            sql = f"source: {{{given}}}\n"
            (contracts / "heart.yaml").write_text(HEAD + sql + COLUMNS)
            spoilt = "  spoilt: {format: contract, path: contracts/spoilt.yaml}\n"
            (path / "worker.yaml").write_text(WORKER.replace(spoilt, ""))
            sock.bind(str(path / "gate.sock"))
            sock.listen(8)
            sock.settimeout(SECONDS)
            command = command_line("silo", "worker", str(path / "worker.yaml"))
            child = Child("worker", command, path / "worker.log", dict(os.environ))
            try:
                connection, _ = sock.accept()
                connection.settimeout(SECONDS)
                with closing(connection):
                    hello = receive(connection)
                    network = str(hello.fields["network"])
                    if not network.startswith("empty"):
                        pytest.skip(f"this host allows no network namespace: {network}")
                    assert f"opens connections to 127.0.0.1:{database.port}: " in network
                    constraint = Constraint(("age",))
                    fields = {"run": STATISTICS, "view": constraint.fields(), "cell": 10}
                    send(connection, Frame("summarise", fields))
                    answer = receive(connection)
                    assert answer.op == "summarised", answer.fields
                    assert (answer.fields["rows"], answer.fields["summary"]["mean"]) == (900, [44.5])
                app = f"PORT = {database.port}\nPATHS = [{str(credentials)!r}]\n{TCP_APP}"
                prepared = _prepare(sock, "heart", app)
                assert prepared.op == "prepared", prepared.fields
                assert prepared.fields["rows"] == 900
                assert PASSWORD not in (path / "worker.log").read_text()
            finally:
                child.signal(signal.SIGTERM)
                child.wait(30)
    finally:
        shutil.rmtree(path)
