"""How a real federation learns: as its simulation does, with privacy, with partial work, with other strategies."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.encodings import packed_bytes
from federation.processes import command_line
from federation.run import Updates
from federation.wire import weights_digest
from silo.gate.ledger import LEDGER, read_ledger

from .conftest import Running, entries_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

SILOS = ["hospital-a", "hospital-b", "hospital-c"]


def run_of(federation: Running, label: str, extra: str = "", strategy: str = "fedprox", **changes: str) -> Any:
    path = federation.run_file(label, **changes)
    path.write_text(path.read_text().replace("name: fedprox", f"name: {strategy}") + extra)
    return federation.follow(federation.submit(path))


def rounds(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "round.closed"]


def concordat(*arguments: str) -> str:
    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("strategy", "extra", "model"),
    [
        ("fedprox", "", "build_model"),
        (
            "fedyogi",
            "secure_aggregation: {threshold: 2}\nclass_weights: balanced\nprecision: mixed_bfloat16\n",
            "build_model",
        ),
        ("scaffold", "", "build_plain_model"),
    ],
    ids=["plain", "secure", "scaffold"],
)
def test_a_simulation_gives_the_federations_bits(
    federation: Running, strategy: str, extra: str, model: str, tmp_path: Path
) -> None:
    """Under secure aggregation too, whose masks the simulation does not make, with class weights and in bfloat16."""
    app = f'{{path: app, model: "model:{model}"}}'
    events = run_of(federation, f"as-{strategy}", extra, strategy=strategy, rounds="3", app=app)
    digest = next(event["model"] for event in events if event["event"] == "run.evaluated")
    out = tmp_path / "model.npz"
    configurations = [str(place.worker_config) for place in federation.founded.silos.values()]
    data = [argument for path in configurations for argument in ("--data", path)]
    run_file = str(federation.founded.directory / f"as-{strategy}.yaml")
    printed = concordat("run", "simulate", run_file, *data, "--threads", "1", "--out", str(out))
    with np.load(out) as arrays:
        flat = np.concatenate([arrays[name].ravel() for name in sorted(arrays.files)])
    assert weights_digest(flat) == digest
    evaluated = next(event for event in events if event["event"] == "run.evaluated")
    assert f"auc {evaluated['metrics']['auc']:.4f}" in printed
    for closed in rounds(events):
        times = 2 if strategy == "scaffold" else 1
        assert closed["bytes"]["down"] == times * len(SILOS) * flat.nbytes
    if strategy == "scaffold":
        begun = [e["detail"] for e in entries_of(federation.founded.coordinator.audit, action="round.begin")]
        told = [detail["folded"] for detail in begun if "folded" in detail][-3:]
        assert told == ["", *(",".join(f"{silo}:{number}" for silo in SILOS) for number in (1, 2))]


def test_scaffold_refuses_a_model_that_is_not_trained_by_plain_sgd(federation: Running) -> None:
    events = run_of(federation, "momentum", strategy="scaffold", rounds="1")
    assert events[-1]["event"] == "run.failed"
    assert "SGD with momentum, expected keras.optimizers.SGD alone" in events[-1]["problem"]


@pytest.mark.parametrize("encoding", ["float16", "int8", "top_k, share: 0.2"])
def test_a_packed_update_weighs_less_and_the_model_learns(federation: Running, encoding: str, tmp_path: Path) -> None:
    updates = f"updates: {{encoding: {encoding}}}\n"
    name = f"packed-{encoding[:5].replace('_', '')}"
    events = run_of(federation, name, updates, rounds="2")
    assert events[-1]["event"] == "run.completed", events[-1]
    settings = Updates(encoding=encoding.partition(",")[0], share=0.2 if "share" in encoding else None)
    for closed in rounds(events):
        down, up = closed["bytes"]["down"], closed["bytes"]["up"]
        assert up == 3 * packed_bytes(settings, down // 12)
        assert up < down
    begun = entries_of(federation.founded.coordinator.audit, run=events[0]["run"])
    ends = [entry["detail"] for entry in begun if entry["action"] == "round.end"]
    assert [(end["bytes_down"], end["bytes_up"]) for end in ends] == [(down, up)] * 2
    assert rounds(events)[-1]["metrics"]["auc"] > rounds(events)[0]["metrics"]["auc"]
    if encoding == "int8":
        out = tmp_path / "model.npz"
        configurations = [str(place.worker_config) for place in federation.founded.silos.values()]
        data = [argument for path in configurations for argument in ("--data", path)]
        run_file = str(federation.founded.directory / f"{name}.yaml")
        concordat("run", "simulate", run_file, *data, "--threads", "1", "--out", str(out))
        evaluated = next(event for event in events if event["event"] == "run.evaluated")
        with np.load(out) as arrays:
            flat = np.concatenate([arrays[layer].ravel() for layer in sorted(arrays.files)])
        assert weights_digest(flat) == evaluated["model"]


def test_a_private_run_is_in_every_silos_ledger_and_log(federation: Running) -> None:
    privacy = "privacy: {mode: example_dp, clip_norm: 1.0, delta: 1.0e-5, epsilon: 6}\n"
    events = run_of(federation, "private", privacy, rounds="3")
    assert events[-1]["event"] == "run.completed", events[-1]
    run = events[0]["run"]
    for name, place in federation.founded.silos.items():
        debits = [entry.debit for entry in read_ledger(place.gate.path / LEDGER) if entry.debit.run == run]
        assert [debit.round for debit in debits] == [1, 2, 3], name
        printed = concordat("silo", "ledger", "--home", str(place.gate.path), "--dataset", "wisconsin")
        assert run in printed
        spent = float(printed.splitlines()[-1].partition("epsilon ")[2].split()[0])
        assert 5 < spent <= 6
        logged = entries_of(place.gate.audit, run=run, action="privacy.debit")
        assert [entry["detail"]["round"] for entry in logged] == [1, 2, 3]


@pytest.mark.parametrize(
    ("secure", "share"), [("", "1.1547"), ("secure_aggregation: {threshold: 2, largest_change: 64}\n", "0.816497")]
)
def test_a_run_private_for_silos_is_debited_and_its_clip_norm_moves(
    federation: Running, secure: str, share: str
) -> None:
    """Under secure aggregation two silos' noise together is what each of them adds alone without it."""
    privacy = (
        "privacy: {mode: silo_dp, clip_norm: 1.0, delta: 1.0e-5, noise_multiplier: 1, adaptive: {max_clip_norm: 3}}\n"
    )
    events = run_of(federation, f"silos{len(secure)}", privacy + secure, rounds="2")
    assert events[-1]["event"] == "run.completed", events[-1]
    run = events[0]["run"]
    first, second = rounds(events)
    assert first["clip_norm"] == 1.0
    assert second["clip_norm"] != 1.0
    for name, place in federation.founded.silos.items():
        debits = [entry.debit for entry in read_ledger(place.gate.path / LEDGER) if entry.debit.run == run]
        assert [(debit.round, debit.mode, debit.clip_norm) for debit in debits] == [
            (1, "silo_dp", 1.0),
            (2, "silo_dp", second["clip_norm"]),
        ], name
        (plan,) = [
            entry["detail"]
            for entry in entries_of(place.gate.audit)
            if entry["run"] == run and entry["action"] == "privacy.plan"
        ]
        assert (plan["noise_multiplier"], plan["noise_share"]) == ("1", share)
    admitted = [event for event in events if event["event"] == "silo.admitted"]
    # Two rounds of a Gaussian mechanism of mu = 2: epsilon 15.456 at delta 1e-5.
    assert {round(event["epsilon"], 1) for event in admitted} == {15.5}
    out = federation.founded.directory / "silos.json"
    concordat("run", "passport", run, "--home", str(federation.founded.operator.path), "--out", str(out))
    gate = next(iter(federation.founded.silos.values())).gate
    said = concordat("run", "verify-passport", str(out), "--home", str(gate.path))
    assert re.search(r"epsilon at most 15\.4[5-9]? at delta 1e-05 for its data as a whole \(silo_dp\)", said)


def test_a_silo_without_time_returns_what_it_has_done(federation: Running) -> None:
    events = run_of(federation, "partial", rounds="2", local="{epochs: 1000, batch_size: 1, seconds: 0.05}")
    assert events[-1]["event"] == "run.completed", events[-1]
    for closed in rounds(events):
        assert sorted(closed["work"]) == SILOS
        for done, planned in closed["work"].values():
            assert 1 <= done < planned


def test_the_worst_silo_is_named(federation: Running) -> None:
    events = run_of(federation, "even", rounds="1")
    evaluated = next(event for event in events if event["event"] == "run.evaluated")
    values = {name: sent["auc"] for name, sent in evaluated["silos"].items()}
    assert evaluated["fairness"]["worst"] == min(values, key=values.__getitem__)


def test_a_policy_has_to_allow_the_metrics_of_a_silos_own_model(federation: Running) -> None:
    events = run_of(federation, "own", rounds="1", metrics="[auc, own_auc]")
    assert events[-1]["event"] == "run.refused"
    refused = [event for event in events if event["event"] == "silo.refused"]
    assert {event["rule"] for event in refused} == {"egress.metrics.allow"}
