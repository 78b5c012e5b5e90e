"""Founds a federation in a directory: authority, members, policies, data; each step as its person would take it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from coordinator.authority import Authority
from demo.ports import reserve_port
from demo.scenarios import DataSource, Scenario
from federation.enrolment import join, parse_request, request_enrolment
from federation.errors import UsageError
from federation.home import Home
from federation.identity import Role
from federation.manifest import SignedManifest, accept_manifest
from federation.operator import build_app
from federation.run import app_digest

MARKER = ".concordat-demo"


@dataclass(frozen=True)
class SiloPlace:
    """Where one silo's two processes have their files; data lies with the worker alone."""

    name: str
    gate: Home
    worker: Path

    @property
    def silo_config(self) -> Path:
        """The gate's configuration."""
        return self.gate.path / "silo.yaml"

    @property
    def worker_config(self) -> Path:
        """The worker's configuration."""
        return self.worker / "worker.yaml"

    @property
    def policy(self) -> Path:
        """The compliance officer's policy."""
        return self.gate.path / "policy.yaml"

    @property
    def data(self) -> Path:
        """The hospital's table."""
        return self.worker / "data" / "table.csv"


@dataclass(frozen=True)
class Founded:
    """A federation on disk, ready to start."""

    directory: Path
    authority: Authority
    manifest: SignedManifest
    coordinator: Home
    operator: Home
    silos: Mapping[str, SiloPlace]
    run_file: Path
    app: bytes


def clear(directory: Path) -> None:
    """Make an empty demonstration directory; raises UsageError where something else lies there."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).exists():
            raise UsageError(
                f"{directory} holds files that are not an earlier demo's", advice="give another --directory"
            )
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / MARKER).write_text("made by `concordat demo`; may be deleted\n")


def found(
    directory: Path,
    scenario: Scenario,
    source: DataSource,
    threads: int | None = 1,
    example: Path | None = None,
    lifetime: str = "30d",
) -> Founded:
    """Found the federation of a scenario, its certificates valid for `lifetime`.

    `example` overrides where run.yaml, app and policies are taken from.
    """
    example = example or scenario.directory
    name = f"{scenario.name.replace('_', '-')}.example"
    authority = Authority(directory / "authority")
    authority.found(name, lifetime)
    address = f"127.0.0.1:{reserve_port()}"
    coordinator, operator = Home(directory / "coordinator"), Home(directory / "operator")
    silos = {
        silo: SiloPlace(silo, Home(directory / silo / "gate"), directory / silo / "worker") for silo in scenario.silos
    }
    bundles: list[tuple[Home, bytes]] = [
        (
            coordinator,
            _certified(
                authority,
                coordinator,
                name,
                "coordinator",
                Role.COORDINATOR,
                scenario.coordinator_country,
                address,
            ),
        ),
        (
            operator,
            _certified(authority, operator, name, "operator", Role.OPERATOR, scenario.coordinator_country),
        ),
    ]
    for silo, country in scenario.silos.items():
        home = silos[silo].gate
        bundles.append((home, _certified(authority, home, name, silo, Role.SILO, country)))
    manifest = authority.manifest()
    for home, bundle in bundles:
        join(home, bundle)
        accept_manifest(home, manifest.document.text, manifest.signature)
    run_file = directory / "run.yaml"
    shutil.copytree(example / "app", directory / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(example / "run.yaml", run_file)
    app = build_app(directory / "app")
    for place in silos.values():
        _equip(place, scenario, example, app_digest(app), threads)
    scenario.write_data({place.name: place.data for place in silos.values()}, source)
    return Founded(directory, authority, manifest, coordinator, operator, silos, run_file, app)


def _certified(
    authority: Authority, home: Home, federation: str, name: str, role: Role, country: str, *addresses: str
) -> bytes:
    """A member asks, the operator certifies; the key stays in the member's home. Returns the bundle."""
    request_enrolment(home, federation, name, role, country, addresses)
    certificate, _ = authority.enrol(parse_request(home.request.read_bytes()))
    return json.dumps(authority.bundle(certificate)).encode()


def _equip(silo: SiloPlace, scenario: Scenario, example: Path, digest: str, threads: int | None) -> None:
    silo.data.parent.mkdir(mode=0o700, parents=True)
    text = (example / "policies" / f"{silo.name}.yaml").read_text()
    # The reviewers' approval: the example's policy has zeros where the digest of the approved app belongs.
    silo.policy.write_text(re.sub(r"sha256:0{64}", digest, text))
    socket_path = silo.gate.run_directory / "worker.sock"
    _write_yaml(
        silo.silo_config,
        {
            "apiVersion": "concordat/v1",
            "kind": "Silo",
            "policy": "policy.yaml",
            "socket": str(socket_path.resolve()),
        },
    )
    worker = {
        "apiVersion": "concordat/v1",
        "kind": "Worker",
        "silo": silo.name,
        "socket": str(socket_path.resolve()),
        "scratch": "scratch",
        "datasets": {scenario.dataset: {**scenario.source, "path": "data/table.csv"}},
    }
    _write_yaml(silo.worker_config, {**worker, **({"threads": threads} if threads else {})})


def _write_yaml(path: Path, content: Mapping[str, object]) -> None:
    out = StringIO()
    YAML().dump(dict(content), out)
    path.write_text(out.getvalue())
