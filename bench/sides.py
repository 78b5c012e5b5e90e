"""The two sides: Concordat's own processes, and stock Flower's, each running the workload's rounds."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from workload import Workload

from demo.federate import Deployment, environment
from demo.founding import found
from demo.ports import reserve_port
from demo.scenarios import DataSource
from federation.errors import ConcordatError
from federation.operator import OperatorClient
from federation.processes import Child, stop_all

START_SECONDS = 60.0
ROUND_SECONDS = 900.0
"""How long one round of stock Flower may take before it counts as hung."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """Seconds of each round, the first one (which traces and compiles) apart, and the loss at the end."""

    name: str
    load: float
    first: float
    others: tuple[float, ...]
    loss: float

    @classmethod
    def from_times(cls, name: str, load: float, times: list[float], loss: float) -> Measured:
        """From the time the first round began and the time each round ended."""
        seconds = [end - start for start, end in pairwise(times)]
        return cls(name, load, seconds[0], tuple(seconds[1:]), loss)


class SideFailedError(Exception):
    """A side did not run its rounds; carries the end of its processes' logs."""

    def __init__(self, name: str, problem: ConcordatError, children: list[Child]) -> None:
        tails = [f"--- {child.name}\n" + "\n".join(child.output().splitlines()[-12:]) for child in children]
        super().__init__("\n".join([f"{name} failed: {problem.args[0]}", *tails]))


def measure_concordat(workload: Workload, directory: Path, say: Say) -> Measured:
    """Found a federation, deploy its processes and run; raises SideFailedError."""
    directory.mkdir()
    founded = found(directory, workload.scenario, DataSource(), example=workload.directory)
    deployment = Deployment(founded)
    load = os.getloadavg()[0]
    times: list[float] = []
    event: dict[str, Any] = {}
    loss = float("nan")
    try:
        deployment.start()
        client = OperatorClient(founded.operator)
        for event in client.follow(client.submit(founded.run_file)):
            at = datetime.fromisoformat(event["time"]).timestamp()
            if event["event"] == "round.started" and not times:
                times.append(at)
            elif event["event"] == "round.closed":
                if event["dropped"]:
                    raise ConcordatError(f"silos were dropped from round {event['round']}: {event['dropped']}")
                say(f"  Concordat round {event['round']}: {at - times[-1]:.2f} s")
                times.append(at)
            elif event["event"] == "run.evaluated":
                loss = event["metrics"]["loss"]
        if event.get("event") != "run.completed" or len(times) != workload.rounds + 1:
            raise ConcordatError(f"{len(times) - 1} rounds closed, expected {workload.rounds}; last: {event}")
    except ConcordatError as error:
        raise SideFailedError("Concordat", error, list(deployment.children.values())) from None
    finally:
        deployment.stop()
    return Measured.from_times("Concordat", load, times, loss)


class StockFlower:
    """`flower-superlink` and one `flower-supernode` a silo on loopback, without TLS, each with its own FLWR_HOME."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        self._workload = workload
        self._directory = directory
        self._data = {name: directory / "data" / f"{name}.csv" for name in workload.scenario.silos}
        self._address = f"127.0.0.1:{reserve_port()}"
        self.children: list[Child] = []

    def start(self) -> None:
        """Start the processes and wait until every node is registered; raises ConcordatError."""
        (self._directory / "data").mkdir(parents=True)
        self._workload.scenario.write_data(self._data, DataSource())
        host, _, port = self._address.partition(":")
        link = self._spawn(
            "flower-superlink",
            *("--insecure", "--host", host, "--port", port, "--disable-runtime-dependency-installation"),
        )
        link.expect("Uvicorn running on", START_SECONDS)
        nodes = [
            self._spawn(
                "flower-supernode",
                *("--insecure", "--superlink", self._address, "--host", host, "--port", str(reserve_port())),
                *("--node-config", f'data-path="{path}"'),
                label=name,
            )
            for name, path in self._data.items()
        ]
        for node in nodes:
            node.expect("SuperNode ID:", START_SECONDS)

    def run(self, say: Say) -> tuple[list[float], float]:
        """`flwr run` the app; returns when the first round began and each ended, and the last loss."""
        home = self._home("flwr")
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "{self._address}"\ninsecure = true\n'
        )
        work = self._workload
        config = f"num-server-rounds={work.rounds} local-epochs={work.epochs} batch-size={work.batch_size}"
        run = self._spawn("flwr", "run", str(work.app), "bench", "--stream", "--run-config", config)
        times: list[float] = []
        for number in range(work.rounds + 1):
            line = run.expect(f"round {number} ended at ", ROUND_SECONDS)
            times.append(float(line.rsplit(" ", 1)[1]))
            before = run.output().partition(line)[0]
            counts = re.findall(r"Received (\d+) results and (\d+) failures", before)
            if counts != [(str(len(self._data)), "0")] * (2 * number):
                raise ConcordatError(f"nodes were missing or failed: (results, failures) were {counts}")
            if number:
                say(f"  stock Flower round {number}: {times[-1] - times[-2]:.1f} s")
        losses = re.findall(r"Aggregated MetricRecord: \{'loss': ([\d.e+-]+)", run.output())
        return times, float(losses[-1])

    def _home(self, label: str) -> Path:
        home = self._directory / f"home-{label}"
        home.mkdir(exist_ok=True)
        return home

    def _spawn(self, program: str, *arguments: str, label: str | None = None) -> Child:
        programs = Path(sys.executable).parent
        variables = {
            **environment(),
            "PATH": f"{programs}:{os.environ.get('PATH', '')}",  # the programs start one another by name
            "FLWR_HOME": str(self._home(label or program)),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        name = f"{program}-{label}" if label else program
        child = Child(name, [str(programs / program), *arguments], self._directory / f"{name}.log", variables)
        self.children.append(child)
        return child


def measure_stock(workload: Workload, directory: Path, say: Say) -> Measured:
    """Start stock Flower and run the same app; raises SideFailedError. The caller ends what its processes leave."""
    directory.mkdir()
    stock = StockFlower(workload, directory)
    load = os.getloadavg()[0]
    try:
        stock.start()
        times, loss = stock.run(say)
    except ConcordatError as error:
        raise SideFailedError("stock Flower", error, stock.children) from None
    finally:
        stop_all(stock.children[::-1])
    return Measured.from_times("stock Flower", load, times, loss)
