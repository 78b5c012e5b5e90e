"""Real federations: one that trains (TensorFlow in every worker), and a coordinator alone to attack its door."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.federate import Deployment, environment
from demo.founding import Founded, found
from demo.scenarios import DataSource, scenario
from federation.operator import OperatorClient
from federation.processes import Child, command_line, stop_all


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


@dataclass
class Running:
    """A federation whose processes run."""

    founded: Founded
    deployment: Deployment

    def client(self) -> OperatorClient:
        return OperatorClient(self.founded.operator)

    def run_file(self, name: str, **changes: str) -> Path:
        """The example's run with some of its lines replaced: key, and the text after it."""
        lines = []
        for line in self.founded.run_file.read_text().splitlines():
            key = line.strip().partition(":")[0]
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}{key}: {changes[key]}" if key in changes else line)
        path = self.founded.directory / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def follow(self, run_id: str, act: Callable[[dict[str, Any]], None] | None = None) -> list[dict[str, Any]]:
        events = []
        for event in self.client().follow(run_id):
            events.append(event)
            if act is not None:
                act(event)
        return events

    def pid(self, name: str) -> int:
        return self.deployment.children[name].pid

    def trainer_pid(self, silo: str) -> int:
        """The worker's child that holds TensorFlow and the data."""
        worker = self.pid(f"{silo}-worker")
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])

    def restart(self, name: str) -> Child:
        silo = name.removesuffix("-gate")
        if name == "coordinator":
            arguments = ["coordinator", "serve", "--home", str(self.founded.coordinator.path)]
        else:
            place = self.founded.silos[silo]
            arguments = ["silo", "gate", str(place.silo_config), "--home", str(place.gate.path)]
        return self.deployment.spawn(name, *arguments)


@pytest.fixture(scope="session")
def federation(short_tmp: Callable[[str], Path]) -> Iterator[Running]:
    """Three hospitals and a coordinator, running."""
    founded = found(short_tmp("fed"), scenario("breast_cancer"), DataSource())
    running = Running(founded, Deployment(founded))
    try:
        running.deployment.start()
        yield running
    finally:
        forced = running.deployment.stop()
    assert forced == []


@dataclass
class Door:
    """A coordinator alone, for whoever wants to knock."""

    founded: Founded
    child: Child

    @property
    def address(self) -> str:
        return self.founded.manifest.federation.coordinator.addresses[0]

    def audit_entries(self) -> list[dict[str, Any]]:
        import json

        segments = sorted((self.founded.coordinator.audit / "segments").glob("*.jsonl"))
        return [json.loads(line) for path in segments for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def door(short_tmp: Callable[[str], Path]) -> Iterator[Door]:
    """A coordinator that listens, with the homes of its members on disk."""
    founded = found(short_tmp("door"), scenario("breast_cancer"), DataSource())
    log = founded.directory / "coordinator.log"
    arguments = command_line("coordinator", "serve", "--home", str(founded.coordinator.path))
    child = Child("coordinator", arguments, log, environment())
    try:
        child.expect("listening on", 30)
        yield Door(founded, child)
    finally:
        stop_all([child])


@dataclass
class DemoRun:
    """One run of `concordat demo` as a user starts it."""

    directory: Path
    output: str
    returncode: int


@pytest.fixture(scope="session")
def demo_run(short_tmp: Callable[[str], Path]) -> DemoRun:
    directory = short_tmp("demo") / "d"
    log = directory.parent / "output.log"
    child = Child("demo", command_line("demo", "--directory", str(directory)), log, environment())
    code = child.wait(240)
    child.join()
    return DemoRun(directory, child.output(), code)


def processes_mentioning(text: str) -> list[str]:
    """Command lines of the processes that run now and mention a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text in command and state != "Z":
            found.append(command)
    return found
