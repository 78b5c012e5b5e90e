from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audit.cli import app
from audit.diff import compare
from audit.entry import Event
from audit.errors import AuditError, VerificationError
from audit.follow import Follower
from audit.log import AuditLog
from audit.query import Matcher, Selection, SelectionError
from audit.snapshot import take

from .conftest import FEDERATION, OTHER, RUN, Party, key_of

run = CliRunner().invoke


def seqs(party: Party, **conditions: str) -> list[int]:
    matches = Matcher(Selection(**conditions))
    return [entry.seq for entry in take(party.directory).entries() if matches(entry.fields)]


def reopen(party: Party) -> AuditLog:
    return AuditLog.open(party.directory, origin=f"{FEDERATION}/{party.role}/{party.name}", key=key_of(party.name))


# -- query


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, list(range(13))),
        ({"run": OTHER}, [12]),
        ({"decision": "deny"}, [11, 12]),
        ({"decision": "deny", "rule": "purposes.*"}, [12]),
        ({"action": "round.*"}, [4, 5, 6, 7, 8, 9]),
        ({"dataset": "heart"}, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ({"dataset": "lung"}, []),
        ({"actor": "*/silo/north"}, list(range(13))),
        ({"actor": "*/silo/south"}, []),
        ({"since": "2026-11-01T08:00:01Z", "until": "2026-11-02"}, [8, 9, 10, 11, 12]),
        ({"since": "2026-11-01T09:00:01+01:00"}, [8, 9, 10, 11, 12]),
        ({"until": "2026-11-01"}, []),
    ],
)  # fmt: skip
def test_a_selection_finds_what_meets_all_its_conditions(parties: list[Party], conditions: dict, expected: list[int]):
    assert seqs(parties[1], **conditions) == expected


@pytest.mark.parametrize("conditions", [{"decision": "maybe"}, {"since": "yesterday"}, {"until": "2026-13-01"}])
def test_a_condition_that_cannot_be_meant_is_refused(conditions: dict):
    with pytest.raises(SelectionError, match="got --"):
        Selection(**conditions)


def test_query_prints_a_table_or_the_entries_as_they_stand(parties: list[Party]):
    directory = str(parties[1].directory)
    result = run(app, ["query", directory, "--decision", "deny", "--key", parties[1].vkey])
    assert (result.exit_code, "2 of 13 entries of heart.example/silo/north" in result.stderr) == (0, True)
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["SEQ", "TIME", "DECISION", "ACTION", "ACTOR", "RUN", "ROUND", "RULE", "REASON"]
    assert [row.split()[0] for row in rows] == ["11", "12"]
    assert {row.index("deny") for row in rows} == {heading.index("DECISION")}
    result = run(app, ["query", directory, "--decision", "deny", "--json"])
    segment = (parties[1].directory / "segments/000000000000.jsonl").read_text().splitlines()
    assert result.stdout.splitlines() == segment[11:]


def test_query_lists_nothing_of_a_log_that_does_not_verify(parties: list[Party]):
    segment = parties[1].directory / "segments/000000000000.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b'"rows":120', b'"rows":121'))
    result = run(app, ["query", str(parties[1].directory)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "entry 3 was altered" in result.stderr


# -- following


def test_a_follower_hands_on_each_entry_once_and_verified(parties: list[Party]):
    follower = Follower(parties[0].directory, parties[0].vkey)
    assert [entry.seq for entry in follower.poll()] == list(range(10))
    assert list(follower.poll()) == []
    with reopen(parties[0]) as log:
        log.append(Event("hub", "run.note", "run/x"), Event("hub", "run.note", "run/x"))
        assert [entry.seq for entry in follower.poll()] == [10, 11]
        log.append(Event("hub", "run.note", "run/x"))
        assert [entry.seq for entry in follower.poll()] == [12]


def test_a_follower_goes_on_from_where_it_was(parties: list[Party]):
    first = Follower(parties[0].directory, parties[0].vkey)
    for _, entry in zip(range(4), first.poll(), strict=False):
        last = entry.seq
    again = Follower(parties[0].directory, parties[0].vkey, first.tree.copy())
    assert next(again.poll()).seq == last + 1


def test_a_follower_notices_a_rollback_and_a_changed_past(parties: list[Party], tmp_path: Path):
    shutil.copytree(parties[0].directory, tmp_path / "old")
    with reopen(parties[0]) as log:
        log.append(Event("hub", "run.note", "run/x"))
    follower = Follower(parties[0].directory, parties[0].vkey)
    assert len(list(follower.poll())) == 11
    back = Follower(tmp_path / "old", parties[0].vkey, follower.tree.copy())
    with pytest.raises(VerificationError, match="it was set back"):
        list(back.poll())
    with AuditLog.open(tmp_path / "old", origin=follower._key[0], key=key_of("hub")) as log:
        log.append(*[Event("hub", "run.other", "run/x")] * 3)
    with pytest.raises(VerificationError, match="does not continue the 11 entries"):
        list(back.poll())


@pytest.mark.federation
def test_watch_follows_a_log_and_ends_with_ctrl_c(parties: list[Party]):
    command = [sys.executable, "-m", "federation", "audit", "watch", str(parties[0].directory), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert "10 entries of heart.example/coordinator/hub verify; following" in process.stderr.readline()
        with reopen(parties[0]) as log:
            log.append(Event("hub", "run.note", "run/x"))
            assert json.loads(process.stdout.readline())["seq"] == 10
            log.append(Event("hub", "run.note", "run/x"))
            assert json.loads(process.stdout.readline())["seq"] == 11
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert (process.wait(30), "Traceback" in rest) == (130, False)


# -- proofs


def test_an_entry_is_proved_without_the_log(parties: list[Party], tmp_path: Path):
    out = str(tmp_path / "p.tlog-proof")
    for seq in (0, 7, 12):
        result = run(app, ["prove", str(parties[1].directory), str(seq), "--out", out, "--key", parties[1].vkey])
        assert result.exit_code == 0
        assert Path(out).read_text().startswith("c2sp.org/tlog-proof@v1\nextra ")
        result = run(app, ["verify-proof", out, "--key", parties[1].vkey])
        assert (result.exit_code, json.loads(result.stdout)["seq"]) == (0, seq)
        assert f"verified: entry {seq} of heart.example/silo/north" in result.stderr


def test_a_proof_of_something_else_is_refused(parties: list[Party], tmp_path: Path):
    out, other = tmp_path / "p.tlog-proof", parties[2].vkey
    run(app, ["prove", str(parties[1].directory), "7", "--out", str(out)])
    assert run(app, ["verify-proof", str(out), "--key", other]).exit_code == 1
    text = out.read_text()
    for changed in (text.replace("index 7", "index 6"), text.replace("\n13\n", "\n12\n"), text[:200], ""):
        out.write_text(changed)
        result = run(app, ["verify-proof", str(out), "--key", parties[1].vkey])
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    result = run(app, ["prove", str(parties[1].directory), "13", "--out", str(out)])
    assert (result.exit_code, "expected one of 0..12" in result.stderr) == (2, True)


# -- comparing


def test_a_copy_that_grew_is_consistent(parties: list[Party], tmp_path: Path):
    old = shutil.copytree(parties[0].directory, tmp_path / "old")
    with reopen(parties[0]) as log:
        log.append(Event("hub", "run.note", "run/x"))
    found = compare(take(old), take(parties[0].directory))
    assert (found.consistent, found.common, found.sizes) == (True, 10, (10, 11))
    assert "continues the other after 10" in run(app, ["diff", str(parties[0].directory), str(old)]).stdout
    assert "the same: every entry" in run(app, ["diff", str(old), str(old)]).stdout


def test_two_histories_are_shown_where_they_part(parties: list[Party], tmp_path: Path):
    fork = shutil.copytree(parties[0].directory, tmp_path / "fork")
    for directory, action in ((parties[0].directory, "run.one"), (fork, "run.two")):
        with AuditLog.open(directory, origin=f"{FEDERATION}/coordinator/hub", key=key_of("hub")) as log:
            log.append(Event("hub", action, "run/x"), Event("hub", "run.same", "run/x"))
    result = run(app, ["diff", str(parties[0].directory), str(fork), "--key", parties[0].vkey])
    assert result.exit_code == 1
    assert "TWO HISTORIES: they differ from entry 10 on" in result.stdout
    assert "run.one" in result.stdout
    assert "run.two" in result.stdout


def test_logs_of_two_parties_are_not_compared(parties: list[Party]):
    with pytest.raises(AuditError, match="expected two copies of one log"):
        compare(take(parties[0].directory), take(parties[1].directory))


# -- snapshots


def test_a_snapshot_leaves_out_what_came_later_and_notices_a_change(parties: list[Party]):
    snapshot = take(parties[0].directory)
    with reopen(parties[0]) as log:
        log.append(Event("hub", "run.note", "run/x", run=RUN))
    assert len(list(snapshot.entries())) == 10
    segment = parties[0].directory / "segments/000000000000.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b'"examples":160', b'"examples":161'))
    with pytest.raises(VerificationError, match="changed while it was read"):
        list(snapshot.entries())
