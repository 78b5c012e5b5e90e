"""One model for all: a gate between an honest or a lying coordinator and its worker, and logs that were rolled back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.cosignature import cosigned
from audit.entry import Event
from audit.gossip import Answer, Call, Told
from audit.log import AuditLog, utc_now
from audit.note import parse_vkey
from audit.rollback import RollbackGuard, acknowledge
from audit.verify import verify
from federation.errors import RunFailedError
from federation.wire import EVIDENCE, Envelope, Kind, weights_digest
from silo.gate.history import history_of, read_entries

from .simulator import INITIAL, SILO, GateBench, open_log

CRAFTED = np.array([9, 9, 9, 9], dtype=np.float32)


def refused(answer: Envelope) -> tuple[str, str]:
    assert answer.config["status"] == "refused", answer.config
    return str(answer.config["rule"]), str(answer.config["reason"])


def config(number: int, weights: Any = INITIAL) -> dict[str, Any]:
    return {"round": number, "digest": weights_digest(weights)}


def witness(bench: GateBench) -> None:
    """Ask for nothing but what the silo says of logs; a run need not be in progress."""
    assert bench.ask(Kind.WITNESS, Envelope()).config == {"status": "ok"}


def readmit(bench: GateBench) -> Envelope:
    """Ask for admission of the run that goes on, whose worker is kept."""
    return bench.admit()


@pytest.fixture
def admitted(bench: GateBench) -> GateBench:
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    return bench


@pytest.fixture
def second(bench: GateBench) -> Iterator[AuditLog]:
    """Another log under the coordinator's key, which it hides from everybody else."""
    with open_log(bench.consortium.homes["coordinator"], bench.directory / "hidden") as log:
        yield log


def hub_key(bench: GateBench) -> Any:
    return parse_vkey(bench.hub_log.vkey)


# -- the honest coordinator


def test_each_rounds_checkpoint_is_cosigned_and_kept(admitted: GateBench) -> None:
    bench = admitted
    for number in (1, 2):
        assert bench.round(number).config["status"] == "ok"
        seen = bench.witnessing._seen
        assert seen is not None
        assert seen.checkpoint.size == bench.hub_log.size
        bench.hub.keep()
        kept = (bench.hub_log.folder / "cosigned").read_bytes()
        found = cosigned(kept, hub_key(bench), [bench.log.verifier])
        assert (found.size, list(found.witnesses)) == (bench.hub_log.size, [bench.log.origin])
    assert bench.make_witnessing()._seen == seen


def test_the_silos_own_log_is_cosigned_by_the_coordinator(admitted: GateBench) -> None:
    bench = admitted
    bench.round(1)
    assert bench.ask(Kind.EVALUATE, Envelope(config(3), weights=INITIAL)).config["status"] == "ok"
    assert bench.make_witnessing().cosigned() is not None
    witness(bench)
    kept = (bench.audit / "cosigned").read_bytes()
    found = cosigned(kept, bench.log.verifier, [hub_key(bench)])
    assert list(found.witnesses) == [bench.hub_log.origin]
    assert found.root == bench.log.root_at(found.size)
    assert bench.witnessing.cosigned() == found
    assert 0 <= found.age(utc_now().timestamp()) < 600
    assert bench.witnessing.clock_skew() == 0


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_an_hour_off_shows(admitted: GateBench, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, off = admitted, timedelta(hours=hours)
    assert bench.witnessing.clock_skew() is None, "nobody has cosigned yet"
    monkeypatch.setattr("silo.gate.witnessing.utc_now", lambda: utc_now() + off)
    bench.round(1)
    witness(bench)
    witness(bench)
    assert bench.witnessing.clock_skew() == pytest.approx(3600, abs=30)


def test_time_in_which_nothing_happens_is_no_difference_of_clocks(
    admitted: GateBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = admitted
    bench.round(1)
    witness(bench)
    witness(bench)
    size = bench.log.size
    monkeypatch.setattr("silo.gate.witnessing.utc_now", lambda: utc_now() + timedelta(hours=1))
    witness(bench)
    witness(bench)
    assert bench.log.size == size, "the same checkpoint is told again"
    assert bench.witnessing.clock_skew() == 0


# -- the lying coordinator


def test_a_model_that_is_not_in_the_log_is_refused(admitted: GateBench) -> None:
    """It publishes one model and sends another, with the digest of the other."""
    bench = admitted
    evidence = bench.evidence(Kind.TRAIN, Envelope(config(1)))
    answer = bench.ask(Kind.TRAIN, Envelope({**config(1, CRAFTED), EVIDENCE: evidence}, weights=CRAFTED))
    assert refused(answer)[0] == "ingress.published"
    assert "names another model for round 1" in refused(answer)[1]
    entry = bench.last
    assert (entry["action"], entry["decision"], entry["rule"]) == ("message.refused", "deny", "ingress.published")
    assert bench.workers[0].asked == ["prepare"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "round.end"}, "has action"),
        ({"run": "run-2"}, "has run"),
        ({"round": 2}, "has round"),
        ({"detail": {}}, "another model"),
        (None, "does not prove"),
    ],
)
@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE])
def test_another_entry_proves_nothing(
    admitted: GateBench, kind: str, changes: dict[str, Any] | None, message: str
) -> None:
    bench, number = admitted, 3
    action = "round.begin" if kind == Kind.TRAIN else "evaluation.begin"
    fields = {"action": action, "run": "run-1", "round": number, "detail": {"model": weights_digest(INITIAL)}}
    event = None if changes is None else Event("coordinator", resource="run/run-1", **{**fields, **changes})
    evidence = bench.hub.call([SILO], event)
    answer = bench.ask(kind, Envelope({**config(number), EVIDENCE: evidence}, weights=INITIAL))
    assert refused(answer)[0] == "ingress.published"
    assert message in refused(answer)[1]
    assert bench.workers[0].asked == ["prepare"]


def test_an_entry_that_was_never_logged_is_refused(admitted: GateBench) -> None:
    """It writes the entry that the gate wants to see into the message alone."""
    bench = admitted
    call = Call.load(bench.evidence(Kind.TRAIN, Envelope(config(1))))
    honest = call.published
    assert honest is not None
    forged = honest.entry.replace(weights_digest(INITIAL).encode(), weights_digest(CRAFTED).encode())
    evidence = replace(call, published=replace(honest, entry=forged)).dump()
    answer = bench.ask(Kind.TRAIN, Envelope({**config(1, CRAFTED), EVIDENCE: evidence}, weights=CRAFTED))
    assert refused(answer)[0] == "ingress.published"
    assert "does not lead" in refused(answer)[1]


@pytest.mark.parametrize("entries", [0, 1, 9])
def test_a_second_log_kept_for_one_silo_is_noticed(admitted: GateBench, second: AuditLog, entries: int) -> None:
    """A split view: shorter, as long, or longer than the one that this silo saw before."""
    bench = admitted
    for n in range(entries):
        second.append(Event("coordinator", "x", "r", detail={"n": n}))
    hidden = bench.make_hub(second)
    hidden._held = {SILO: {second.origin: bench.hub_log.size}}
    evidence = bench.evidence(Kind.TRAIN, Envelope(config(1, CRAFTED)), hidden)
    answer = bench.ask(Kind.TRAIN, Envelope({**config(1, CRAFTED), EVIDENCE: evidence}, weights=CRAFTED))
    assert refused(answer)[0] == "coordinator.log"
    assert bench.last["rule"] == "coordinator.log"
    assert bench.workers[0].asked == ["prepare"]
    assert bench.round(1).config["status"] == "ok", "the log it saw first still counts"


def test_a_split_view_is_noticed_after_a_restart_too(admitted: GateBench, second: AuditLog) -> None:
    bench = admitted
    bench.round(1)
    bench.witnessing = bench.make_witnessing()
    bench.handler = bench.make_handler()
    evidence = bench.evidence(Kind.ADMIT, Envelope(), bench.make_hub(second))
    question = bench.question()
    answer = bench.ask(Kind.ADMIT, replace(question, config={**question.config, EVIDENCE: evidence}))
    assert refused(answer)[0] == "coordinator.log"


def test_a_round_without_a_proof_that_the_log_was_continued_is_refused(admitted: GateBench) -> None:
    bench = admitted
    bench.round(1)
    bench.hub_log.append(Event("coordinator", "x", "r"))
    call = Call.load(bench.evidence(Kind.TRAIN, Envelope(config(2))))
    bare = replace(call, own=Told(replace(call.own.statement, proofs={})))
    answer = bench.ask(Kind.TRAIN, Envelope({**config(2), EVIDENCE: bare.dump()}, weights=INITIAL))
    assert refused(answer)[0] == "ingress.published"
    assert "gives no proof from" in refused(answer)[1]


@pytest.mark.parametrize("evidence", ["", "{}", "[", '{"own":1}', "x" * 5_000_000, 7])
@pytest.mark.parametrize("kind", [Kind.ADMIT, Kind.INITIAL, Kind.TRAIN, Kind.EVALUATE])
def test_a_message_with_damaged_evidence_is_refused(admitted: GateBench, kind: str, evidence: Any) -> None:
    bench = admitted
    answer = bench.ask(kind, Envelope({**config(1), EVIDENCE: evidence}, weights=INITIAL))
    assert refused(answer)[0] == "coordinator.log"


def test_a_message_without_evidence_is_refused(admitted: GateBench) -> None:
    bench = admitted
    bench.node.envelopes["bare"] = Envelope(config(1), weights=INITIAL)
    from silo.gate.fleet import Task

    answer = bench.handler.handle(Task(Kind.TRAIN, 7, "bare", None, None))  # type: ignore[arg-type]
    assert refused(answer)[0] == "coordinator.log"
    assert Answer.load(str(answer.config[EVIDENCE])).newest is not None, "it says what it holds all the same"


def test_a_coordinator_that_was_restarted_learns_what_its_silos_hold(admitted: GateBench) -> None:
    bench = admitted
    bench.round(1)
    bench.hub = bench.make_hub(bench.hub_log)
    bench.hub_log.append(Event("coordinator", "coordinator.start", "r"))
    assert readmit(bench).config["status"] == "admitted"
    assert bench.round(2).config["status"] == "ok"


def test_a_coordinator_that_was_rolled_back_does_not_act(bench: GateBench) -> None:
    """Its disk is restored from a copy; the first answer of a silo tells it so."""
    bench.work()
    shutil.copytree(bench.hub_log.folder, bench.directory / "backup")
    bench.admit()
    bench.round(1)
    bench.hub_log.close()
    with open_log(bench.consortium.homes["coordinator"], bench.directory / "backup") as restored:
        bench.hub = bench.make_hub(restored)
        with pytest.raises(RunFailedError, match="acknowledge-rollback"):
            bench.admit()
        assert bench.last["rule"] == "coordinator.log"
        with pytest.raises(RunFailedError, match="does not act"):
            bench.hub.require_clear()
        acknowledge(restored, "operator", "restored from backup")
        bench.hub.require_clear()
        bench.hub = bench.make_hub(restored)
        assert readmit(bench).config["status"] == "admitted"
        assert bench.round(2).config["status"] == "ok"
        assert "witness.restarted" in bench.state().actions


# -- this silo's own log


def restart(bench: GateBench, log: AuditLog, directory: Path) -> None:
    """The gate starts anew over a log in another place, its worker too."""
    bench.log, bench.audit, bench.history = log, directory, history_of(read_entries(directory))
    bench.guard = RollbackGuard(log, bench.peer.uri)
    bench.witnessing = bench.make_witnessing()
    bench.handler = bench.make_handler()


def test_a_silo_that_was_rolled_back_refuses_until_an_operator_acknowledges(bench: GateBench) -> None:
    bench.work()
    bench.log.append(Event(bench.peer.uri, "gate.start", "silo"))
    shutil.copytree(bench.audit, bench.directory / "backup")
    bench.admit()
    bench.round(1)
    bench.ask(Kind.EVALUATE, Envelope(config(3), weights=INITIAL))
    worker = bench.work()
    bench.log.close()
    backup = bench.directory / "backup"
    with open_log(bench.consortium.homes[SILO], backup) as log:
        restart(bench, log, backup)
        for _ in range(2):
            assert refused(bench.admit())[0] == "log.rollback"
        assert worker.asked == []
        assert bench.state().actions.count("log.rollback") == 1
    with open_log(bench.consortium.homes[SILO], backup) as log:
        restart(bench, log, backup)
        assert refused(bench.admit())[0] == "log.rollback", "a restart changes nothing"
        acknowledge(log, "operator", "the disk was replaced")
        restart(bench, log, backup)
        assert bench.admit().config["status"] == "admitted"
        assert bench.round(1).config["status"] == "ok"
        assert "witness.restarted" in _actions(bench.hub_log)
        assert bench.hub._witness.sizes[log.origin] == log.size - 2, "the coordinator cosigns it again"


def _actions(log: AuditLog) -> list[str]:
    import json

    return [json.loads(log.publication_of(seq).entry)["action"] for seq in range(log.size)]


# -- other silos


@pytest.fixture
def peer(bench: GateBench) -> Iterator[AuditLog]:
    with open_log(bench.consortium.homes["hospital-b"], bench.directory / "hospital-b-log") as log:
        yield log


def told(bench: GateBench, log: AuditLog, sizes: tuple[int, ...] = ()) -> str:
    call = Call.load(bench.hub.call([SILO], everyone=True))
    return replace(call, peers=(*call.peers, Told(log.statement(sizes)))).dump()


def test_another_silos_log_is_cosigned(admitted: GateBench, peer: AuditLog) -> None:
    bench = admitted
    for n in range(3):
        peer.append(Event("b", "x", "r", detail={"n": n}))
        bench.ask(Kind.INITIAL, Envelope({EVIDENCE: told(bench, peer, (n,))}))
        lines = {line.origin: line for line in Answer.load(bench.answered).cosignatures}
        assert lines[peer.origin].size == n + 1
    assert bench.make_witnessing()._witness.sizes[peer.origin] == 3


def test_another_silos_forked_log_is_refused_and_recorded_once(
    admitted: GateBench, peer: AuditLog, tmp_path: Path
) -> None:
    bench = admitted
    peer.append(Event("b", "x", "r"))
    bench.ask(Kind.INITIAL, Envelope({EVIDENCE: told(bench, peer)}))
    with open_log(bench.consortium.homes["hospital-b"], tmp_path / "fork") as fork:
        fork.append(Event("b", "y", "r"))
        for _ in range(2):
            assert bench.ask(Kind.INITIAL, Envelope({EVIDENCE: told(bench, fork)})).config["status"] == "ok"
    entries = [entry for entry in bench.state().entries if entry["action"] == "witness.refused"]
    assert [(entry["rule"], entry["detail"]) for entry in entries] == [("witness.consistency", {"log": peer.origin})]
    assert "two histories" in entries[0]["reason"]


def test_the_log_of_a_stranger_is_left_alone(admitted: GateBench, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    bench = admitted
    with AuditLog.open(tmp_path / "x", origin="heart.example/silo/nobody", key=Ed25519PrivateKey.generate()) as log:
        bench.ask(Kind.INITIAL, Envelope({EVIDENCE: told(bench, log)}))
    assert list(bench.witnessing._witness.sizes) == [bench.hub_log.origin]


def test_a_silo_that_lies_about_its_log_is_recorded_by_the_coordinator(admitted: GateBench, tmp_path: Path) -> None:
    bench = admitted
    assert bench.log.origin in bench.hub._witness.sizes
    with open_log(bench.consortium.homes[SILO], tmp_path / "fork") as fork:
        fork.append(Event("a", "y", "r"))
        for _ in range(2):
            bench.hub.take(SILO, Answer(Told(fork.statement())).dump())
    assert _actions(bench.hub_log).count("witness.refused") == 1


@pytest.mark.parametrize("text", [None, 7, "", "{}", "[" * 100_000])
def test_a_silo_that_says_nothing_or_nonsense_harms_nobody(admitted: GateBench, text: Any) -> None:
    bench = admitted
    bench.hub.take(SILO, text)
    bench.hub.take("nobody", text)
    assert bench.round(1).config["status"] == "ok"


def test_every_log_of_all_this_verifies(admitted: GateBench) -> None:
    bench = admitted
    bench.round(1)
    assert verify(bench.audit, bench.log.vkey).size == bench.log.size
    assert verify(bench.hub_log.folder, bench.hub_log.vkey).size == bench.hub_log.size
