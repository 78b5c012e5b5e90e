"""Witnesses: what they cosign, what they refuse, what they keep, and how a rollback is passed over."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.cosignature import cosigned
from audit.entry import Event
from audit.errors import AuditCorrupt, AuditError, RollbackError, VerificationError, WitnessBehind, WitnessConflict
from audit.gossip import Answer, Call, Told
from audit.log import AuditLog
from audit.note import verifier_key
from audit.rollback import RollbackGuard, acknowledge
from audit.statement import Statement
from audit.verify import verify
from audit.witness import Witness

EVENT = Event("gate", "x", "r")
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WITNESS = verifier_key("fed/silo/w", WITNESS_KEY.public_key())
Opener = Callable[[Path], AuditLog]


@pytest.fixture
def witness(tmp_path: Path, clock) -> Callable[[], Witness]:
    return lambda: Witness(tmp_path / "witness", WITNESS.name, WITNESS_KEY, clock)


@pytest.fixture
def log(tmp_path: Path, open_log: Opener) -> Iterator[AuditLog]:
    with open_log(tmp_path / "log") as log:
        yield log


def fork(log: AuditLog, open_log: Opener, directory: Path, entries: int) -> AuditLog:
    """Another history under the same key: another event, and as many more as asked for."""
    directory.mkdir()
    other = open_log(directory / "log")
    for n in range(entries):
        other.append(Event("gate", "forged", "r", detail={"n": n}))
    return other


def test_a_log_that_grows_is_cosigned(log: AuditLog, witness) -> None:
    one = witness()
    log.append(EVENT)
    first = one.cosign(log.statement(), log.verifier)
    assert (first.origin, first.size) == (log.origin, 1)
    for _ in range(5):
        log.append(EVENT, EVENT)
        signed = one.cosign(log.statement([one.sizes[log.origin]]), log.verifier)
        assert signed.size == log.size
    kept = one.seen(log.origin)
    assert cosigned(kept.note.encode(), log.verifier, [WITNESS]).witnesses == {WITNESS.name: kept.at}


def test_the_empty_log_is_extended_by_every_other_without_a_proof(log: AuditLog, witness) -> None:
    one = witness()
    assert one.cosign(log.statement(), log.verifier).size == 0
    log.append(EVENT)
    assert one.cosign(log.statement(), log.verifier).size == 1


def test_what_was_seen_outlives_the_witness(log: AuditLog, witness) -> None:
    log.append(EVENT)
    witness().cosign(log.statement(), log.verifier)
    again = witness()
    assert again.sizes == {log.origin: 1}
    log.append(EVENT)
    with pytest.raises(WitnessBehind, match="no proof from the 1 entries"):
        again.cosign(log.statement(), log.verifier)
    assert again.sizes == {log.origin: 1}
    assert again.cosign(log.statement([1]), log.verifier).size == 2


@pytest.mark.parametrize(
    ("entries", "message"), [(2, "shows 2 entries, but has signed 3"), (3, "two histories of 3"), (5, "not extend")]
)
def test_a_smaller_log_and_another_history_are_refused(
    tmp_path: Path, log: AuditLog, open_log: Opener, witness, entries: int, message: str
) -> None:
    one = witness()
    log.append(EVENT, EVENT, EVENT)
    one.cosign(log.statement(), log.verifier)
    with fork(log, open_log, tmp_path / "fork", entries) as other, pytest.raises(WitnessConflict, match=message):
        one.cosign(other.statement([1, 2, 3]), log.verifier)
    assert one.sizes == {log.origin: 3}


def test_any_one_honest_witness_notices_a_split_view(tmp_path: Path, log: AuditLog, open_log: Opener, clock) -> None:
    """Each witness is shown a history; whichever of them sees both refuses the second, and the copies tell who lied."""
    log.append(EVENT, EVENT)
    with fork(log, open_log, tmp_path / "fork", 2) as other:
        views = {"a": log, "b": other}
        ones = {name: Witness(tmp_path / name, WITNESS.name, WITNESS_KEY, clock) for name in views}
        for name, view in views.items():
            ones[name].cosign(view.statement(), view.verifier)
        for name, view in (("a", other), ("b", log)):
            with pytest.raises(WitnessConflict, match="two histories"):
                ones[name].cosign(view.statement(), log.verifier)
        copies = [ones[name].seen(log.origin).checkpoint for name in views]
        assert copies[0].size == copies[1].size
        assert copies[0].root != copies[1].root


def test_what_its_log_did_not_sign_is_not_cosigned(log: AuditLog, witness) -> None:
    log.append(EVENT)
    changed = Statement(log.checkpoint.replace("\n1\n", "\n2\n"))
    with pytest.raises(VerificationError, match="does not verify"):
        witness().cosign(changed, log.verifier)
    assert witness().sizes == {}


def test_a_damaged_store_is_refused(tmp_path: Path, log: AuditLog, witness) -> None:
    witness().cosign(log.statement(), log.verifier)
    (path,) = (tmp_path / "witness").iterdir()
    path.write_bytes(path.read_bytes().replace(b"\n0\n", b"\n9\n"))
    with pytest.raises(AuditCorrupt, match="not a checkpoint that this witness cosigned"):
        witness()


def test_nothing_is_cosigned_that_cannot_be_kept(tmp_path: Path, log: AuditLog, witness) -> None:
    one = witness()
    (tmp_path / "witness").write_bytes(b"in the way")
    with pytest.raises(AuditError):
        one.cosign(log.statement(), log.verifier)
    assert one.sizes == {}


# -- rollback


@pytest.fixture
def rolled_back(tmp_path: Path, open_log: Opener, witness) -> Iterator[tuple[AuditLog, Witness]]:
    """A log that was restored from a copy made before the witness saw two more of its entries."""
    import shutil

    with open_log(tmp_path / "log") as log:
        log.append(EVENT)
    shutil.copytree(tmp_path / "log", tmp_path / "backup")
    one = witness()
    with open_log(tmp_path / "log") as log:
        log.append(EVENT, EVENT)
        one.cosign(log.statement(), log.verifier)
    shutil.rmtree(tmp_path / "log")
    shutil.move(tmp_path / "backup", tmp_path / "log")
    with open_log(tmp_path / "log") as log:
        yield log, one


def last(log: AuditLog) -> dict[str, object]:
    return json.loads(log.publication_of(log.size - 1).entry)


@pytest.mark.parametrize("more", [0, 1, 4])
def test_a_restored_disk_is_noticed_recorded_once_and_refused(rolled_back, more: int) -> None:
    """Also where the log has meanwhile grown past what was seen."""
    log, one = rolled_back
    for _ in range(more):
        log.append(EVENT)
    guard = RollbackGuard(log, "gate")
    guard.require_clear()
    for _ in range(3):
        with pytest.raises(RollbackError, match="witnesses saw"):
            guard.check(one.seen(log.origin).note.encode(), WITNESS)
    with pytest.raises(RollbackError):
        guard.require_clear()
    assert log.size == 1 + more + 1
    assert (last(log)["action"], last(log)["decision"], last(log)["rule"]) == ("log.rollback", "deny", "log.rollback")
    assert last(log)["detail"]["witnessed_size"] == 3


def test_an_acknowledged_rollback_lets_the_log_go_on_and_its_witnesses_take_it_up(rolled_back, clock) -> None:
    log, one = rolled_back
    guard = RollbackGuard(log, "gate")
    note = one.seen(log.origin).note.encode()
    with pytest.raises(RollbackError):
        guard.check(note, WITNESS)
    from datetime import timedelta

    clock.now += timedelta(seconds=2)
    acknowledge(log, "operator", "restored from the backup of last night")
    guard.require_clear()
    guard.check(note, WITNESS)
    with pytest.raises(WitnessConflict):
        one.cosign(log.statement([3]), log.verifier)
    taken = one.cosign(log.statement([3]), log.verifier, guard.acknowledgement())
    assert taken.restarted
    assert one.sizes == {log.origin: log.size}
    log.append(EVENT)
    assert not one.cosign(log.statement([one.sizes[log.origin]]), log.verifier, guard.acknowledgement()).restarted
    assert verify(log.folder).size == log.size


def test_an_acknowledgement_does_not_cover_a_later_rollback(
    tmp_path: Path, rolled_back, open_log: Opener, clock
) -> None:
    import shutil
    from datetime import timedelta

    log, one = rolled_back
    guard = RollbackGuard(log, "gate")
    with pytest.raises(RollbackError):
        guard.check(one.seen(log.origin).note.encode(), WITNESS)
    clock.now += timedelta(seconds=2)
    acknowledge(log, "operator", "restored")
    shutil.copytree(log.folder, tmp_path / "backup")
    clock.now += timedelta(seconds=2)
    log.append(EVENT)
    one.cosign(log.statement([3]), log.verifier, guard.acknowledgement())
    with open_log(tmp_path / "backup") as again:
        known = RollbackGuard(again, "gate").acknowledgement()
        assert known is not None, "the acknowledgement of the first is in the second copy too"
        with pytest.raises(RollbackError):
            RollbackGuard(again, "gate").check(one.seen(log.origin).note.encode(), WITNESS)
        with pytest.raises(WitnessConflict):
            one.cosign(again.statement(), again.verifier, known)


def test_there_is_nothing_to_acknowledge_where_nothing_was_noticed(log: AuditLog) -> None:
    with pytest.raises(AuditError, match="nothing to acknowledge"):
        acknowledge(log, "operator", "to be safe")
    assert log.size == 0


def test_a_log_that_only_restarted_is_clear(log: AuditLog, witness) -> None:
    log.append(EVENT)
    one = witness()
    one.cosign(log.statement(), log.verifier)
    log.append(EVENT)
    RollbackGuard(log, "gate").check(one.seen(log.origin).note.encode(), WITNESS)
    assert log.size == 2


def test_a_note_that_the_witness_did_not_cosign_proves_no_rollback(rolled_back) -> None:
    log, one = rolled_back
    stranger = verifier_key(WITNESS.name, Ed25519PrivateKey.generate().public_key())
    with pytest.raises(VerificationError):
        RollbackGuard(log, "gate").check(one.seen(log.origin).note.encode(), stranger)
    assert log.size == 1


# -- what travels


def test_what_is_told_is_read_back(log: AuditLog, witness) -> None:
    log.append(EVENT, EVENT, EVENT)
    published = log.publish(Event("hub", "round.begin", "r", reason="né"), [1, 2])
    line = witness().cosign(log.statement(), log.verifier)
    told = Told(published.statement, published)
    call = Call(told, published, (told,), (log.checkpoint,), {log.origin: (1, 2)})
    assert Call.load(call.dump()) == call
    answer = Answer(told, (line,), {log.origin: 3}, log.checkpoint)
    assert Answer.load(answer.dump()) == answer
    assert Answer.load(Answer().dump()) == Answer()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = ("own", "published", "peers", "cosigned", "wanted", "cosignatures", "held", "newest", "statement",
         "acknowledged", "checkpoint", "proofs", "entry", "index", "path")  # fmt: skip


@settings(max_examples=150)
@given(st.text(max_size=40) | JSON.map(json.dumps) | st.dictionaries(st.sampled_from(NAMES), JSON).map(json.dumps))
def test_only_our_error_escapes_the_parsers(text: str) -> None:
    for parse in (Call.load, Answer.load):
        with contextlib.suppress(AuditError):
            parse(text)


@settings(max_examples=200)
@given(st.data())
def test_a_changed_message_is_refused_or_read(data: st.DataObject) -> None:
    told = Told(Statement("note", {3: (bytes(32),)}))
    for good, parse in (
        (Call(told, None, (told,), ("x",), {"a": (1,)}).dump(), Call.load),
        (Answer(told, (), {"a": 1}, "x").dump(), Answer.load),
    ):
        at = data.draw(st.integers(0, len(good) - 1))
        with contextlib.suppress(AuditError):
            parse(good[:at] + data.draw(st.text(max_size=2)) + good[at + 1 :])
