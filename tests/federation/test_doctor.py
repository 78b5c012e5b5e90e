"""What is found wrong with a member's home, and what is said to be done about it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.doctor import checks
from federation.doctor.findings import Finding, State, as_json, examine, failure, is_well, ok, warning
from federation.errors import UsageError
from federation.home import Home


def states(found: object) -> list[tuple[str, State]]:
    return [(one.check, one.state) for one in found]  # type: ignore[attr-defined]


def test_a_home_in_order_is_well(federation) -> None:
    home = federation.homes["silo-a"]
    every = [checks.check_permissions, checks.check_certificate, checks.check_manifest, checks.check_disk]
    found = list(examine((check.__name__, lambda check=check: check(home)) for check in every))
    assert states(found) == [(name, State.OK) for name in ("permissions", "certificate", "manifest", "disk")]
    assert is_well(found)


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("key.pem", 0o640, "key.pem has mode 0640, expected 0600; run: chmod 600"),
        ("log-key.pem", 0o644, "log-key.pem has mode 0644, expected 0600; run: chmod 600"),
        (".", 0o755, "has mode 0755, expected 0700; run: chmod 700"),
    ],
)
def test_what_others_can_read_is_a_failure(federation, copy: Callable[[Home], Home], name: str, mode: int, said: str):
    home = copy(federation.homes["silo-a"])
    (home.path / name).chmod(mode)
    found = list(examine([("permissions", lambda: checks.check_permissions(home))]))
    assert [said in str(one) for one in found] == [True]
    assert not is_well(found)


def test_a_key_that_is_not_the_certificates_is_a_failure(federation, copy: Callable[[Home], Home]) -> None:
    home = copy(federation.homes["silo-a"])
    shutil.copy(federation.homes["silo-b"].key, home.key)
    (found,) = examine([("certificate", lambda: checks.check_certificate(home))])
    assert (found.state, "does not belong to the certificate" in found.detail) == (State.FAILURE, True)
    assert found.remedy == "join again with the bundle issued for this key"


@pytest.mark.parametrize(("days", "state"), [(-1.0, State.FAILURE), (3.0, State.WARNING), (20.0, State.OK)])
def test_a_certificate_that_ends_is_told_in_time(
    federation, monkeypatch: pytest.MonkeyPatch, days: float, state: State
) -> None:
    monkeypatch.setattr(checks, "certificate_days_left", lambda home: days)
    assert states(checks.check_certificate(federation.homes["silo-a"])) == [("certificate", state)]


def test_a_manifest_that_was_changed_is_a_failure(federation, copy: Callable[[Home], Home]) -> None:
    home = copy(federation.homes["silo-a"])
    home.manifest.write_text(home.manifest.read_text().replace("DE", "FR"))
    (found,) = examine([("manifest", lambda: checks.check_manifest(home))])
    assert found.state is State.FAILURE
    assert "take the manifest from the operator, unchanged" in found.remedy


@pytest.mark.parametrize(("free", "state"), [(1 << 20, State.FAILURE), (1 << 30, State.WARNING), (1 << 40, State.OK)])
def test_a_disk_that_fills_is_told_in_time(
    federation, monkeypatch: pytest.MonkeyPatch, free: int, state: State
) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert states(checks.check_disk(federation.homes["silo-a"])) == [("disk", state)]


def test_names_are_looked_up() -> None:
    assert states(checks.check_name("localhost:9443")) == [("name service", State.OK)]
    assert states(checks.check_name("nowhere.invalid:9443")) == [("name service", State.FAILURE)]


@pytest.mark.parametrize(
    ("apart", "state"), [(0, State.OK), (-4, State.OK), (30, State.WARNING), (-3600, State.FAILURE)]
)
def test_a_clock_that_is_wrong_is_found_by_a_peers(apart: int, state: State) -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    theirs = format_datetime(now + timedelta(seconds=apart), usegmt=True)
    assert states(checks.check_clock(theirs, now)) == [("clock", state)]


def test_a_peer_that_does_not_tell_the_time_leaves_a_warning() -> None:
    assert states(checks.check_clock("", datetime.now(UTC))) == [("clock", State.WARNING)]


def test_a_coordinator_that_does_not_answer_is_a_failure_with_a_remedy(federation, closed_port: int) -> None:
    (found,) = checks.check_coordinator(federation.homes["silo-a"], f"127.0.0.1:{closed_port}", {})
    assert found.state is State.FAILURE
    assert "does not answer" in found.detail
    assert "firewall or NetworkPolicy" in found.remedy


def test_a_check_that_cannot_be_made_does_not_keep_the_others_from_being_made(tmp_path: Path) -> None:
    def broken() -> list[Finding]:
        raise UsageError("x is missing", advice="make x")

    def unreadable() -> list[Finding]:
        raise PermissionError(13, os.strerror(13), str(tmp_path))

    found = list(examine([("one", broken), ("two", unreadable), ("three", lambda: [ok("three", "fine")])]))
    assert states(found) == [("one", State.FAILURE), ("two", State.FAILURE), ("three", State.OK)]
    assert found[0].remedy == "make x"


def test_findings_are_lines_or_one_object() -> None:
    found = [ok("disk", "much"), warning("clock", "late", "set it")]
    assert str(found[1]) == "warning  clock          late; set it"
    told = json.loads(as_json(found))
    assert told["well"] is True
    assert told["findings"][1] == {"check": "clock", "state": "warning", "detail": "late", "remedy": "set it"}
    assert json.loads(as_json([failure("disk", "none", "make room")]))["well"] is False
