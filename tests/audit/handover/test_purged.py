"""A log of which the oldest segments were purged can still be handed over: their hashes stand for their entries."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audit import bundle
from audit.cli import app
from audit.diff import compare
from audit.entry import Event
from audit.erasure import apply, find_due, set_rules
from audit.export import package
from audit.follow import Follower
from audit.log import AuditLog
from audit.query import Selection
from audit.report import evidence, page
from audit.segments import Rotation
from audit.snapshot import Snapshot, take
from audit.verify import verify_bundle

from .conftest import Clock, key_of

ORIGIN = "heart.example/silo/west"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return tmp_path / "before"


@pytest.fixture
def snapshot(tmp_path: Path, before: Path) -> Snapshot:
    """Entries of two months, of which the first ones were purged; a copy from before is kept."""
    clock, place = Clock(), tmp_path / "log"
    rotation = Rotation(max_bytes=1500)
    with AuditLog.open(place, origin=ORIGIN, key=key_of("west"), clock=clock, rotation=rotation) as log:
        for number in range(12):
            log.append(Event("gate", "round.note", "run/x", run="x", round=number))
            clock.now += timedelta(days=40) if number == 6 else timedelta()
        set_rules(log, ["entries=P1D..P30D"], "officer")
        shutil.copytree(place, before)
        apply(log, find_due(log, clock.now), "officer")
    snapshot = take(place)
    first = next(snapshot.entries()).seq
    assert 0 < first < 12
    return snapshot


def test_a_bundle_carries_the_hashes_of_what_was_purged(snapshot: Snapshot, tmp_path: Path):
    bundle.write([snapshot], "x", tmp_path / "b.zip")
    (report,) = verify_bundle(tmp_path / "b.zip")
    assert (report.size, report.purged) == (snapshot.size, next(snapshot.entries()).seq)


def test_a_report_embeds_what_is_left_with_proofs(snapshot: Snapshot):
    (log,) = page.check(page.build(evidence.collect([snapshot], "x")))
    assert (log.complete, log.checkpoint.size) == (False, snapshot.size)


def test_an_export_proves_what_is_left(snapshot: Snapshot, tmp_path: Path):
    package.write(snapshot, Selection(), "jsonl", tmp_path / "out")
    assert package.check(tmp_path / "out").entries == len(list(snapshot.entries()))


def test_a_copy_from_before_the_purge_is_consistent(snapshot: Snapshot, before: Path):
    found = compare(take(before), snapshot)
    assert (found.consistent, found.common) == (True, take(before).size)


def test_a_follower_from_the_start_passes_over_what_was_purged(snapshot: Snapshot):
    entries = list(Follower(snapshot.directory, snapshot.vkey).poll())
    assert [entry.seq for entry in entries] == [entry.seq for entry in snapshot.entries()]


def test_a_purged_entry_cannot_be_proved_any_more(snapshot: Snapshot, tmp_path: Path):
    run = CliRunner().invoke
    result = run(app, ["prove", str(snapshot.directory), "0", "--out", str(tmp_path / "p")])
    assert (result.exit_code, "was purged" in result.stderr) == (1, True)
    last = str(snapshot.size - 1)
    assert run(app, ["prove", str(snapshot.directory), last, "--out", str(tmp_path / "p")]).exit_code == 0
    result = run(app, ["verify-proof", str(tmp_path / "p"), "--key", snapshot.vkey])
    assert json.loads(result.stdout)["action"] == "log.purged"
