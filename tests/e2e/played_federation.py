"""A federation of real processes but for its workers, which threads of the test play: no TensorFlow, any answer."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.federate import START_SECONDS, Deployment, environment
from demo.founding import Founded, SiloPlace, found
from demo.scenarios import DataSource, scenario
from federation.processes import Child
from silo.channel import Frame
from tests.silo.simulator import PlayedWorker

from .conftest import Running
from .lying_gate import LIES

Answers = dict[str, Callable[[Frame], Frame | None]]


class PlayedSilo:
    """Plays the workers of one silo, one after the other; `answers` may change from run to run."""

    def __init__(self, place: SiloPlace) -> None:
        self.answers: Answers = {}
        self.asked: list[str] = []
        self._path = place.gate.run_directory / "worker.sock"
        self._closing = threading.Event()
        self._worker = PlayedWorker(self._path, self._note, **self.answers)
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def play(self, **answers: Callable[[Frame], Frame | None]) -> None:
        """Answer like this from the next worker on; the one that is there is let go."""
        self.answers = answers
        self._worker.close()

    def close(self) -> None:
        """No further worker comes."""
        self._closing.set()
        self._worker.close()

    def _note(self, frame: Frame) -> None:
        self.asked.append(frame.op)

    def _supervise(self) -> None:
        while self._worker.ended.wait() and not self._closing.is_set():
            try:
                self._worker = PlayedWorker(self._path, self._note, **self.answers)
            except OSError:
                return


class PlayedDeployment(Deployment):
    """One coordinator, and for each silo a gate that may lie and a worker that is played."""

    def __init__(self, founded: Founded) -> None:
        super().__init__(founded)
        self.silos: dict[str, PlayedSilo] = {}

    def lies_of(self, silo: str) -> Path:
        """The file in which a gate finds what to lie about: in its home, which is all that it may read."""
        return self._founded.silos[silo].gate.path / "lies.json"

    def start(self) -> None:
        self.spawn("coordinator", "coordinator", "serve", "--home", str(self._founded.coordinator.path))
        for name, place in self._founded.silos.items():
            self.spawn(f"{name}-gate", "silo", "gate", str(place.silo_config), "--home", str(place.gate.path))
        self.children["coordinator"].expect("listening on", START_SECONDS)
        for name, place in self._founded.silos.items():
            self.children[f"{name}-gate"].expect("connected to", START_SECONDS)
            self.silos[name] = PlayedSilo(place)

    def spawn(self, name: str, *arguments: str) -> Child:
        if not name.endswith("-gate"):
            return super().spawn(name, *arguments)
        command = [sys.executable, "-P", str(Path(__file__).with_name("lying_gate.py")), *arguments]
        lies = {LIES: str(self.lies_of(name.removesuffix("-gate")))}
        child = self.children[name] = Child(name, command, self._logs / f"{name}.log", {**environment(), **lies})
        return child

    def stop(self) -> list[str]:
        for silo in self.silos.values():
            silo.close()
        return super().stop()


class PlayedFederation(Running):
    """Three hospitals whose workers are played."""

    deployment: PlayedDeployment

    @contextmanager
    def lying(self, silo: str, **lies: dict[str, Any]) -> Iterator[None]:
        """Have a silo's gate lie, by kind of message."""
        path = self.deployment.lies_of(silo)
        path.write_text(json.dumps(lies))
        try:
            yield
        finally:
            path.unlink()

    def run(self, name: str, **changes: str) -> list[dict[str, Any]]:
        """The events of a run of few rounds, from its submission to its end."""
        path = self.run_file(name, **{"rounds": "1", "quorum": "2", **changes})
        path.write_text(path.read_text().replace("  name: ", f"  name: {name}-", 1))
        return self.follow(self.submit(path))


@contextmanager
def played_federation(directory: Path) -> Iterator[PlayedFederation]:
    """Three hospitals and a coordinator, until the end of the block."""
    founded = found(directory, scenario("breast_cancer"), DataSource())
    deployment = PlayedDeployment(founded)
    try:
        deployment.start()
        yield PlayedFederation(founded, deployment)
    finally:
        forced = deployment.stop()
    assert forced == []
