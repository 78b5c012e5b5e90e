"""Evidence of hundreds of logs, and logs that are made to keep a verifier busy."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from audit import bundle, note, verify
from audit.cosignature import cosign, with_signature
from audit.entry import Event
from audit.limits import LIMITS
from audit.log import AuditLog
from audit.merkle import leaf_hash, root_of
from audit.report import evidence, page
from audit.snapshot import take_all
from federation.identity import NAME
from federation.limits import LIMITS as MEMBERS

from .conftest import key_of

RUN, PARTIES = "run-1", 24


@pytest.fixture(scope="module")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The logs of many parties, each of which signed the newest checkpoint of all others and keeps it."""
    root = tmp_path_factory.mktemp("many")
    folders = [root / f"s{number}" for number in range(PARTIES)]
    for folder in folders:
        with AuditLog.open(folder, origin=f"fed/{folder.name}", key=key_of(folder.name)) as log:
            log.append(Event("gate", "round.egress", "heart", "allow", run=RUN))
        (folder / "witness").mkdir()
    for folder in folders:
        kept = (folder / "checkpoint").read_text()
        for other in folders:
            if other != folder:
                line = cosign(kept.rpartition("\n\n")[0] + "\n", f"fed/{other.name}", key_of(other.name), 1_700_000_000)
                (other / "witness" / quote(f"fed/{folder.name}", safe="")).write_text(with_signature(kept, line))
    return folders


def test_a_bundle_grows_with_its_logs_and_not_with_their_pairs(witnessed: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    bundle.write(take_all(witnessed), RUN, path)
    with zipfile.ZipFile(path) as archive:
        copies = [name for name in archive.namelist() if "/witnessed/" in name]
        assert len(copies) == PARTIES
        assert {len(note.parse_note(archive.read(name)).signatures) for name in copies} == {PARTIES}
    reports = verify.verify_bundle(path)
    assert [report.witnessed for report in reports] == [1] * PARTIES


def test_a_report_names_the_newest_witnesses_so_that_a_page_of_many_logs_opens_soon(witnessed: list[Path]) -> None:
    made = evidence.collect(take_all(witnessed), RUN)
    assert {len(log["witnessed"]) for log in made["logs"]} == {LIMITS.report_witnesses}
    few = evidence.collect(take_all(witnessed[: LIMITS.report_witnesses]), RUN)
    assert {len(log["witnessed"]) for log in few["logs"]} == {LIMITS.report_witnesses - 1}
    assert len(page.check(page.build(made))) == PARTIES


def test_two_histories_are_never_joined_to_one(witnessed: list[Path], tmp_path: Path) -> None:
    name, key = "fed/s0", key_of("s0")
    other = note.sign_note(note.Checkpoint(name, 1, b"x" * 32).text, name, key)
    (tmp_path / "witness").mkdir()
    for number in range(3):
        line = cosign(other.rpartition("\n\n")[0] + "\n", f"fed/w{number}", key_of(f"w{number}"), 1_700_000_000)
        (tmp_path / "witness" / f"copy{number}").write_text(with_signature(other, line))
    path = tmp_path / "bundle.zip"
    liar = take_all([*witnessed[:2]])[0]
    assert liar.origin == name
    with AuditLog.open(tmp_path, origin="fed/witness", key=key_of("witness")) as log:
        log.append(Event("gate", "a.b", "r", run=RUN))
    bundle.write(take_all([*witnessed[:2], tmp_path]), RUN, path)
    with pytest.raises(verify.VerificationFailure, match=r"another history|two histories"):
        verify.verify_bundle(path)


def test_ranges_without_number_of_erased_payloads_keep_no_verifier_busy(tmp_path: Path) -> None:
    """Five entries that name 8,000 times all entries: it took 8,000 times as long."""
    (tmp_path / "segments").mkdir()
    plain = {
        **dict.fromkeys(("rule", "reason", "policy", "run", "round")),
        "schema": verify.SCHEMA,
        "time": "2026-11-01T08:00:00.000000Z",
        "actor": "g",
        "resource": "r",
        "decision": "record",
    }
    gone = {"action": "a.b", "detail": {}, "payload_commitment": "sha256:" + "0" * 64}
    ranges = {"action": "log.erased", "detail": {"seqs": "0-99999," * 7999 + "3"}, "payload_commitment": None}
    only = {"action": "log.erased", "detail": {"seqs": "x,0-2,3\n,3-,-3,4-5"}, "payload_commitment": None}
    began = time.monotonic()
    for erased, unrecorded in ((ranges, 0), (only, 20_000 - 5)):
        entries = [gone] * 20_000 + [erased] * 5
        lines = [
            json.dumps({**plain, **entry, "seq": seq}, sort_keys=True, separators=(",", ":")).encode()
            for seq, entry in enumerate(entries)
        ]
        hashes = [leaf_hash(line) for line in lines]
        (tmp_path / "segments" / "000000000000.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        (tmp_path / "segments" / "000000000000.hashes").write_bytes(b"".join(hashes))
        signed = note.Checkpoint("fed/h", len(lines), root_of(hashes)).text
        (tmp_path / "checkpoint").write_text(note.sign_note(signed, "fed/h", key_of("h")))
        key = str(note.verifier_key("fed/h", key_of("h").public_key()))
        report = verify.verify(tmp_path, key)
        assert (report.erased_payloads, report.unrecorded_erasures) == (20_000, unrecorded)
    assert time.monotonic() - began < 20


def test_an_entry_names_a_thousand_members_with_the_longest_names(tmp_path: Path) -> None:
    """What a gate records of a run's parties, and what a coordinator records of a round with partial work."""
    names = [f"{number:04d}-" + "n" * 58 for number in range(MEMBERS.members)]
    assert all(NAME.fullmatch(name) and len(name) == 63 for name in names)
    events = [
        Event("gate", "run.admit", "heart", "allow", run=RUN, detail={"parties": ",".join(f"{n}:DE" for n in names)}),
        Event("hub", "round.end", "heart", run=RUN, detail={"silos": ",".join(names), "partial": ",".join(names)}),
    ]
    with AuditLog.open(tmp_path / "log", origin="fed/gate", key=key_of("gate")) as log:
        log.append(*events)
    assert verify.verify(tmp_path / "log").size == 2
    [snapshot] = take_all([tmp_path / "log"])
    assert [entry.fields["detail"] for entry in snapshot.entries()] == [event.detail for event in events]
