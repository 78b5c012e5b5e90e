"""Secure aggregation between real processes: the model is a plain run's, and no update is ever at the coordinator.

What the coordinator's process holds is read from /proc/PID/mem, what it wrote from its home.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.passport import verify
from federation.run import load_run
from federation.secure_aggregation.fixed_point import encode
from federation.statistics.exact_sums import encoded
from federation.statistics.normalization import Normalization, normalization_layout, read_normalization
from federation.statistics.reading import read_summary
from federation.statistics.summary import Summary
from federation.wire import Weights

from .conftest import Running, entries_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

SILOS = ("hospital-a", "hospital-b", "hospital-c")
LATE = "hospital-c"
ROUNDS, THRESHOLD, LARGEST = 3, 2, 8.0
METRICS = "[loss, auc, num_examples]"
SECURE = f"{METRICS}\nsecure_aggregation: {{threshold: {THRESHOLD}}}"
NEEDLE_VALUES = 6
"""24 bytes of an update: by chance they are nowhere else."""


def needle_of(vector: Weights) -> bytes:
    """A stretch in the middle of a vector in which no value is zero."""
    for start in range(vector.size // 2, vector.size - NEEDLE_VALUES):
        part = vector[start : start + NEEDLE_VALUES]
        if np.count_nonzero(part) == NEEDLE_VALUES:
            return part.tobytes()
    raise AssertionError("the update is all zero")


def memory_of(pid: int) -> Iterator[bytes]:
    """What a process may write to and holds now, a mapping at a time."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found is not None:
                start, end = (int(value, 16) for value in found.groups())
                memory.seek(start)
                yield memory.read(end - start)


class Watch:
    """Looks into the stopped coordinator's memory once all silos answered the last round, and once the run is over.

    `needles` are what is looked for, by silo and form; `held` those that were found.
    """

    def __init__(self, federation: Running) -> None:
        self.federation = federation
        self.needles, self.held = dict[str, bytes](), set[str]()
        self.examples: dict[str, int] = {}
        self.run = ""
        self._answered = 0

    @property
    def directory(self) -> Path:
        """Where the coordinator keeps the run."""
        return self.federation.founded.coordinator.runs / self.run

    @property
    def model(self) -> Weights:
        """The model after the last round."""
        return np.fromfile(self.directory / "checkpoints" / f"{ROUNDS:06d}.f32", dtype="<f4")

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "run.started":
            self.run = event["run"]
        elif event["event"] == "silo.admitted":
            self.examples[event["silo"]] = event["examples"]
        elif event["event"] == "silo.answered" and event["round"] == ROUNDS:
            self._answered += 1
            if self._answered == len(SILOS):
                self.look()
        elif event["event"] == "run.completed":
            self.look()

    def look(self) -> None:
        child = self.federation.deployment.children["coordinator"]
        child.signal(signal.SIGSTOP)
        try:
            self.look_for()
            for part in memory_of(child.pid):
                self.held |= {name for name, needle in self.needles.items() if needle in part}
        finally:
            child.signal(signal.SIGCONT)

    def look_for(self) -> None:
        """Each silo's weights after training, their change, and that change as it is masked."""
        before = np.fromfile(self.directory / "checkpoints" / f"{ROUNDS - 1:06d}.f32", dtype="<f4")
        for silo in SILOS:
            change = self.kept(silo, ROUNDS)
            encoded = encode(change, self.examples[silo], sum(self.examples.values()), LARGEST).view(np.float32)
            for form, vector in (("weights", before + change), ("change", change), ("encoded", encoded)):
                self.needles[f"{silo}: {form}"] = needle_of(vector)

    def kept(self, silo: str, number: int) -> Weights:
        """The vector of a gate's kept reply: weights, or under secure aggregation their change."""
        path = self.federation.founded.silos[silo].gate.path / "replies" / f"train-{number:08d}.reply"
        with path.open("rb") as file:
            digest = json.loads(file.readline())["question"]["run_digest"]
            assert digest.removeprefix("sha256:").startswith(self.run.rpartition("-")[2])
            return np.frombuffer(file.read(), dtype="<f4")


class Control(Watch):
    """Looks while a round waits for a silo whose gate is stopped, with the weights of those that have answered."""

    def __init__(self, federation: Running) -> None:
        super().__init__(federation)
        self._gate, self._stopped, self._of_round = federation.deployment.children[f"{LATE}-gate"], False, set[str]()

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "run.started":
            self.run = event["run"]
        elif event["event"] == "round.started":
            self._of_round = set()
            if event["round"] == 1:
                # It may have answered this round before; then the next one waits.
                self._gate.signal(signal.SIGSTOP)
                self._stopped = True
        elif event["event"] == "silo.answered" and self._stopped:
            self._of_round.add(event["silo"])
            if self._of_round == set(SILOS) - {LATE}:
                self.needles = {silo: needle_of(self.kept(silo, event["round"])) for silo in self._of_round}
                self.look()
                if self.held == self._of_round:
                    self.go_on()

    def look_for(self) -> None:
        """What was set."""

    def go_on(self) -> None:
        self._gate.signal(signal.SIGCONT)
        self._stopped = False


def follow(federation: Running, watch: Watch, name: str, metrics: str) -> list[dict[str, Any]]:
    path = federation.run_file(name, rounds=str(ROUNDS), metrics=metrics)
    events = federation.follow(federation.submit(path), watch)
    assert events[-1]["event"] == "run.completed", events[-1]
    return events


def content_of(path: Path) -> bytes:
    """A file of a process that runs; one that was renamed since it was listed is read under its other name."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return path.with_suffix("").read_bytes() if path.suffix == ".tmp" else b""


def sums_of(federation: Running, silo: str, run: str) -> dict[int, set[str]]:
    """By a gate's log: the silos of the sums that it helped to open, by round."""
    found: dict[int, set[str]] = {}
    for entry in entries_of(federation.founded.silos[silo].gate.audit, run=run, action="round.unmask"):
        found.setdefault(entry["round"], set()).add(entry["detail"]["silos"])
    return found


@pytest.fixture(scope="module")
def secure(federation: Running) -> Watch:
    """A run with secure aggregation, watched."""
    watch = Watch(federation)
    events = follow(federation, watch, "secure", metrics=SECURE)
    assert [event["dropped"] for event in events if event["event"] == "round.closed"] == [{}] * ROUNDS
    return watch


def test_no_update_is_ever_in_the_coordinators_memory_or_on_its_disk(federation: Running, secure: Watch) -> None:
    assert len(secure.needles) == 3 * len(SILOS)
    assert secure.held == set()
    files = [path for path in federation.founded.coordinator.path.rglob("*") if path.is_file()]
    assert any(needle_of(secure.model) in path.read_bytes() for path in files), "a model is found where it is"
    assert [path for path in files if any(needle in content_of(path) for needle in secure.needles.values())] == []


def test_without_it_what_is_looked_for_is_found_there(federation: Running) -> None:
    """The control, with a strategy that holds all updates until the round closes."""
    control = Control(federation)
    try:
        path = federation.run_file("control", rounds="2", metrics=METRICS)
        path.write_text(path.read_text().replace("name: fedprox", "name: median"))
        events = federation.follow(federation.submit(path), control)
    finally:
        control.go_on()
    assert events[-1]["event"] == "run.completed", events[-1]
    assert control.held == set(SILOS) - {LATE}


def test_sums_of_rounded_changes_lead_to_the_plain_runs_model(federation: Running, secure: Watch) -> None:
    plain = Watch(federation)
    path = federation.run_file("plain", rounds=str(ROUNDS), metrics=METRICS)
    plain.run = federation.submit(path)
    assert federation.follow(plain.run)[-1]["event"] == "run.completed"
    difference = np.abs(secure.model - plain.model)
    assert 0 < difference.max() < 1e-5


def test_passport_and_logs_say_who_was_summed_with_whom(federation: Running, secure: Watch) -> None:
    passport = verify(federation.client().passport(secure.run), federation.founded.manifest)
    predicate = passport.statement.predicate
    summed = predicate.run.secure_aggregation
    assert summed is not None
    assert (summed.threshold, summed.largest_change) == (THRESHOLD, LARGEST)
    assert {part.rounds for part in predicate.silos.values()} == {((1, ROUNDS),)}
    for silo in SILOS:
        assert sums_of(federation, silo, secure.run) == {at: {",".join(SILOS)} for at in range(1, ROUNDS + 1)}


def test_a_killed_gate_is_left_out_or_back_and_each_sum_is_of_silos_that_agree(federation: Running) -> None:
    """Killed when it has answered a round, at whatever step of the sum that is, and started again."""
    path = federation.run_file("lost", rounds=str(ROUNDS), metrics=SECURE, quorum=str(THRESHOLD))
    killed = False
    events = []
    for event in federation.client().follow(federation.submit(path)):
        events.append(event)
        if (event["event"], event.get("silo")) == ("silo.answered", LATE) and not killed:
            killed = True
            child = federation.deployment.children[f"{LATE}-gate"]
            child.signal(signal.SIGKILL)
            child.wait(10)
            federation.restart(f"{LATE}-gate")
    assert events[-1]["event"] == "run.completed", events[-1]
    run = next(event["run"] for event in events if event["event"] == "run.started")
    of_the_first, of_the_late = sums_of(federation, SILOS[0], run), sums_of(federation, LATE, run)
    for event in events:
        if event["event"] == "round.closed":
            opened = {",".join(sorted(event["silos"]))}
            assert of_the_first[event["round"]] == opened
            assert of_the_late.get(event["round"], opened) == opened
            assert set(event["silos"]) >= set(SILOS) - {LATE}
            assert set(event["dropped"]) == set(SILOS) - set(event["silos"])


def test_a_killed_coordinator_goes_on_to_the_same_bits_and_opens_no_round_for_two_sets(
    federation: Running, secure: Watch
) -> None:
    """Killed just as a round's last silo has answered, so that its sum is under way."""
    path = federation.run_file("killed", rounds=str(ROUNDS), metrics=SECURE)
    answers, killed = 0, False
    events = []
    for event in federation.client().follow_on(federation.submit(path)):
        events.append(event)
        answers += event["event"] == "silo.answered"
        if answers == 2 * len(SILOS) and not killed:
            killed = True
            child = federation.deployment.children["coordinator"]
            child.signal(signal.SIGKILL)
            child.wait(10)
            federation.restart("coordinator").expect("listening on", 60)
    assert (events[-1]["event"], killed) == ("run.completed", True), events[-1]
    again = Watch(federation)
    again.run = next(event["run"] for event in events if event["event"] == "run.started")
    np.testing.assert_array_equal(again.model, secure.model)
    for silo in SILOS:
        assert sums_of(federation, silo, again.run) == {at: {",".join(SILOS)} for at in range(1, ROUNDS + 1)}


# -- what a run normalises by


class NormalisingWatch(Watch):
    """Looks once the run has what it normalises by, and once it is over."""

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "run.started":
            self.run = event["run"]
        elif event["event"] in {"run.normalised", "run.completed"}:
            self.look()

    def look_for(self) -> None:
        """Each silo's means as numbers and as text, and its sums as they are masked."""
        for silo in SILOS:
            own = self.moments(silo)
            self.needles[f"{silo}: numbers"] = own.mean[:3].tobytes()
            self.needles[f"{silo}: text"] = repr(float(own.mean[0])).encode()
            self.needles[f"{silo}: encoded"] = needle_of(encoded(own).view(np.float32))

    @property
    def features(self) -> tuple[str, ...]:
        return load_run((self.directory / "run.yaml").read_text()).model.features

    def moments(self, silo: str) -> Summary:
        """What a silo's gate decided to let go masked, by the payload of its log that never left."""
        audit = self.federation.founded.silos[silo].gate.audit
        entry, *_ = entries_of(audit, run=self.run, action="statistics.egress")
        kept = json.loads((audit / "payloads" / f"{entry['seq']:012d}.json").read_text())
        return read_summary(json.dumps(kept["payload"]["statistics"]), normalization_layout(self.features))


def normalising_run(federation: Running) -> Path:
    return federation.run_file("normalised", rounds="1", metrics=f"{SECURE}\nnormalization: federated")


@pytest.fixture(scope="module")
def normalised(federation: Running) -> NormalisingWatch:
    """A run that normalises under secure aggregation, watched."""
    watch = NormalisingWatch(federation)
    events = federation.follow(federation.submit(normalising_run(federation)), watch)
    assert events[-1]["event"] == "run.completed", events[-1]
    return watch


def test_a_run_normalises_by_a_sum_and_no_silos_moments_are_ever_at_the_coordinator(
    federation: Running, normalised: NormalisingWatch
) -> None:
    watch = normalised
    assert len(watch.needles) == 3 * len(SILOS)
    assert watch.held == set()
    files = [path for path in federation.founded.coordinator.path.rglob("*") if path.is_file()]
    assert [path for path in files if any(needle in content_of(path) for needle in watch.needles.values())] == []

    # What is looked for is at the silos, and what they come to together is there.
    for silo in SILOS:
        payloads = (federation.founded.silos[silo].gate.audit / "payloads").glob("*.json")
        assert any(watch.needles[f"{silo}: text"] in path.read_bytes() for path in payloads)
    kept = (watch.directory / "normalization.json").read_text()
    found = read_normalization(kept, len(watch.features))
    together = Normalization.of(watch.moments(silo) for silo in SILOS)
    np.testing.assert_allclose(found.mean, together.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scale, together.scale, rtol=1e-12)
    watch.needles, watch.held = {"together": repr(float(found.mean[0])).encode()}, set()
    watch.look_for = lambda: None  # type: ignore[method-assign]
    watch.look()
    assert watch.held == {"together"}
    for silo in SILOS:
        assert sums_of(federation, silo, watch.run) == {at: {",".join(SILOS)} for at in (0, 1)}


def test_a_sum_of_moments_survives_a_gate_and_the_coordinator_killed_while_it_is_made(
    federation: Running, normalised: NormalisingWatch
) -> None:
    """Of the same signed run, submitted once more: the same sum, so no gate refuses it, and the same bits."""
    admitted, killed = 0, False
    events = []
    for event in federation.client().follow_on(federation.submit(normalising_run(federation))):
        events.append(event)
        admitted += event["event"] == "silo.admitted"
        if admitted == len(SILOS) and not killed:
            killed = True
            for name in (f"{LATE}-gate", "coordinator"):
                child = federation.deployment.children[name]
                child.signal(signal.SIGKILL)
                child.wait(10)
                federation.restart(name)
            federation.deployment.children["coordinator"].expect("listening on", 60)
    assert events[-1]["event"] == "run.completed", events[-1]
    run = next(event["run"] for event in events if event["event"] == "run.started")
    assert any(event["event"] == "run.resumed" for event in events)
    runs = federation.founded.coordinator.runs
    assert (runs / run / "normalization.json").read_bytes() == (
        normalised.directory / "normalization.json"
    ).read_bytes()
    for silo in SILOS:
        assert sums_of(federation, silo, run)[0] == {",".join(SILOS)}
