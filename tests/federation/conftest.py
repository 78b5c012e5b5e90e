"""A federation on disk, founded as its people would found it: real keys, real certificates, a signed manifest."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from coordinator.authority import Authority
from federation.enrolment import EnrolmentRequest, join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role, load_certificate
from federation.manifest import accept_manifest

NAME = "cardio.example"
RUN = """\
apiVersion: concordat/v1
kind: Run
metadata:
  name: tumour-classifier
purpose: HMB
dataset: wisconsin
features: [radius, texture]
label: {column: malignant}
app: {path: app, model: "model:build_model"}
strategy:
  name: fedprox
  mu: 0.1
  rounds: 3
"""


class Founded:
    """An authority and the homes of its members."""

    def __init__(self, directory: Path, name: str = NAME) -> None:
        self.directory = directory
        self.name = name
        self.authority = Authority(directory / "authority")
        self.authority.found(name)
        self.homes: dict[str, Home] = {}

    @property
    def ca(self) -> x509.Certificate:
        return load_certificate(self.authority.certificate.read_bytes())

    def request(self, name: str, role: Role = Role.SILO, *addresses: str) -> tuple[Home, EnrolmentRequest]:
        """Make a member's home with its keys; the operator has not seen the request yet."""
        home = Home(self.directory / name)
        request_enrolment(home, self.name, name, role, "DE", addresses)
        return home, parse_request(home.request.read_bytes())

    def bundle(self, request: EnrolmentRequest, lifetime: timedelta = timedelta(days=30)) -> dict[str, str]:
        certificate, _ = self.authority.enrol(request, lifetime)
        return self.authority.bundle(certificate)

    def member(self, name: str, role: Role = Role.SILO, *addresses: str) -> Home:
        """A member that has joined."""
        home, request = self.request(name, role, *addresses)
        join(home, json.dumps(self.bundle(request)).encode())
        self.homes[name] = home
        return home

    def refresh(self) -> None:
        """Give every member the newest manifest."""
        newest = self.authority.manifest()
        for home in self.homes.values():
            accept_manifest(home, newest.document.text, newest.signature)


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., Founded]:
    """Found a federation of one's own."""
    return lambda name=NAME, folder="f": Founded(tmp_path / folder, name)


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A port that is bound but on which nobody listens, so that a connection is refused at once."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory, closed_port: int) -> Founded:
    """One federation for the tests that only read: hub, ops, ops-b, aud, silo-a, silo-b."""
    founded = Founded(tmp_path_factory.mktemp("federation"))
    founded.member("hub", Role.COORDINATOR, f"127.0.0.1:{closed_port}")
    for name, role in (("ops", Role.OPERATOR), ("ops-b", Role.OPERATOR), ("aud", Role.AUDITOR)):
        founded.member(name, role)
    founded.member("silo-a")
    founded.member("silo-b")
    founded.refresh()
    return founded


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Home], Home]:
    """A copy of a home that a test may change."""

    def make(home: Home) -> Home:
        target = tmp_path / f"copy-of-{home.path.name}"
        shutil.copytree(home.path, target)
        return Home(target)

    return make


@pytest.fixture
def contents() -> Callable[[Path], dict[str, tuple[int, bytes]]]:
    """Every file under a directory with its mode and its bytes."""

    def read(directory: Path) -> dict[str, tuple[int, bytes]]:
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        return {str(p.relative_to(directory)): (p.stat().st_mode & 0o777, p.read_bytes()) for p in files}

    return read


@pytest.fixture(scope="session")
def run_text() -> str:
    """A valid run.yaml."""
    return RUN
