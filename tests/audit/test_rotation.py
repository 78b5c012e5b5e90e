"""Segments: sealed by size and by age, named by hash in the entry that follows, and recovered at any point."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.entry import Event
from audit.log import AuditLog
from audit.merkle import verify_consistency
from audit.note import open_checkpoint, parse_vkey
from audit.segments import Rotation
from audit.statement import prove_publication
from audit.verify import verify

EVENT = Event("gate", "round.egress", "m", payload={"loss": 0.5})
SMALL = Rotation(max_bytes=1500)


@pytest.fixture
def opened(tmp_path: Path, key: Ed25519PrivateKey, origin: str, clock):
    def make(rotation: Rotation = SMALL) -> AuditLog:
        return AuditLog.open(tmp_path, origin=origin, key=key, clock=clock, rotation=rotation)

    return make


def segments(directory: Path) -> list[list[dict[str, object]]]:
    return [
        [json.loads(line) for line in path.read_bytes().splitlines()]
        for path in sorted((directory / "segments").glob("*.jsonl"))
    ]


def check_seals(directory: Path) -> int:
    """Each segment but the first begins with the hash of the file before it; returns the number of segments."""
    paths = sorted((directory / "segments").glob("*.jsonl"))
    for before, entries in zip(paths, segments(directory)[1:], strict=False):
        assert entries[0]["action"] == "log.rotated"
        assert entries[0]["detail"]["sha256"] == hashlib.sha256(before.read_bytes()).hexdigest()
        assert entries[0]["detail"]["first"] == int(before.stem)
    return len(paths)


def test_a_segment_that_is_large_enough_is_sealed(tmp_path: Path, opened, vkey: str) -> None:
    with opened() as log:
        numbers = [log.append(EVENT)[0] for _ in range(20)]
        assert log.size == numbers[-1] + 1
    count = check_seals(tmp_path)
    assert count > 4
    assert log.size == 20 + count - 1
    assert verify(tmp_path, vkey).size == log.size


def test_a_segment_that_is_old_enough_is_sealed(tmp_path: Path, opened, clock, vkey: str) -> None:
    with opened(Rotation(max_age=timedelta(days=1))) as log:
        log.append(EVENT)
        log.append(EVENT)
        clock.now += timedelta(days=2)
        log.append(EVENT)
        log.append(EVENT)
    assert [len(entries) for entries in segments(tmp_path)] == [2, 3]
    assert check_seals(tmp_path) == 2
    assert verify(tmp_path, vkey).size == 5


def test_a_log_of_several_segments_is_opened_and_goes_on(tmp_path: Path, opened, vkey: str) -> None:
    for _ in range(6):
        with opened() as log:
            for _ in range(4):
                log.append(EVENT)
    assert check_seals(tmp_path) > 5
    assert verify(tmp_path, vkey).size == log.size


@pytest.mark.parametrize("left", ["hashes", "both"])
def test_a_segment_that_was_begun_and_no_more_is_taken_over(tmp_path: Path, opened, vkey: str, left: str) -> None:
    with opened(Rotation()) as log:
        for _ in range(3):
            log.append(EVENT)
    for suffix in ("hashes",) if left == "hashes" else ("hashes", "jsonl"):
        (tmp_path / f"segments/000000000003.{suffix}").touch()
    with opened(Rotation()) as log:
        log.append(EVENT)
    if left == "both":
        assert check_seals(tmp_path) == 2
    assert verify(tmp_path, vkey).size == (5 if left == "both" else 4)


def test_an_entry_is_proved_from_whatever_segment_it_is_in(tmp_path: Path, opened, vkey: str) -> None:
    key = parse_vkey(vkey)
    with opened() as log:
        published = [log.publish(Event("hub", "round.begin", "r", round=n, detail={"n": n})) for n in range(12)]
        for n, publication in enumerate(published):
            checkpoint = open_checkpoint(publication.statement.checkpoint.encode(), key)
            assert prove_publication(publication, checkpoint)["detail"] == {"n": n}
            again = log.publication_of(publication.index)
            assert again.entry == publication.entry
            prove_publication(again, open_checkpoint(again.statement.checkpoint.encode(), key))
        new = open_checkpoint(log.checkpoint.encode(), key)
        sizes = [publication.index + 1 for publication in published]
        proofs = log.statement(sizes).proofs
        for size in sizes[:-1]:
            verify_consistency(size, new.size, log.root_at(size), new.root, proofs[size])
        with pytest.raises(LookupError, match="expected one of"):
            log.publication_of(log.size)
