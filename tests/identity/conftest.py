"""A coordinator beside its authority, as a real process: it enrols, renews and turns away on real sockets."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.authority import Authority
from demo.federate import Deployment, environment
from demo.founding import Founded, found
from demo.ports import reserve_port
from demo.scenarios import DataSource, scenario
from federation.addresses import split_address
from federation.enrolment import Invitation, join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role
from federation.processes import Child, command_line, stop_all
from federation.renewal import request_by_courier, verify_courier
from federation.tls import client_context

NAME = "cardio.example"
FLEET = "/v1/fleet/"
CONTROL = "/concordat/v1/control/"
EVIDENCE = "/concordat/v1/evidence/"
IDENTITY = "/concordat/v1/identity/"


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Online:
    """A federation whose coordinator enrols and renews on line."""

    def __init__(self, directory: Path, lifetime: str = "30d") -> None:
        self.directory = directory
        self.authority = Authority(directory / "authority")
        self.authority.found(NAME, lifetime)
        self.address, self.enrolment = f"127.0.0.1:{reserve_port()}", f"127.0.0.1:{reserve_port()}"
        self.coordinator = self.member("hub", Role.COORDINATOR, self.address)
        self.child: Child | None = None

    def start(self) -> Child:
        options = ["--authority", str(self.authority.path), "--enrolment", self.enrolment]
        arguments = command_line("coordinator", "serve", "--home", str(self.coordinator.path), *options)
        self.child = Child("coordinator", arguments, self.directory / "coordinator.log", environment())
        self.child.expect("listening on", 60)
        return self.child

    def member(self, name: str, role: Role = Role.SILO, *addresses: str, lifetime: timedelta | None = None) -> Home:
        """A member enrolled by courier."""
        home = Home(self.directory / name)
        request_enrolment(home, NAME, name, role, "DE", addresses)
        certificate, _ = self.authority.enrol(parse_request(home.request.read_bytes()), lifetime)
        join(home, json.dumps(self.authority.bundle(certificate)).encode())
        self.wait_for_manifest()
        return home

    def wait_for_manifest(self) -> None:
        """Return once the coordinator, where it runs, has the authority's newest manifest in use."""
        version = self.authority.manifest().version
        if getattr(self, "child", None) is not None:
            wait_until(lambda: any(e["action"] == "manifest.accept" and e["detail"]["version"] >= version
                                   for e in self.entries()))  # fmt: skip

    def invite(self, name: str, role: Role = Role.SILO, lifetime: timedelta = timedelta(days=1)) -> Invitation:
        return self.authority.invite(name, role, "DE", self.enrolment, lifetime=lifetime)

    def home(self, name: str) -> Home:
        return Home(self.directory / name)

    def connect(self, home: Home) -> http.client.HTTPSConnection:
        context = client_context(home.certificate, home.key, home.authority)
        host, port = split_address(self.address)
        connection = http.client.HTTPSConnection(host, port, context=context, timeout=30)
        connection.connect()
        return connection

    def call(self, home: Home, path: str, method: str = "GET", body: bytes = b"") -> Answer:
        """One request; asked again where its connection was among those that a new manifest has cut."""
        for _ in range(20):
            connection = self.connect(home)
            try:
                return ask(connection, path, method, body)
            except http.client.RemoteDisconnected:
                continue
            finally:
                connection.close()
        raise AssertionError("every connection was cut before an answer")

    def entries(self) -> list[dict[str, Any]]:
        """The coordinator's audit log."""
        segments = sorted((self.coordinator.audit / "segments").glob("*.jsonl"))
        lines = [line for path in segments for line in path.read_text().splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def expect_entry(self, after: int, **fields: object) -> dict[str, Any]:
        """The first entry from number `after` on with these fields; a text may be part of what is there."""

        def fits(entry: dict[str, Any]) -> bool:
            return all(
                value in str(entry[name]) if isinstance(value, str) else entry[name] == value
                for name, value in fields.items()
            )

        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [entry for entry in self.entries()[after:] if fits(entry)]
            return bool(found)

        wait_until(look, f"an entry with {fields}")
        return found[0]


def ask(connection: http.client.HTTPConnection, path: str, method: str = "GET", body: bytes = b"") -> Answer:
    connection.request(method, path, body=body or None)
    answer = connection.getresponse()
    return Answer(answer.status, answer.read())


def wait_until(condition: Callable[[], bool], what: str = "it", seconds: float = 30.0) -> float:
    """Poll until a condition holds; returns the seconds it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            pytest.fail(f"{what} did not come within {seconds} s")
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Callable[[str], Path]]:
    """Directories with short paths: a Unix socket's path has at most 107 bytes."""
    made: list[Path] = []

    def make(name: str) -> Path:
        path = Path(tempfile.mkdtemp(prefix=f"c-{name}-", dir="/tmp"))
        made.append(path)
        return path

    yield make
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def online(short_tmp: Callable[[str], Path]) -> Iterator[Online]:
    """One coordinator for the tests of a session; each test uses member names of its own."""
    federation = Online(short_tmp("id"))
    federation.member("ops", Role.OPERATOR)
    child = federation.start()
    try:
        yield federation
    finally:
        stop_all([child])


def pem_of(connection: http.client.HTTPSConnection) -> str:
    """The server's certificate on a live connection."""
    tls = connection.sock
    assert isinstance(tls, ssl.SSLSocket)
    der = tls.getpeercert(binary_form=True)
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der)


@dataclass
class Training:
    """Three hospitals that train, their coordinator beside its authority."""

    founded: Founded
    deployment: Deployment

    @property
    def endless_run(self) -> Path:
        """A run that ends when it is stopped."""
        path = self.founded.directory / "endless.yaml"
        path.write_text(self.founded.run_file.read_text().replace("rounds: 20", "rounds: 10000"))
        return path


@pytest.fixture(scope="session")
def training(short_tmp: Callable[[str], Path]) -> Iterator[Training]:
    """Certificates live for a minute and are renewed at half of it; an operator's and an auditor's are not."""
    founded = found(short_tmp("rot"), scenario("breast_cancer"), DataSource(), lifetime="60s")
    for place in founded.silos.values():
        policy = place.policy.read_text()
        place.policy.write_text(re.sub("max_rounds: [0-9]+", "max_rounds: 10000", policy))
    peer, csr = verify_courier(request_by_courier(founded.operator), founded.authority.manifest())
    configuration = founded.authority.configuration
    text = configuration.read_text()
    configuration.write_text(text.replace("60s", "1d"))
    bundle = founded.authority.bundle(founded.authority.renew(peer, csr))
    configuration.write_text(text)
    join(founded.operator, json.dumps(bundle).encode())
    deployment = Deployment(founded, ("--authority", str(founded.authority.path)))
    try:
        deployment.start()
        yield Training(founded, deployment)
    finally:
        deployment.stop()
