"""A finished run leaves a passport that whoever holds the signed manifest can verify offline."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.federate import environment
from federation.processes import Child, command_line
from policies.model import load_policy

from .conftest import Running, entries_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]


def concordat(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(*map(str, arguments)), capture_output=True, text=True, check=False, timeout=240)


def test_a_passport_is_fetched_verified_and_in_the_log(federation: Running, tmp_path: Path) -> None:
    events = federation.follow(federation.submit(federation.run_file("passport", rounds="2")))
    assert events[-1]["event"] == "run.completed", events[-1]
    run, operator = events[0]["run"], federation.founded.operator.path
    passport, model = tmp_path / "passport.json", tmp_path / "model.npz"
    for what, out in (("passport", passport), ("model", model)):
        assert concordat("run", what, run, "--home", operator, "--out", out).returncode == 0

    home = federation.founded.silos["hospital-a"].gate
    done = concordat("run", "verify-passport", passport, "--home", home.path, "--model", model)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("verified\n")
    assert f"model    sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}" in done.stdout
    for name, place in federation.founded.silos.items():
        assert re.search(rf"silo     {name}: \d+ rows, rounds 1-2, not private", done.stdout)
        assert load_policy(place.policy).digest in done.stdout
        assert re.search(rf"log      \S+/silo/{name}: \d+ entries, root \w+, cosigned by \S+coordinator", done.stdout)

    notes, key = tmp_path / "notes", federation.founded.manifest.federation.coordinator.log
    assert concordat("run", "verify-passport", passport, "--home", home.path, "--checkpoints", notes).returncode == 0
    hub = federation.founded.coordinator.audit
    done = concordat("audit", "verify", hub, "--key", key, "--witness", notes)
    assert done.returncode == 0, done.stderr
    assert "witnesses: their copies agree" in done.stdout

    (logged,) = [
        entry["detail"]
        for entry in entries_of(federation.founded.coordinator.audit)
        if entry["action"] == "model.passport" and entry["run"] == run
    ]
    assert logged["passport"] == "sha256:" + hashlib.sha256(passport.read_bytes()).hexdigest()
    assert logged["model"] == next(event["model"] for event in events if event["event"] == "run.evaluated")

    model.write_bytes(model.read_bytes() + b"\0")
    done = concordat("run", "verify-passport", passport, "--home", home.path, "--model", model)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the passport is of another model" in done.stderr


READ_KERAS = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
with np.load(sys.argv[2]) as arrays:
    flat = [arrays[name] for name in sorted(arrays.files)]
assert model.compiled
assert all(np.array_equal(one, two) for one, two in zip(model.get_weights(), flat, strict=True))
print(model.predict(np.zeros((2, model.input_shape[1])), verbose=0).shape)
"""


def test_an_operator_lists_shows_watches_and_fetches_what_a_run_left(federation: Running, tmp_path: Path) -> None:
    events = federation.follow(federation.submit(federation.run_file("registry", rounds="2")))
    assert events[-1]["event"] == "run.completed", events[-1]
    run, home = events[0]["run"], federation.founded.operator.path
    listed = [line for line in concordat("run", "list", "--home", home).stdout.splitlines() if line.startswith(run)]
    assert re.search(r"completed +2/2 rounds +.*auc 0\.\d{4}", listed[0])
    shown = concordat("run", "watch", run, "--home", home).stdout
    assert re.search(r"checkpoints +of rounds 1, 2\nfiles +model\.npz, passport\.json", shown)
    assert json.loads(concordat("run", "show", run, "--home", home, "--json").stdout)["checkpoints"] == [1, 2]

    first, last, kept = tmp_path / "first.npz", tmp_path / "last.npz", tmp_path / "model.keras"
    done = concordat("run", "model", run, "--home", home, "--round", "1", "--out", first)
    assert (done.returncode, "it has no passport" in done.stdout) == (0, True), done.stderr
    for out in (last, kept):
        done = concordat("run", "model", run, "--home", home, "--out", out)
        assert (done.returncode, "its passport is verified" in done.stdout) == (0, True), done.stderr
    with np.load(first) as one, np.load(last) as two:
        assert one.files == two.files
        assert any(not np.array_equal(one[name], two[name]) for name in one.files)
    command = [sys.executable, "-c", READ_KERAS, str(kept), str(last)]
    read = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (read.returncode, read.stdout.strip()) == (0, "(2, 1)"), read.stderr


def test_a_model_is_kept_until_two_people_at_a_silo_have_released_it(federation: Running, tmp_path: Path) -> None:
    place, operator = federation.founded.silos["hospital-a"], federation.founded.operator.path
    config, policy = place.silo_config, place.policy
    for name in ("dora", "emil"):
        assert concordat("policy", "key", tmp_path / f"{name}.pem").returncode == 0
    before = policy.read_text()
    reviewers = {name: str(tmp_path / f"{name}.pem.pub.pem") for name in ("dora", "emil")}
    approvals = json.dumps({"directory": str(tmp_path / "approvals"), "reviewers": reviewers})
    config.write_text(f"{config.read_text()}approvals: {approvals}\n")
    (tmp_path / "approvals").mkdir()
    policy.write_text(before.replace("version: 1,", "version: 2,") + "release: {approvers: [dora, emil], minimum: 2}\n")
    restart_gate(federation, "hospital-a")
    run = federation.submit(federation.run_file("four-eyes", rounds="1"))
    ended = federation.follow(run)[-1]
    assert (ended["event"], ended["release"]) == ("run.completed", ["hospital-a"])

    passport, model = tmp_path / "passport.json", tmp_path / "model.npz"
    fetch = ("run", "model", run, "--home", operator, "--out", model)
    refused = concordat(*fetch)
    assert (refused.returncode, model.exists()) == (3, False)
    # The last round's checkpoint is that very model.
    assert (concordat(*fetch, "--round", "1").returncode, model.exists()) == (3, False)
    assert (
        f"hospital-a has not released the model of {run} to operator; ask for it: concordat run release"
        in refused.stderr
    )
    assert concordat("run", "passport", run, "--home", operator, "--out", passport).returncode == 0
    for name, released in (("dora", False), ("emil", True)):
        agreed = concordat(
            "silo", "approve-release", passport, "--to", "operator", "--home", place.gate.path, "--config", config,
            "--reviewer", name, "--key", tmp_path / f"{name}.pem", "--yes",
        )  # fmt: skip
        assert agreed.returncode == 0, agreed.stderr
        asked = concordat("run", "release", run, "--home", operator)
        assert (asked.returncode == 0) is released, asked.stdout + asked.stderr
        assert (concordat(*fetch).returncode == 0) is released
    assert model.exists()
    decided = [entry for entry in entries_of(place.gate.audit) if entry["action"] == "model.release"]
    assert [entry["decision"] for entry in decided] == ["deny", "allow"]
    assert decided[-1]["detail"]["approvers"] == "dora,emil"
    at_hub = [entry for entry in entries_of(federation.founded.coordinator.audit) if entry["action"] == "model.release"]
    assert [entry["decision"] for entry in at_hub] == ["deny", "allow"]
    policy.write_text(before.replace("version: 1,", "version: 3,"))
    restart_gate(federation, "hospital-a")


def restart_gate(federation: Running, silo: str) -> None:
    child = federation.deployment.children[f"{silo}-gate"]
    child.signal(signal.SIGTERM)
    assert child.wait(20) == 0
    federation.restart(f"{silo}-gate").expect("connected to", 30)


def test_a_run_that_was_refused_has_no_passport(federation: Running, tmp_path: Path) -> None:
    events = federation.follow(federation.submit(federation.run_file("refused", purpose="POA")))
    out, home = tmp_path / "passport.json", federation.founded.operator.path
    done = concordat("run", "passport", events[0]["run"], "--home", home, "--out", out)
    assert (done.returncode, out.exists()) == (1, False)
    assert "has no passport; it has not completed" in done.stderr


def test_banks_train_within_their_budgets_and_refuse_what_exceeds_them(
    request: pytest.FixtureRequest, short_tmp: Any
) -> None:
    data = request.config.getoption("--credit-dir", default=None)
    if data is None:
        pytest.skip("UCI credit card file not given")
    directory = short_tmp("credit") / "d"
    command = command_line("demo", "--example", "credit", "--data-dir", data, "--directory", str(directory))
    child = Child("demo", command, directory.parent / "output.log", environment())
    code = child.wait(240)
    child.join()
    output = child.output()
    assert code == 0, output[-3000:]
    trained, _, again = output.partition("6. Submit the same run again")
    for bank in ("consumer-bank", "universal-bank", "us-bank"):
        assert re.search(rf"{bank}: \d+ rows, rounds 1-20, epsilon at most 2\.9\d+ at delta 1e-05", trained)
        assert re.search(rf"{bank} +│ +\d+ │ +\d+% │ +0\.[67]\d+ ", trained)
        assert re.search(rf"{bank}: epsilon 2\.9\d\d of (3\.5|4) spent, at delta 1e-05", again)
        policy = (directory / bank / "gate" / "policy.yaml").read_text().splitlines()
        refused = re.search(
            rf"{bank}: REFUSED by rule privacy\.budget\n +epsilon 4\.3\d+ at delta 1e-05 would be spent.*"
            r"\n +at policy\.yaml:(\d+):\d+",
            again,
        )
        assert refused is not None, again
        assert policy[int(refused[1]) - 1].strip().startswith("budget: {epsilon")
    assert float(re.search(r"final model: loss \S+  auc (\S+)", trained)[1]) > 0.72  # type: ignore[index]
