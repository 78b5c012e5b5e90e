"""A database over TCP, from a real PostgreSQL with TLS: who can reach it, and that nobody else is reached."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from policies.errors import DocumentError
from silo.dataset.contract import Contract
from silo.dataset.sources import SqlQuery, files_of
from silo.worker.data.sources import typed_chunks
from silo.worker.data.sources.remote import without_binding
from silo.worker.door import open_door
from silo.worker.errors import DataError

from .conftest import Write
from .postgresql import PASSWORD, Server, server

HOST = "db.hospital.example"
NAMES = ("pid", "age", "sex", "sick")
SOURCE = "source: {format: sql, url: '%s', %scredentials: reader.txt, query: TABLE heart}\n"


@dataclass(frozen=True)
class Secured:
    """A server, and the authority that issued its certificate for HOST."""

    server: Server
    authority: bytes

    def url(self, host: str = HOST) -> str:
        return f"postgresql://{host}:{self.server.port}/postgres?hostaddr=127.0.0.1"


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    path = Path(tempfile.mkdtemp(prefix="cc-"))
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
    try:
        with server(path, (chain, issued.private_key_pem.bytes())) as found, found.connect() as owner:
            owner.execute(
                "CREATE TABLE heart AS SELECT 'P' || n AS pid, n % 90 AS age, 'F' AS sex, n % 3 = 0 AS sick"
                " FROM generate_series(1, 50000) n"
            )
            owner.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
            owner.execute("GRANT SELECT ON heart TO reader")
            yield Secured(found, authority.cert_pem.bytes())
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def site(tmp_path: Path, secured: Secured) -> Path:
    """Credentials and authority beside where a contract is written."""
    (tmp_path / "reader.txt").write_text(f"reader\n{PASSWORD}\n")
    (tmp_path / "reader.txt").chmod(0o600)
    (tmp_path / "ca.pem").write_bytes(secured.authority)
    return tmp_path


def refusal(contract: Contract) -> str:
    with pytest.raises(DataError) as caught:
        list(typed_chunks(contract, NAMES))
    assert PASSWORD not in repr(caught.value)
    return str(caught.value)


def test_rows_come_over_tls_whose_certificate_names_the_host(contract: Write, secured: Secured, site: Path) -> None:
    before = Path.cwd()
    chunks = list(typed_chunks(contract(SOURCE % (secured.url(), "authority: ca.pem, ")), NAMES))
    assert sum(len(chunk["age"]) for chunk in chunks) == 50_000
    assert chunks[0]["pid"].to_pylist()[:2] == ["P1", "P2"]
    assert Path.cwd() == before


def test_another_authority_or_another_name_is_not_spoken_to(contract: Write, secured: Secured, site: Path) -> None:
    other = secured.url("other.hospital.example")
    assert "certificate is not what it has to be" in refusal(contract(SOURCE % (other, "authority: ca.pem, ")))
    (site / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    found = contract(SOURCE % (secured.url(), "authority: ca.pem, "))
    assert "certificate is not what it has to be" in refusal(found)
    (site / "ca.pem").write_text("none")
    assert "TLS with the database failed" in refusal(found)


def test_a_server_without_tls_gets_no_password(contract: Write, site: Path) -> None:
    """It answers that it has none, as whoever sits between would."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(1000))
                connection.sendall(b"N")
                heard.append(connection.recv(1000))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"postgresql://{HOST}:{listener.getsockname()[1]}/postgres?hostaddr=127.0.0.1"
        assert refusal(contract(SOURCE % (url, "authority: ca.pem, "))) == "the database offers no TLS"
        thread.join(20)
    assert heard == [b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b""]


def test_the_database_itself_refuses_what_is_not_tls(contract: Write, secured: Secured, site: Path) -> None:
    plain = f"postgresql://127.0.0.1:{secured.server.port}/postgres"
    assert "does not let this user in: OperationalError" in refusal(contract(SOURCE % (plain, "")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gone = contract(SOURCE % (f"postgresql://127.0.0.1:{port}/postgres", ""))
    assert refusal(gone) == "the database cannot be reached: ConnectionRefusedError"


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        (f"postgresql://{HOST}/omop", ""),
        ("postgresql://10.0.0.5/omop", ""),
        (f"postgresql://{HOST}/omop?hostaddr=10.0.0.5", ""),
        (f"postgresql://reader:HUSH@{HOST}/omop", "authority: ca.pem, "),
        (f"postgresql:reader:HUSH@{HOST}/omop", "authority: ca.pem, "),
        (f"postgresql://{HOST}/omop?password=HUSH", "authority: ca.pem, "),
        (f"mysql://reader:HUSH@{HOST}/omop", ""),
        (f"postgresql://{HOST}/omop?sslmode=disable", "authority: ca.pem, "),
        (f"postgresql://{HOST}/omop?hostaddr=other.example", "authority: ca.pem, "),
        (f"postgresql://{HOST}/omop?host=/run/postgresql", "authority: ca.pem, "),
        (f"postgresql://{HOST}:99999/omop", "authority: ca.pem, "),
        (f"postgresql://{HOST}/", "authority: ca.pem, "),
        ("postgresql:///omop?host=/run/postgresql", "authority: ca.pem, "),
        ("sqlite:///heart.db", "authority: ca.pem, "),
    ],
)
def test_what_would_go_without_tls_or_elsewhere_is_refused(contract: Write, url: str, authority: str) -> None:
    with pytest.raises(DocumentError) as caught:
        contract(SOURCE % (url, authority))
    assert "HUSH" not in str(caught.value)


def test_where_it_is_and_what_is_read_for_it(contract: Write, tmp_path: Path) -> None:
    source = contract(
        SOURCE % (f"postgresql://{HOST}:5433/omop?hostaddr=10.0.0.5", "authority: ca.pem, ")
    ).dataset.source
    assert isinstance(source, SqlQuery)
    assert (source.host, source.address, source.database) == (HOST, "10.0.0.5:5433", "omop")
    assert files_of(source) == (tmp_path / "reader.txt", tmp_path / "ca.pem")
    six = contract(SOURCE % ("postgresql://[::1]/omop", "")).dataset.source
    assert isinstance(six, SqlQuery)
    assert six.address == "[::1]:5432"


def test_of_what_the_server_offers_only_binding_to_tls_is_left_out() -> None:
    offered = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
    assert without_binding(b"R", offered) == b"\0\0\0\x0aSCRAM-SHA-256\0\0"
    for kind, body in ((b"R", b"\0\0\0\x00"), (b"E", offered), (b"R", b"\0\0\0\x0bdata-PLUS\0")):
        assert without_binding(kind, body) == body


# -- the door

CHILD = """
import ctypes, json, os, socket, sys
from silo.confinement import leave_network, network_interfaces
from silo.worker.door import Door, open_door, shut
from silo.worker.errors import DataError
declared, other = sys.argv[1:]
door, process = open_door([declared])
said = leave_network()
def attempt(what):
    try:
        return what()
    except (OSError, DataError) as error:
        return type(error).__name__
def direct(address):
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), 5).close()
    return "connected"
def handed():
    with door.connect(declared) as connection:
        return connection.recv(100).decode()
os.environ.update(door.variable())
inherited = Door.inherited()
found = {
    "said": said, "how": door.how(), "handed": attempt(handed), "again": attempt(handed),
    "direct": attempt(lambda: direct(declared)), "other": attempt(lambda: direct(other)),
    "undeclared": attempt(lambda: door.connect(other)),
    "inherited": attempt(lambda: inherited.connect(declared).close()),
}
inherited.close()
shut()
found["after"] = attempt(lambda: door.connect(declared))
found["forgotten"] = Door.inherited() is None
print(json.dumps(found))
"""


def test_who_left_the_network_gets_the_declared_connection_and_no_other() -> None:
    """The reader's situation: no network of its own, and a door."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"the database")

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        for listener in (one, two):
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
        addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two)]
        command = [sys.executable, "-P", "-c", CHILD, *addresses]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if not found["said"].startswith("empty"):
        pytest.skip(f"this host allows no network namespace: {found['said']}")
    assert (found["handed"], found["again"], found["inherited"]) == ("the database", "the database", None)
    assert found["direct"] == "OSError", "loopback itself is another one here"
    assert found["other"] == "OSError"
    assert found["undeclared"] == "DataError"
    assert (found["after"], found["forgotten"]) == ("DataError", True)
    assert "files confined" in found["how"] or "NOT CONFINED" in found["how"]
    assert f"TCP to port {addresses[0].rpartition(':')[2]} alone" in found["how"] or "NOT SEPARATED" in found["how"]


def test_a_door_whose_process_is_gone_says_so_and_a_closed_port_is_told_by_its_kind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    door, process = open_door([address])
    with pytest.raises(DataError, match="cannot be reached: ConnectionRefusedError"):
        door.connect(address)
    process.kill()
    process.wait(20)
    with pytest.raises(DataError, match="cannot be reached"):
        door.connect(address)
    door.close()


def test_the_process_at_the_door_ends_when_nobody_is_left_to_ask() -> None:
    door, process = open_door(["127.0.0.1:9"])
    assert door.how()
    door.close()
    assert process.wait(20) == 0
