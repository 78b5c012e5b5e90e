"""Statistics over the silos of a federation that runs: merged as if pooled, as far as every policy allows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federation.processes import command_line
from silo.gate.ledger import LEDGER, read_ledger

from .conftest import Running, entries_of
from .test_resume import kill_coordinator

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

TEXT = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: nuclei}
purpose: HMB
dataset: wisconsin
columns: {mean_radius: {range: [5, 30]}, mean_area: {range: [100, 2600]}, malignant: {range: [0, 1], bins: 2}}
statistics: [mean, variance, histogram, correlation]
bins: 10
quantiles: [0.5]
"""


def stats(federation: Running, path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    path.write_text(text)
    command = command_line("run", "stats", str(path), "--home", str(federation.founded.operator.path), *options)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def pooled(federation: Running) -> pd.DataFrame:
    """The rows of all silos together, which nobody but a test may see."""
    tables = sorted(federation.founded.directory.rglob("worker/data/table.csv"))
    assert len(tables) == len(federation.founded.silos)
    return pd.concat([pd.read_csv(path) for path in tables])[["mean_radius", "mean_area", "malignant"]]


def test_merged_statistics_are_those_of_the_pooled_rows_and_are_recorded(federation: Running, tmp_path: Path) -> None:
    done = stats(federation, tmp_path / "s.yaml", TEXT, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    table = pooled(federation)
    assert found["rows"] == len(table) == 569
    assert f"nuclei: 569 rows of wisconsin at {', '.join(sorted(federation.founded.silos))}" in done.stdout
    for name in table:
        column = found["columns"][name]
        assert column["mean"] == pytest.approx(table[name].mean(), rel=1e-6)
        assert column["variance"] == pytest.approx(table[name].var(), rel=1e-5)
        one = column["quantiles"][0]
        assert one["lower"] <= np.quantile(table[name], 0.5, method="inverted_cdf") <= one["upper"]
    assert found["correlation"]["values"][0][1] == pytest.approx(table.corr().iloc[0, 1], rel=1e-6)
    assert (tmp_path / "out" / "statistics.svg").read_text().startswith("<svg ")

    run = found["run"]
    hub = entries_of(federation.founded.coordinator.audit, run=run)
    assert [entry["action"] for entry in hub] == ["run.submit", "run.begin", "statistics.merge", "run.end"]
    for place in federation.founded.silos.values():
        own = entries_of(place.gate.audit, run=run)
        assert [entry["action"] for entry in own] == ["run.admit", "view.build", "statistics.egress", "run.leave"]
    # No silo's own numbers are told to the operator.
    events = list(federation.client().follow(run))
    told = [event for event in events if event["event"] == "silo.summarised"]
    assert {name for event in told for name in event} == {"event", "time", "number", "silo"}
    assert "per_silo" not in found


def test_what_a_policy_refuses_is_told_with_its_rule(federation: Running, tmp_path: Path) -> None:
    done = stats(federation, tmp_path / "s.yaml", TEXT + "per_silo: true\n")
    assert done.returncode == 3
    assert "REFUSED by rule egress.statistics.per_silo" in done.stdout
    assert "policy.yaml:" in done.stdout
    done = stats(federation, tmp_path / "s.yaml", TEXT.replace("bins: 10", "bins: none"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "s.yaml:8:" in done.stderr


def test_private_statistics_are_debited_at_every_silo(federation: Running, tmp_path: Path) -> None:
    private = TEXT + "privacy: {mode: example_dp, epsilon: 4.0, delta: 1.0e-5}\n"
    done = stats(federation, tmp_path / "s.yaml", private, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["privacy"] == {"mode": "example_dp", "epsilon": 4.0, "delta": 1e-5}
    assert abs(found["rows"] - 569) < 8 * found["noise_deviation"]
    for place in federation.founded.silos.values():
        debits = [one.debit for one in read_ledger(place.gate.path / LEDGER) if one.debit.run == found["run"]]
        assert [(one.dataset, one.mechanism.sampling_rate, one.mechanism.steps) for one in debits] == [
            ("wisconsin", 1.0, 1)
        ]


def test_a_run_normalises_alike_everywhere_and_its_model_says_by_what(federation: Running, tmp_path: Path) -> None:
    path = federation.run_file("normalised", rounds="2")
    path.write_text(path.read_text() + "normalization: federated\n")
    events = federation.follow(federation.submit(path))
    assert events[-1]["event"] == "run.completed", events[-1]
    run = events[0]["run"]
    (told,) = [event for event in events if event["event"] == "run.normalised"]
    hub = entries_of(federation.founded.coordinator.audit, run=run)
    named = {entry["detail"]["normalization"] for entry in hub if entry["action"].endswith(".begin") and entry["round"]}
    assert named == {told["statistics"]}
    for place in federation.founded.silos.values():
        assert "statistics.egress" in [entry["action"] for entry in entries_of(place.gate.audit, run=run)]
    out = tmp_path / "model.npz"
    out.write_bytes(federation.client().model(run))
    with np.load(out) as arrays:
        table = pooled(federation)
        # Of the training rows, which are seven in ten of all.
        assert arrays["normalization:mean"][0] == pytest.approx(table["mean_radius"].mean(), rel=0.05)
        assert arrays["normalization:scale"][0] == pytest.approx(table["mean_radius"].std(), rel=0.2)


# -- what is killed in the middle

PRIVATE = TEXT + "privacy: {mode: example_dp, epsilon: 4.0, delta: 1.0e-5}\n"


class HeldTable:
    """A silo's table as a pipe: who reads it is in the middle of a run, until it is let go on."""

    def __init__(self, federation: Running, silo: str) -> None:
        (self._path,) = (federation.founded.directory / silo).rglob("worker/data/table.csv")
        self._aside = self._path.with_name("aside.csv")
        self._content = self._path.read_bytes()
        self._path.rename(self._aside)
        os.mkfifo(self._path)
        self._reading, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._path.open("wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            self._reading.set()
            self._go.wait(120)
            pipe.write(self._content)

    def wait(self) -> None:
        """Until the table is being read; whoever reads it anew finds the file."""
        assert self._reading.wait(60)
        self._aside.replace(self._path)

    def let_go(self) -> None:
        self._go.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def kill_gate(federation: Running, silo: str) -> None:
    child = federation.deployment.children[f"{silo}-gate"]
    child.signal(signal.SIGKILL)
    child.wait(10)
    federation.restart(f"{silo}-gate")


def debits(federation: Running, run: str) -> dict[str, int]:
    """How often each silo was debited for a run."""
    return {
        name: sum(entry.debit.run == run for entry in read_ledger(place.gate.path / LEDGER))
        for name, place in federation.founded.silos.items()
    }


def actions(federation: Running, silo: str, run: str) -> list[str]:
    return [entry["action"] for entry in entries_of(federation.founded.silos[silo].gate.audit, run=run)]


def test_statistics_survive_a_gate_a_worker_and_the_coordinator_killed_while_rows_are_read(
    federation: Running, tmp_path: Path
) -> None:
    """One gate, another silo's trainer and the coordinator are killed while every silo is reading its rows."""
    (tmp_path / "s.yaml").write_text(TEXT.replace("quantiles", "deadline_seconds: 100\nquantiles"))
    client, silos = federation.client(), sorted(federation.founded.silos)
    tables = [HeldTable(federation, silo) for silo in silos]
    run = client.submit_statistics(tmp_path / "s.yaml")
    for table in tables:
        table.wait()
    kill_gate(federation, silos[0])
    os.kill(federation.trainer_pid(silos[1]), signal.SIGKILL)
    kill_coordinator(federation)
    for table in tables:
        table.let_go()
    *_, last = client.follow_on(run)
    assert last["event"] == "run.completed", last
    found = client.statistics(run)
    assert found["silos"] == silos
    straight = client.submit_statistics(tmp_path / "s.yaml")
    *_, last = client.follow_on(straight)
    assert {**client.statistics(straight), "run": run} == found, "as where nothing was killed, to the last digit"
    for silo in silos:
        assert actions(federation, silo, run).count("statistics.egress") == 1
    hub = [entry["action"] for entry in entries_of(federation.founded.coordinator.audit, run=run)]
    assert hub == ["run.submit", "run.begin", "run.resume", "statistics.merge", "run.end"]


def test_a_gate_that_is_killed_once_it_has_debited_neither_debits_nor_draws_again(
    federation: Running, tmp_path: Path
) -> None:
    """Whether its reply had left or not: it is the one that is merged."""
    (tmp_path / "s.yaml").write_text(PRIVATE)
    client, (silo, *others) = federation.client(), sorted(federation.founded.silos)
    # The others are still reading, so that the run is not over.
    tables = [HeldTable(federation, other) for other in others]
    run = client.submit_statistics(tmp_path / "s.yaml")
    for table in tables:
        table.wait()
    deadline = time.monotonic() + 60
    while not debits(federation, run)[silo]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    kill_gate(federation, silo)
    kept = json.loads(next((federation.founded.silos[silo].gate.path / "replies").glob("statistics-*")).read_bytes())
    kill_coordinator(federation)
    for table in tables:
        table.let_go()
    *_, last = client.follow_on(run)
    assert last["event"] == "run.completed", last
    assert debits(federation, run) == dict.fromkeys([silo, *others], 1)
    again = json.loads(next((federation.founded.silos[silo].gate.path / "replies").glob("statistics-*")).read_bytes())
    assert again == kept
    assert actions(federation, silo, run)[-1] == "reply.again"
    assert actions(federation, silo, run).count("view.build") == 1
