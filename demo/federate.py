"""Runs a founded federation: starts its processes, submits, shows, compares, is refused, verifies, reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from demo.founding import Founded, SiloPlace
from demo.outcome import Outcome, Spent, comparison_table
from demo.scenarios import Scenario
from federation.errors import ConcordatError, RunFailedError
from federation.home import read_limited
from federation.identity import Role
from federation.limits import LIMITS
from federation.operator import OperatorClient
from federation.passport import file_digest, lines, verify
from federation.processes import Child, command_line, stop_all, uninterrupted
from federation.progress import line_of
from federation.run import load_run
from policies.model import load_policy
from silo.gate.accounting import epsilon_of
from silo.gate.ledger import LEDGER, read_ledger

START_SECONDS = 30.0

Say = Callable[[str], None]


def environment() -> dict[str, str]:
    """The environment of the demonstration's processes: no proxies, no TensorFlow chatter."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}


class Deployment:
    """The federation's processes: one coordinator, and for each silo one gate and one worker."""

    def __init__(self, founded: Founded, coordinator_options: Sequence[str] = ()) -> None:
        self._founded = founded
        self._coordinator_options = coordinator_options
        self._logs = founded.directory / "logs"
        self._logs.mkdir(exist_ok=True)
        self.children: dict[str, Child] = {}

    def start(self) -> None:
        """Start every process; the slow ones, the workers, first. Raises ConcordatError where one does not come up."""
        for silo in self._founded.silos.values():
            self.spawn(f"{silo.name}-worker", "silo", "worker", str(silo.worker_config))
        home = str(self._founded.coordinator.path)
        self.spawn("coordinator", "coordinator", "serve", "--home", home, *self._coordinator_options)
        for silo in self._founded.silos.values():
            self.spawn(f"{silo.name}-gate", "silo", "gate", str(silo.silo_config), "--home", str(silo.gate.path))
        self.children["coordinator"].expect("listening on", START_SECONDS)
        for name in self._founded.silos:
            self.children[f"{name}-gate"].expect("connected to", START_SECONDS)

    def spawn(self, name: str, *arguments: str) -> Child:
        """Start one process of the `concordat` command, its output in a file of its own."""
        with uninterrupted():
            child = Child(name, command_line(*arguments), self._logs / f"{name}.log", environment())
            self.children[name] = child
        return child

    def stop(self) -> list[str]:
        """End every process, gates and workers before the coordinator; returns what had to be forced."""
        coordinator = [child for name, child in self.children.items() if name == "coordinator"]
        others = [child for name, child in self.children.items() if name != "coordinator"]
        return stop_all(others) + stop_all(coordinator)


def train(client: OperatorClient, founded: Founded, outcome: Outcome, say: Say) -> None:
    """Submit the example's run and show its progress; raises RunFailedError where it does not complete."""
    outcome.run_id = client.submit(founded.run_file)
    say(f"submitted {outcome.run_id}")
    last: dict[str, Any] = {}
    for last in client.follow(outcome.run_id):
        line = line_of(last)
        if line is not None:
            say(line)
        if last["event"] == "round.closed":
            outcome.rounds.append(last)
        elif last["event"] == "run.evaluated":
            outcome.final = last
    if last.get("event") != "run.completed":
        raise RunFailedError(f"the run did not complete: {last.get('problem', 'the coordinator went away')}")


def check_passport(founded: Founded, outcome: Outcome, say: Say) -> None:
    """Verify the model's passport as whoever gets both would, with the signed manifest alone; raises ConcordatError."""
    model, passport = (founded.coordinator.runs / outcome.run_id / name for name in ("model.npz", "passport.json"))
    content = read_limited(passport, LIMITS.passport)
    for line in lines(verify(content, founded.manifest, file_digest(model))):
        say(f"  {line}")
    outcome.passport = passport


def be_refused(client: OperatorClient, founded: Founded, purpose: str, outcome: Outcome, say: Say) -> None:
    """Submit the same run for a purpose no policy allows; raises RunFailedError unless every silo refuses it."""
    text = founded.run_file.read_text()
    allowed = load_run(text).model.purpose
    refused = founded.directory / "run-other-purpose.yaml"
    text = text.replace(f"purpose: {allowed}", f"purpose: {purpose}", 1)
    refused.write_text(text.replace("  name: ", "  name: other-", 1))
    outcome.refusals = _refused(client, founded, refused, say)


def spend_too_much(client: OperatorClient, founded: Founded, outcome: Outcome, say: Say) -> None:
    """Say what the run cost each silo's budget, and submit it again; raises RunFailedError unless all refuse that."""
    for name, place in founded.silos.items():
        outcome.spent[name] = spent = spent_of(place, founded)
        say(f"  {name}: epsilon {spent.epsilon:.3f} of {spent.budget:g} spent, at delta {spent.delta:g}")
    outcome.over_budget = _refused(client, founded, founded.run_file, say)
    rules = {refusal["rule"] for refusal in outcome.over_budget}
    if rules != {"privacy.budget"}:
        raise RunFailedError(f"the run was refused by {', '.join(sorted(rules))}, expected privacy.budget")


def _refused(client: OperatorClient, founded: Founded, run_file: Path, say: Say) -> list[dict[str, Any]]:
    run_id = client.submit(run_file)
    say(f"submitted {run_id}")
    found: list[dict[str, Any]] = []
    for event in client.follow(run_id):
        line = line_of(event)
        if line is not None:
            say(line)
        if event["event"] == "silo.refused":
            found.append(event)
    if {refusal["silo"] for refusal in found} != set(founded.silos):
        raise RunFailedError("a silo did not refuse the run, expected every one to")
    return found


def spent_of(silo: SiloPlace, founded: Founded) -> Spent:
    """What a silo's ledger holds of its policy's budget, at the budget's delta; raises ConcordatError."""
    run = load_run(founded.run_file.read_text()).model
    policy = load_policy(silo.policy).model.privacy
    if policy is None or policy.budget is None:
        raise ConcordatError(f"the policy of {silo.name} has no privacy budget, expected one in a private example")
    debits = [entry.debit for entry in read_ledger(silo.gate.path / LEDGER) if entry.debit.dataset == run.dataset]
    epsilon = epsilon_of([debit.mechanism for debit in debits], policy.budget.delta)
    return Spent(epsilon, policy.budget.epsilon, policy.budget.delta)


def start_baselines(founded: Founded) -> subprocess.Popen[bytes]:
    """Start the comparison models in a process of low priority."""
    configs = [str(silo.worker_config) for silo in founded.silos.values()]
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        "-P",
        "-m",
        "demo.baselines",
        str(founded.run_file),
        *configs,
    ]
    log = (founded.directory / "logs" / "baselines.log").open("wb")
    with log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )


def finish_baselines(process: subprocess.Popen[bytes], timeout: float) -> dict[str, Any]:
    """Wait for the comparison models; raises ConcordatError where they fail."""
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise ConcordatError("the comparison models took too long") from None
    if process.returncode != 0:
        raise ConcordatError("the comparison models failed", advice="see logs/baselines.log")
    return dict(json.loads(out))


def verify_logs(founded: Founded, outcome: Outcome) -> None:
    """Verify every log as an outsider would: the one-file verifier, alone, with the key from the signed manifest.

    Raises ConcordatError with the verifier's own sentence for a log that does not verify.
    """
    import audit.verify  # noqa: PLC0415

    verifier = Path(audit.verify.__file__)
    for member in founded.manifest.federation.members:
        if member.role not in {Role.COORDINATOR, Role.SILO} or member.log is None:
            continue
        home = founded.coordinator if member.role is Role.COORDINATOR else founded.silos[member.name].gate
        command = [sys.executable, "-I", "-S", str(verifier), str(home.audit), "--key", member.log, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise ConcordatError(f"the log of {member.name} does not verify: {(done.stderr or done.stdout).strip()}")
        outcome.logs.append({"member": member.name, "path": str(home.audit), **json.loads(done.stdout)})


def demonstrate(scenario: Scenario, founded: Founded, say: Say, heading: Say) -> Outcome:
    """The whole demonstration after founding; every process is gone when it returns or raises."""
    outcome = Outcome()
    private = load_run(founded.run_file.read_text()).model.privacy is not None
    started = time.monotonic()
    deployment = Deployment(founded)
    baselines: subprocess.Popen[bytes] | None = None
    try:
        heading("2. Start the coordinator and the silos")
        deployment.start()
        for name, child in deployment.children.items():
            say(f"  {name} (process {child.pid})")
        heading("3. Submit a run for a purpose the policies allow")
        with OperatorClient(founded.operator) as client:
            train(client, founded, outcome, say)
            check_passport(founded, outcome, say)
            heading("4. Compare with what each institution has alone")
            with uninterrupted():
                baselines = start_baselines(founded)
            outcome.baselines = finish_baselines(baselines, 120)
            comparison_table(outcome, private=private)
            heading(f"5. Submit the same run for another purpose ({scenario.refused_purpose})")
            be_refused(client, founded, scenario.refused_purpose, outcome, say)
            if private:
                heading("6. Submit the same run again: the privacy budget is spent")
                spend_too_much(client, founded, outcome, say)
        forced = deployment.stop()
        if forced:
            raise ConcordatError(f"{', '.join(forced)} did not stop when asked")
        verify_logs(founded, outcome)
    finally:
        if baselines is not None and baselines.poll() is None:
            baselines.kill()
            baselines.wait()
        deployment.stop()
    outcome.seconds = time.monotonic() - started
    return outcome
