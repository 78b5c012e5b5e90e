"""Real federations: one that trains (TensorFlow in every worker), and a coordinator alone to attack its door."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo.federate import Deployment, environment
from demo.founding import Founded, found
from demo.scenarios import DataSource, scenario
from federation.operator import OperatorClient, build_app
from federation.processes import Child, command_line, stop_all
from federation.run import load_run


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


def _only_child(process: int) -> int:
    """The one child of a process, waited for: not one that ended and was not reaped yet."""
    deadline = time.monotonic() + 60
    while True:
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
                    return int(child)
        assert time.monotonic() < deadline, f"process {process} has no child"
        time.sleep(0.01)


def entries_of(audit: Path, **fields: object) -> list[dict[str, Any]]:
    """The entries of a member's log that have these fields; one that is being written is not among them yet."""
    lines = [
        line
        for path in sorted((audit / "segments").glob("*.jsonl"))
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return [entry for entry in map(json.loads, lines) if all(entry[name] == value for name, value in fields.items())]


@dataclass
class Running:
    """A federation whose processes run."""

    founded: Founded
    deployment: Deployment
    _bundles: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def client(self) -> OperatorClient:
        return OperatorClient(self.founded.operator)

    def run_file(self, name: str, **changes: str) -> Path:
        """The example's run with some of its lines replaced: key, and the text after it.

        A deadline is long unless the test is of deadlines: a busy machine trains slowly.
        """
        changes = {"deadline_seconds": "240", **changes}
        lines = []
        for line in self.founded.run_file.read_text().splitlines():
            key = line.strip().partition(":")[0]
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}{key}: {changes[key]}" if key in changes else line)
        path = self.founded.directory / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def submit(self, run_file: Path) -> str:
        """Submit a run as the operator; an app is bundled once however many runs it has."""
        source = run_file.parent / load_run(run_file.read_text()).model.app.path
        content = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        key = (str(source), *sorted(content.items()))
        if key not in self._bundles:
            self._bundles[key] = build_app(source)
        return self.client().submit(run_file, self._bundles[key])

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
        """The process that holds the data: under its keeper, a fork of the worker's child, which runs no app.

        A fork that ended is followed by the next one within a second or two. Between runs the number may be out of date
        at once; a silo at work in a run keeps its fork.
        """
        template = _only_child(self.pid(f"{silo}-worker"))
        while True:
            # A keeper may end between the two looks.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                return _only_child(_only_child(template))

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
    """Three hospitals and a coordinator, running; for tests after which all of them are still there."""
    yield from running_in(short_tmp("fed"))


def running_in(directory: Path) -> Iterator[Running]:
    """Three hospitals and a coordinator of one's own, until the iterator goes on."""
    founded = found(directory, scenario("breast_cancer"), DataSource())
    yield from run_of(Running(founded, Deployment(founded)))


def run_of(running: Running) -> Iterator[Running]:
    """A federation that was founded, its processes running until the iterator goes on."""
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
        return entries_of(self.founded.coordinator.audit)

    def refusal(self, before: int) -> dict[str, Any]:
        """The first refusal after so many entries; the door records one just after it turned someone away."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for entry in self.audit_entries()[before:]:
                if entry["action"] == "connection.refused":
                    return entry
            time.sleep(0.02)
        raise AssertionError(f"no refusal in {self.audit_entries()[before:]}")


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
