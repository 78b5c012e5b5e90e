"""A malicious witness signs two histories, replays, dates as it likes, floods; and how the page reads a note."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import verify
from audit.cosignature import cosign, cosigned, cosigned_at, with_signature
from audit.entry import Event
from audit.errors import RollbackError, VerificationError
from audit.keys import vkey_of
from audit.log import AuditLog
from audit.note import Checkpoint, parse_note, parse_vkey, sign_note
from audit.rollback import RollbackGuard, acknowledge
from audit.verify import VerificationFailure

from .conftest import key_of
from .test_bundle import archive  # noqa: F401  a fixture
from .test_report_browser import program


def vkey(name: str) -> str:
    return vkey_of(name, key_of(name).public_key())


@pytest.fixture
def own(tmp_path: Path) -> tuple[AuditLog, Ed25519PrivateKey]:
    key = key_of("own")
    with AuditLog.open(tmp_path / "own", origin="x.example/log", key=key) as log:
        for number in range(4):
            log.append(Event("gate", "round.egress", str(number)))
    return log, key


@pytest.mark.parametrize("seconds", [0, 1, 2**31, 253402300799])
def test_a_cosignature_of_any_time_that_a_calendar_tells_is_the_witness_word(own, seconds: int) -> None:
    log, _ = own
    note = with_signature(log.checkpoint, cosign(parse_note(log.checkpoint.encode()).text, "w", key_of("w"), seconds))
    witness = parse_vkey(vkey("w"))
    assert cosigned_at(parse_note(note.encode()), witness) == seconds
    found = cosigned(note.encode(), log.verifier, [witness])
    assert found.age(1_800_000_000) >= 0


@pytest.mark.parametrize("seconds", [253402300800, 2**62, 2**63, 2**64 - 1])
def test_a_cosignature_beyond_every_calendar_is_none(own, seconds: int) -> None:
    log, _ = own
    note = with_signature(log.checkpoint, cosign(parse_note(log.checkpoint.encode()).text, "w", key_of("w"), seconds))
    with pytest.raises(VerificationError, match="does not verify"):
        cosigned_at(parse_note(note.encode()), parse_vkey(vkey("w")))


def test_one_witness_in_the_future_makes_the_cosignatures_no_younger(own) -> None:
    log, _ = own
    note, now = log.checkpoint, 1_800_000_000
    for name, seconds in (("liar", 253402300799), ("a", now - 1000), ("b", now - 1001)):
        note = with_signature(note, cosign(parse_note(note.encode()).text, name, key_of(name), seconds))
    keys = [parse_vkey(vkey(name)) for name in ("liar", "a", "b")]
    assert cosigned(note.encode(), log.verifier, keys).age(now) == 1000


@pytest.mark.parametrize("size", [0, 2, 4])
def test_an_old_copy_that_agrees_and_copies_of_it_without_number_change_nothing(own, tmp_path: Path, size: int) -> None:
    log, key = own
    held = tmp_path / "held"
    held.mkdir()
    note = sign_note(Checkpoint(log.origin, size, log.root_at(size)).text, log.origin, key)
    for number in range(300):
        (held / str(number)).write_text(note)
    report = verify.verify(log.folder, log.vkey, copies=[str(held)])
    assert (report.size, report.witnessed) == (4, size)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_another_history_of_any_size_is_told(own, tmp_path: Path, size: int) -> None:
    log, key = own
    (tmp_path / "copy").write_text(sign_note(Checkpoint(log.origin, size, bytes(32)).text, log.origin, key))
    with pytest.raises(VerificationFailure, match="histor"):
        verify.verify(log.folder, log.vkey, copies=[str(tmp_path / "copy")])


def test_too_many_copies_are_refused(own, tmp_path: Path) -> None:
    log, _ = own
    held = tmp_path / "held"
    held.mkdir()
    for number in range(verify.MAX_COPIES + 1):
        (held / str(number)).touch()
    shutil.copy(log.folder / "checkpoint", held / "0")
    with pytest.raises(VerificationFailure, match="too many"):
        verify.verify(log.folder, copies=[str(held)])


@pytest.mark.federation
def test_the_page_reads_a_checkpoint_as_verify_py_does(browser, tmp_path: Path) -> None:
    key, name = key_of("x"), "x.example/log"
    head, root = f"{name}\n3\n", "A" * 43 + "="
    texts = [
        head + root + "\n",
        f"{head}{root}\nmore\n",
        f"{head}{root}\nmore\n\u2028\u0085\n",
        f"{head}{root}\n\nmore\n",
    ]
    texts += [f"{name}\n03\n{root}\n", f"other\n3\n{root}\n", f"{head}{root}", f"{head}{root}\n\n", head]
    notes = [sign_note(text if text.endswith("\n") else text + "x\n", name, key) for text in texts]
    body = """const key = parseVkey(cases[0]);
    return cases.slice(1).map((note) => {
      try { return openCheckpoint(note, key).size; }
      catch (error) { return error instanceof Failure ? false : String(error); } });"""

    def judge(note: str) -> int | bool:
        try:
            return verify.open_checkpoint(note.encode(), *verify.parse_vkey(vkey_of(name, key.public_key())))[0]
        except VerificationFailure:
            return False

    found = program(browser, tmp_path, body, [vkey_of(name, key.public_key()), *notes])
    assert found == [judge(note) for note in notes]
    assert found[:3] == [3, 3, 3]  # type: ignore[index]


def test_an_acknowledged_rollback_stays_acknowledged_whatever_clock_a_witness_has(tmp_path: Path) -> None:
    """One that dated what was lost into the future, or whose clock is ahead, stopped the owner again and again."""
    key, of_witness = key_of("own"), key_of("north")
    witness = parse_vkey(vkey("north"))
    with AuditLog.open(tmp_path / "own", origin="x.example/log", key=key) as log:
        log.append(*(Event("hub", "x", "r") for _ in range(5)))
    shutil.copytree(tmp_path / "own", tmp_path / "restored")
    with AuditLog.open(tmp_path / "own", origin="x.example/log", key=key) as log:
        log.append(*(Event("hub", "y", "r") for _ in range(5)))
        lost = log.statement(()).checkpoint
    text = lost.rpartition("\n\n")[0] + "\n"
    with AuditLog.open(tmp_path / "restored", origin="x.example/log", key=key) as log:
        guard = RollbackGuard(log, "hub")
        seen = [with_signature(lost, cosign(text, witness.name, of_witness, at)) for at in (1, 253402300799)]
        with pytest.raises(RollbackError):
            guard.check(seen[1].encode(), witness)
        acknowledge(log, "hub", "the disk was restored")
        for note in seen:
            guard.check(note.encode(), witness)
        guard.require_clear()
        # What was lost later, of as many entries or fewer, is another loss.
        log.append(Event("hub", "z", "r"))
        later = Checkpoint("x.example/log", 9, bytes(32)).text
        note = with_signature(
            sign_note(later, "x.example/log", key), cosign(later, witness.name, of_witness, 253402300799)
        )
        with pytest.raises(RollbackError):
            guard.check(note.encode(), witness)
