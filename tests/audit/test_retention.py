"""Retention: periods and rules, what is due, and removal that is recorded, breaks no proof and survives a crash."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import Event
from audit.erasure import apply, bound_of, erase, find_due, oldest_overdue, rules_of, set_bound, set_rules
from audit.errors import AuditError, RetentionError
from audit.log import AuditLog
from audit.note import open_checkpoint
from audit.retention import Period, Rule, format_ranges, parse_rules
from audit.segments import Rotation
from audit.snapshot import take
from audit.statement import prove_publication
from audit.verify import VerificationFailure, verify


@pytest.fixture
def opened(tmp_path: Path, key: Ed25519PrivateKey, origin: str, clock) -> Callable[[], AuditLog]:
    rotation = Rotation(max_age=timedelta(days=300))
    return lambda: AuditLog.open(tmp_path / "log", origin=origin, key=key, clock=clock, rotation=rotation)


@pytest.fixture
def log(opened, clock) -> AuditLog:
    """Four years, a segment each, of releases with metrics and admissions with a payload of their own."""
    with opened() as log:
        for year in range(4):
            clock.now = datetime(2022 + year, 1, 1, tzinfo=UTC)
            log.append(Event("gate", "round.egress", "m", payload={"loss": 0.5}))
            log.append(Event("gate", "run.admit", "m", payload={"why": "x"}), Event("gate", "x", "m"))
        clock.now = datetime(2025, 12, 31, tzinfo=UTC)
        yield log


def entries(log: AuditLog) -> list[dict[str, Any]]:
    paths = sorted((log.folder / "segments").glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def payloads_by_year(log: AuditLog) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in entries(log):
        if entry["payload_commitment"] is not None:
            found.setdefault(int(entry["time"][:4]), []).append(entry["seq"])
    return found


# -- periods and rules


@pytest.mark.parametrize(
    ("text", "now", "then"),
    [
        ("P1Y", (2026, 3, 1), (2025, 3, 1)),
        ("P1Y", (2024, 2, 29), (2023, 2, 28)),
        ("P1M", (2026, 3, 31), (2026, 2, 28)),
        ("P1Y1M1D", (2026, 1, 1), (2024, 11, 30)),
        ("P30D", (2026, 1, 15), (2025, 12, 16)),
        ("P2W", (2026, 1, 15), (2026, 1, 1)),
        ("P1DT23H59M60S", (2026, 1, 15), (2026, 1, 13)),
        ("P999Y9999M99999D", (2026, 1, 15), (1, 1, 1)),
    ],
)
def test_a_period_is_that_of_the_calendar(text: str, now: tuple[int, ...], then: tuple[int, ...]) -> None:
    assert Period.parse(text).before(datetime(*now, tzinfo=UTC)) == datetime(*then, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["", "entries", "entries=P1Y", "entries=1Y..", "payload=P1Y..", "payload:=P1Y..", "entries=P2Y..P1Y", "entries=P..",
     "entries=P1YT..", "entries=P1H..", "x=P1Y..P2Y", "payload:A=P1Y.."],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(RetentionError):
        Rule.parse(text)


@given(st.binary(max_size=60) | st.text(alphabet="entriespayload:=.PYMD0123456789*\n", max_size=60).map(str.encode))
def test_only_our_error_escapes_the_parser(data: bytes) -> None:
    with contextlib.suppress(RetentionError):
        parse_rules(data)


@given(st.sets(st.integers(0, 40)))
def test_ranges_name_each_number_once(numbers: set[int]) -> None:
    named = []
    for part in format_ranges(numbers).split(",") if numbers else []:
        low, _, high = part.partition("-")
        named += range(int(low), int(high or low) + 1)
    assert named == sorted(numbers)


# -- erasure of one payload


def test_an_erased_payload_is_gone_recorded_and_breaks_no_proof(log: AuditLog, vkey: str) -> None:
    before = log.publication_of(0)
    erase(log, 0, "operator", "request of 2026-01-01", datetime.now(UTC))
    assert not (log.folder / "payloads/000000000000.json").exists()
    last = entries(log)[-1]
    assert (last["action"], last["reason"], last["detail"]) == (
        "log.erased", "request of 2026-01-01", {"seqs": "0", "payloads": 1},
    )  # fmt: skip
    report = verify(log.folder, vkey)
    assert (report.erased_payloads, report.unrecorded_erasures) == (1, 0)
    after = log.publication_of(0)
    assert after.entry == before.entry
    prove_publication(after, open_checkpoint(after.statement.checkpoint.encode(), log.verifier))


def test_an_erasure_that_nobody_recorded_is_counted(log: AuditLog, vkey: str) -> None:
    (log.folder / "payloads/000000000000.json").unlink()
    report = verify(log.folder, vkey)
    assert (report.erased_payloads, report.unrecorded_erasures) == (1, 1)


@pytest.mark.parametrize(("seq", "message"), [(2, "has no payload"), (99, "expected one of"), (-1, "expected one of")])
def test_what_is_not_there_cannot_be_erased(log: AuditLog, seq: int, message: str) -> None:
    size = log.size
    with pytest.raises(RetentionError, match=message):
        erase(log, seq, "operator", "x", datetime.now(UTC))
    assert log.size == size


def test_a_payload_is_erased_once(log: AuditLog) -> None:
    erase(log, 0, "operator", "x", datetime.now(UTC))
    with pytest.raises(RetentionError, match="not there any more"):
        erase(log, 0, "operator", "x", datetime.now(UTC))


def test_before_the_minimum_an_erasure_has_to_be_meant(log: AuditLog, clock) -> None:
    set_rules(log, ["payload:round.*=P10Y.."], "operator")
    with pytest.raises(RetentionError, match="despite-minimum"):
        erase(log, 0, "operator", "x", clock.now)
    erase(log, 1, "operator", "another class", clock.now)
    erase(log, 0, "operator", "a court's order", clock.now, despite_minimum=True)
    assert entries(log)[-1]["detail"]["despite_minimum"] is True


# -- rules


def test_rules_are_kept_and_recorded(log: AuditLog) -> None:
    texts = ["payload:round.*=P30D..P2Y", "entries=P1Y..P3Y"]
    set_rules(log, texts, "operator")
    assert [rule.text for rule in rules_of(log)] == texts
    assert entries(log)[-1]["detail"] == {"rule.0": texts[0], "rule.1": texts[1]}


def test_what_the_policy_says_is_recorded_where_it_changes(log: AuditLog) -> None:
    size, digest = log.size, "sha256:" + "1" * 64
    assert bound_of(log.folder) is None
    set_bound(log, None, "gate", digest)
    assert log.size == size
    for text in ("payload:*=P1Y..P3Y", "payload:*=P1Y..P3Y", "payload:*=P0D..PT12H", None, None):
        set_bound(log, text, "gate", digest)
        bound = bound_of(log.folder)
        assert (bound.text if bound else None) == text
    said = [entry for entry in entries(log) if entry["action"] == "log.retention"]
    assert {entry["policy"] for entry in said} == {digest}
    texts = ("payload:*=P1Y..P3Y", "payload:*=P0D..PT12H", "nothing")
    assert [entry["detail"] for entry in said] == [{"policy": text} for text in texts]


def test_the_policys_minimum_holds_whatever_the_rules_say(log: AuditLog, clock, opened) -> None:
    """It is 2025-12-31; the log has payloads of each January since 2022."""
    set_rules(log, ["payload:*=P30D..P60D", "entries=P30D..P60D"], "operator")
    assert len(find_due(log, clock.now).payloads) == 8
    set_bound(log, "payload:*=P2Y..", "gate", "sha256:" + "1" * 64)
    due, kept = find_due(log, clock.now), payloads_by_year(log)
    assert list(due.payloads) == kept[2022] + kept[2023]
    assert [segment.start for segment in due.segments] == [0, 3], "payloads go with their segment"
    young, old = kept[2024][0], kept[2023][0]
    with pytest.raises(RetentionError, match="minimum of the policy"):
        erase(log, young, "operator", "x", clock.now)
    erase(log, old, "operator", "x", clock.now)
    erase(log, young, "operator", "a court's order", clock.now, despite_minimum=True)


def test_what_is_past_the_policys_maximum_is_due_without_any_rule(log: AuditLog, clock, vkey: str) -> None:
    assert oldest_overdue(log.folder, clock.now) is None
    set_bound(log, "payload:*=P1Y..P2Y", "gate", "sha256:" + "1" * 64)
    assert f"{oldest_overdue(log.folder, clock.now):%Y-%m-%d}" == "2022-01-01"
    set_rules(log, ["payload:round.*=P10Y.."], "operator")
    due, kept = find_due(log, clock.now), payloads_by_year(log)
    assert list(due.payloads) == kept[2022] + kept[2023]
    apply(log, due, "operator")
    assert oldest_overdue(log.folder, clock.now) is None
    assert f"{oldest_overdue(log.folder, clock.now + timedelta(days=40)):%Y-%m-%d}" == "2024-01-01"
    report = verify(log.folder, vkey)
    assert (report.payloads, report.erased_payloads, report.unrecorded_erasures) == (4, 4, 0)


def test_without_rules_nothing_is_due(log: AuditLog, clock) -> None:
    assert find_due(log, clock.now) == find_due(log, datetime.max.replace(tzinfo=UTC))
    assert find_due(log, clock.now).payloads == ()


def test_payloads_are_due_by_their_class_and_age(log: AuditLog, clock, vkey: str) -> None:
    set_rules(log, ["payload:round.*=P30D..P2Y"], "operator")
    due = find_due(log, clock.now)
    actions = {entry["seq"]: entry for entry in entries(log)}
    assert [(actions[seq]["action"], actions[seq]["time"][:4]) for seq in due.payloads] == [
        ("round.egress", "2022"), ("round.egress", "2023"),
    ]  # fmt: skip
    apply(log, due, "operator")
    assert find_due(log, clock.now).payloads == ()
    report = verify(log.folder, vkey)
    assert (report.payloads, report.erased_payloads, report.unrecorded_erasures) == (6, 2, 0)


def test_segments_are_purged_from_the_oldest_on_and_the_log_still_verifies(
    log: AuditLog, opened, clock, vkey: str
) -> None:
    old = [log.publication_of(seq) for seq in range(log.size)]
    set_rules(log, ["entries=P1Y..P2Y"], "operator")
    due = find_due(log, clock.now)
    assert [segment.start for segment in due.segments] == [0, 3]
    apply(log, due, "operator")
    purged = sum(segment.entries for segment in due.segments)
    assert sorted(path.name for path in (log.folder / "segments").glob("*.jsonl"))[0] == f"{purged:012d}.jsonl"
    report = verify(log.folder, vkey)
    assert (report.size, report.purged, report.unrecorded_erasures) == (log.size, purged, 0)
    with pytest.raises(LookupError, match="purged"):
        log.publication_of(0)
    for publication in old[purged:]:
        now = log.publication_of(publication.index)
        prove_publication(now, open_checkpoint(now.statement.checkpoint.encode(), log.verifier))
    log.close()
    with opened() as again:
        again.append(Event("gate", "after", "m"))
        assert verify(again.folder, vkey).purged == purged
    snapshot = take(again.folder, [vkey])
    assert [entry.seq for entry in snapshot.entries()] == list(range(purged, again.size))
    assert snapshot.root == again.root_at(again.size)


def test_a_log_verifies_also_once_the_record_of_a_purge_is_purged_itself(
    log: AuditLog, opened: Callable[[], AuditLog], clock: Any, vkey: str
) -> None:
    """A log with a maximum for entries ended its owner's process, and verified nowhere, after it was applied twice."""
    set_rules(log, ["entries=P1Y..P2Y"], "operator")
    for year in range(2026, 2034):
        clock.now = datetime(year, 6, 1, tzinfo=UTC)
        log.append(Event("gate", "x", "m"))
        apply(log, find_due(log, clock.now), "operator")
        report = verify(log.folder, vkey)
        assert report.size == log.size
    missing = {int(path.stem) for path in (log.folder / "segments").glob("*.hashes")}
    missing -= {int(path.stem) for path in (log.folder / "segments").glob("*.jsonl")}
    told = {entry["detail"]["first"] for entry in entries(log) if entry["action"] == "log.purged"}
    assert len(missing) > 6
    assert told == missing
    log.close()
    with opened() as again:
        assert verify(again.folder, vkey).size == again.size


def test_entries_that_are_missing_without_a_record_fail(log: AuditLog, opened, vkey: str) -> None:
    (log.folder / "segments/000000000000.jsonl").unlink()
    for seq in (0, 1):
        (log.folder / f"payloads/{seq:012d}.json").unlink()
    with pytest.raises(VerificationFailure, match="no entry records that they were purged") as caught:
        verify(log.folder, vkey)
    assert caught.value.seq == 0
    log.close()
    with pytest.raises(AuditError, match="no entry records"):
        opened()


@pytest.mark.parametrize("allowed", range(8))
def test_a_removal_that_a_crash_cut_short_is_done_again(
    log: AuditLog, clock, vkey: str, monkeypatch, allowed: int
) -> None:
    set_rules(log, ["payload:*=P30D..P2Y", "entries=P1Y..P2Y"], "operator")
    real, calls = Path.unlink, []

    def crash(path: Path, missing_ok: bool = False) -> None:
        if path.suffix != ".tmp":  # what the log itself replaces is no removal
            calls.append(path)
        if len(calls) > allowed:
            raise InterruptedError
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr(Path, "unlink", crash)
        apply(log, find_due(log, clock.now), "operator")
    assert verify(log.folder, vkey).unrecorded_erasures == 0
    apply(log, find_due(log, clock.now), "operator")
    assert verify(log.folder, vkey).purged == 7
    assert find_due(log, clock.now).segments == ()


# -- the commands


def test_the_commands(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from typer.testing import CliRunner

    from audit.cli import app

    home = tmp_path / "home"
    home.mkdir()
    (home / "log-key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (home / "log-key.pem").chmod(0o600)
    (home / "cert.pem").write_bytes(certificate("spiffe://heart.example/silo/a"))
    with AuditLog.open(home / "audit", origin="a/log", key=key) as log:
        log.append(Event("gate", "round.egress", "m", payload={"loss": 0.5}))
        held = CliRunner().invoke(app, ["erase", "0", "--home", str(home), "--reason", "x"])
        assert held.exit_code == 1
        assert "this one takes no requests" in held.output
    for arguments, expected in (
        (["retention", "--rule", "payload:round.*=P1D..P2Y"], "due: 0 payloads"),
        (["retention"], "rule: payload:round.*=P1D..P2Y"),
        (["erase", "0", "--reason", "x"], "despite-minimum"),
        (["erase", "0", "--reason", "x", "--despite-minimum"], "of entry 0 is erased, and that is recorded"),
        (["retention", "--apply"], "removed, and recorded"),
        (["acknowledge-rollback", "--reason", "x"], "nothing to acknowledge"),
    ):
        done = CliRunner().invoke(app, [*arguments, "--home", str(home)])
        assert expected in done.output, done.output
        assert "Traceback" not in done.output
    report = verify(home / "audit")
    assert (report.size, report.erased_payloads, report.unrecorded_erasures) == (3, 1, 0)
    assert json.loads((home / "audit/segments/000000000000.jsonl").read_text().splitlines()[2])["actor"] == (
        "spiffe://heart.example/silo/a"
    )


def certificate(uri: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    return builder.add_extension(san, critical=True).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
