from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.entry import Event
from audit.errors import (
    AuditCorrupt,
    AuditEventError,
    AuditLocked,
    AuditTampered,
    AuditWriteError,
    VerificationError,
)
from audit.log import AuditLog
from audit.merkle import EMPTY_ROOT, leaf_hash, root_of
from audit.note import open_checkpoint, parse_vkey
from audit.verify import verify

ADMIT = Event("gate", "run.admit", "run-1", decision="allow", run="run-1")
SEGMENT = "segments/000000000000.jsonl"
HASHES = "segments/000000000000.hashes"

Opener = Callable[[Path], AuditLog]


def entries(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / SEGMENT).read_bytes().splitlines()]


def test_a_new_log_is_empty_signed_and_private(tmp_path: Path, open_log: Opener, vkey: str):
    directory = tmp_path / "deep" / "log"
    with open_log(directory) as log:
        assert (log.size, log.root, log.vkey) == (0, EMPTY_ROOT, vkey)
        assert log.checkpoint == (directory / "checkpoint").read_text()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert verify(directory, vkey).size == 0


def test_what_was_appended_is_there_and_verifies(tmp_path: Path, open_log: Opener, vkey: str):
    with open_log(tmp_path) as log:
        assert log.append(ADMIT) == [0]
        assert log.append(ADMIT, Event("gate", "round.egress", "heart", decision="deny", rule="egress.norm")) == [1, 2]
        assert log.append() == []
        assert log.size == 3
        head = open_checkpoint(log.checkpoint.encode(), parse_vkey(vkey))
        assert (head.size, head.root) == (3, log.root)
    lines = (tmp_path / SEGMENT).read_bytes().splitlines()
    assert root_of(leaf_hash(line) for line in lines) == head.root
    assert (tmp_path / HASHES).read_bytes() == b"".join(leaf_hash(line) for line in lines)
    report = verify(tmp_path, vkey)
    assert (report.size, report.root, report.decisions) == (3, head.root.hex(), {"allow": 2, "deny": 1})
    assert (tmp_path / "lock").read_bytes() == b""


def test_a_reopened_log_goes_on_and_leaves_its_checkpoint_alone(tmp_path: Path, open_log: Opener, build, vkey: str):
    build(tmp_path, 7)
    before = (tmp_path / "checkpoint").read_bytes()
    with open_log(tmp_path) as log:
        assert (tmp_path / "checkpoint").read_bytes() == before
        assert log.append(ADMIT) == [7]
    assert verify(tmp_path, vkey).size == 8


def test_payloads_are_private_and_erasable(tmp_path: Path, open_log: Opener, vkey: str):
    with open_log(tmp_path) as log:
        log.append(ADMIT, Event("gate", "round.egress", "heart", payload={"who": "jürgen", "loss": 0.25}))
    path = tmp_path / "payloads/000000000001.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = json.loads(path.read_text())
    assert (kept["payload"], len(bytes.fromhex(kept["salt"]))) == ({"who": "jürgen", "loss": 0.25}, 32)
    assert "jürgen" not in (tmp_path / SEGMENT).read_text()
    report = verify(tmp_path, vkey)
    assert (report.payloads, report.erased_payloads) == (1, 0)
    path.unlink()
    report = verify(tmp_path, vkey)
    assert (report.payloads, report.erased_payloads) == (0, 1)


def test_a_bad_event_leaves_the_log_usable(tmp_path: Path, open_log: Opener):
    with open_log(tmp_path) as log:
        with pytest.raises(AuditEventError):
            log.append(ADMIT, Event("gate", "Not An Action", "x"))
        assert log.append(ADMIT) == [0]


def test_many_threads_append_every_event_once(tmp_path: Path, open_log: Opener, vkey: str):
    with open_log(tmp_path) as log:
        seqs: list[int] = []

        def work(number: int) -> None:
            for n in range(10):
                seqs.extend(log.append(Event("gate", "round.ingress", "m", detail={"thread": number, "n": n})))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seqs) == list(range(80))
    found = {(e["detail"]["thread"], e["detail"]["n"]) for e in entries(tmp_path)}
    assert found == {(number, n) for number in range(8) for n in range(10)}
    assert verify(tmp_path, vkey).size == 80


def test_a_clock_that_goes_back_is_recorded(tmp_path: Path, open_log: Opener, clock, vkey: str):
    with open_log(tmp_path) as log:
        log.append(ADMIT)
        clock.now -= timedelta(seconds=2)
        log.append(ADMIT, ADMIT)
    with open_log(tmp_path) as log:
        clock.now -= timedelta(microseconds=1500)
        log.append(ADMIT)
    assert [e["detail"] for e in entries(tmp_path)] == [
        {}, {"clock_went_back_us": 1_999_000}, {}, {"clock_went_back_us": 500},
    ]  # fmt: skip
    assert entries(tmp_path)[1]["time"] == "2026-11-01T07:59:58.002000Z"
    verify(tmp_path, vkey)


def test_a_clock_without_a_zone_is_refused(tmp_path: Path, key: Ed25519PrivateKey, origin: str):
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=lambda: datetime(2026, 11, 1)) as log:  # noqa: DTZ001
        with pytest.raises(AuditEventError, match="without a zone"):
            log.append(ADMIT)
        assert log.size == 0


def test_a_closed_log_refuses(tmp_path: Path, open_log: Opener):
    log = open_log(tmp_path)
    log.close()
    log.close()
    with pytest.raises(AuditWriteError, match="it is closed"):
        log.append(ADMIT)


def test_a_forked_child_cannot_append_nor_release(tmp_path: Path, open_log: Opener):
    with open_log(tmp_path) as log:
        child = os.fork()
        if child == 0:
            try:
                log.append(ADMIT)
            except AuditWriteError:
                log.close()
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        with pytest.raises(AuditLocked):
            open_log(tmp_path)
        assert log.append(ADMIT) == [0]


# one writer

HOLDER = """
import sys
from audit.keys import load_key
from audit.log import AuditLog
with AuditLog.open(sys.argv[1], origin="a/log", key=load_key(sys.argv[2])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_by_the_pid_of_the_first(tmp_path: Path):
    from audit.keys import create_key

    key = create_key(tmp_path / "key.pem")
    command = [sys.executable, "-c", HOLDER, tmp_path / "log", tmp_path / "key.pem"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(AuditLocked, match=f"process {holder.pid} writes") as refusal:
            AuditLog.open(tmp_path / "log", origin="a/log", key=key)
        assert refusal.value.pid == holder.pid
        holder.kill()
    with AuditLog.open(tmp_path / "log", origin="a/log", key=key) as log:  # a dead process holds no lock
        assert log.append(ADMIT) == [0]
        with pytest.raises(AuditLocked, match=f"process {os.getpid()} writes"):
            AuditLog.open(tmp_path / "log", origin="a/log", key=key)


def test_a_log_keeps_its_key_and_origin(tmp_path: Path, build, key: Ed25519PrivateKey, origin: str):
    build(tmp_path, 1)
    for other in ({"key": Ed25519PrivateKey.generate(), "origin": origin}, {"key": key, "origin": "b/log"}):
        with pytest.raises(AuditCorrupt, match=r"log\.vkey is not the verifier key"):
            AuditLog.open(tmp_path, **other)
    with pytest.raises(VerificationError, match="expected 1 to 255"):
        AuditLog.open(tmp_path, key=key, origin="with space")


# the live file is touched


def unlink(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")


def replace(path: Path) -> None:
    copy = path.parent.parent / "copy"
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("name", [SEGMENT, HASHES])
@pytest.mark.parametrize("touch", [unlink, rename, replace, truncate, lengthen])
def test_a_touched_live_file_is_noticed(tmp_path: Path, open_log: Opener, name: str, touch: Callable[[Path], None]):
    with open_log(tmp_path) as log:
        log.append(ADMIT)
        before = log.checkpoint
        touch(tmp_path / name)
        with pytest.raises(AuditTampered, match=name):
            log.append(ADMIT)
        with pytest.raises(AuditWriteError, match="refuses to append"):
            log.append(ADMIT)
        assert (log.size, log.checkpoint) == (1, before)
    assert (tmp_path / "checkpoint").read_text() == before


# reading back


@pytest.mark.parametrize("tail", [b'{"action":', b"\0" * 5000, b"not json\n", b'{"a":1}\n', b"x" * 300_000])
def test_a_torn_tail_is_cut_and_the_cut_is_recorded(tmp_path: Path, open_log: Opener, build, vkey: str, tail: bytes):
    build(tmp_path, 3)
    signed = (tmp_path / SEGMENT).read_bytes()
    (tmp_path / SEGMENT).write_bytes(signed + tail)
    with open_log(tmp_path) as log:
        assert log.size == 4
        assert log.append(ADMIT) == [4]
    assert (tmp_path / SEGMENT).read_bytes().startswith(signed)
    cut = entries(tmp_path)[3]
    assert (cut["action"], cut["detail"]) == (
        "log.recovered",
        {"bytes_removed": len(tail), "entries_adopted": 0, "payloads_removed": 0},
    )
    assert verify(tmp_path, vkey).size == 5


def restore(directory: Path, snapshot: dict[str, bytes]) -> None:
    for name, data in snapshot.items():
        (directory / name).write_bytes(data)


def test_complete_entries_after_the_checkpoint_are_kept_and_signed(tmp_path: Path, open_log: Opener, build, vkey: str):
    build(tmp_path, 3)
    old = (tmp_path / "checkpoint").read_bytes(), (tmp_path / HASHES).read_bytes()
    build(tmp_path, 2)
    written = (tmp_path / SEGMENT).read_bytes()
    (tmp_path / "checkpoint").write_bytes(old[0])
    (tmp_path / HASHES).write_bytes(old[1] + b"\1" * 40)
    (tmp_path / "payloads/000000000005.json").write_bytes(b"an orphan of an append that did not happen")
    open_log(tmp_path).close()
    assert (tmp_path / SEGMENT).read_bytes().startswith(written)
    assert not (tmp_path / "payloads/000000000005.json").exists()
    last = entries(tmp_path)[-1]
    assert (last["seq"], last["action"]) == (5, "log.recovered")
    assert last["detail"] == {"bytes_removed": 0, "entries_adopted": 2, "payloads_removed": 1}
    report = verify(tmp_path, vkey)
    assert (report.size, report.payloads) == (6, 2)


def test_damage_in_what_was_signed_is_refused_by_the_entrys_number(tmp_path: Path, open_log: Opener, build):
    build(tmp_path, 6)
    good = {name: (tmp_path / name).read_bytes() for name in (SEGMENT, HASHES, "checkpoint", "log.vkey")}
    lines = good[SEGMENT].splitlines(keepends=True)
    damages: list[tuple[str, bytes | None, int | None, str]] = [
        (SEGMENT, good[SEGMENT].replace(b'"n":3', b'"n":4'), 3, "entry 3 was altered"),
        (SEGMENT, good[SEGMENT][:-1], 5, "entry 5 is cut short"),
        (SEGMENT, b"".join(lines[:5]), 5, "entry 5 is missing"),
        (SEGMENT, b"".join(lines[:2] + lines[3:]), 2, "entry 2 is missing or moved"),
        (SEGMENT, b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]), 2, "entry 2 is missing or moved"),
        (SEGMENT, None, None, "missing|incomplete"),
        (HASHES, good[HASHES][:64] + bytes(32) + good[HASHES][96:], 2, "stored hash of entry 2"),
        (HASHES, good[HASHES][:-1], 5, "stored hash of entry 5"),
        (HASHES, None, None, "missing|incomplete"),
        ("checkpoint", good["checkpoint"].replace(b"\n6\n", b"\n5\n"), None, "does not verify"),
        ("checkpoint", b"", None, "expected a text"),
        ("checkpoint", None, None, "no checkpoint"),
        ("log.vkey", good["log.vkey"][1:], None, "is not the verifier key"),
    ]
    for name, data, seq, message in damages:
        restore(tmp_path, good)
        (tmp_path / name).unlink() if data is None else (tmp_path / name).write_bytes(data)
        with pytest.raises(AuditCorrupt, match=message) as refusal:
            open_log(tmp_path)
        assert refusal.value.seq == seq, message
    restore(tmp_path, good)
    open_log(tmp_path).close()


def test_a_lost_log_does_not_start_afresh_over_its_payloads(tmp_path: Path, open_log: Opener, build):
    build(tmp_path, 3)
    (tmp_path / "checkpoint").unlink()
    for name in (SEGMENT, HASHES):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(AuditCorrupt, match="payloads is not empty"):
        open_log(tmp_path)


def test_a_directory_that_cannot_be_written_is_a_write_error(tmp_path: Path, open_log: Opener):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AuditWriteError, match="cannot open the log"):
        open_log(tmp_path / "file" / "log")
