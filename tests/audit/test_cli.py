from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from audit.cli import app
from audit.entry import Event
from audit.keys import vkey_of

SEGMENT = "segments/000000000000.jsonl"
OTHER_KEY = vkey_of("hospital-b.heart/concordat/audit", Ed25519PrivateKey.generate().public_key())
run = CliRunner().invoke


@pytest.fixture
def log_dir(tmp_path: Path, build, open_log) -> str:
    build(tmp_path, 3)
    with open_log(tmp_path) as log:
        log.append(
            Event(
                "CN=silo-a",
                "run.admit",
                "run\x1b[2J-7",
                decision="deny",
                rule="purpose.allow",
                reason="two\nlines",
                run="run-7",
            )
        )
    return str(tmp_path)


def test_verify_reports_and_exits_with_the_verdict(log_dir: str, vkey: str, tmp_path: Path):
    result = run(app, ["verify", log_dir, "--key", vkey])
    assert result.exit_code == 0
    assert "4 entries" in result.stdout
    assert "by the key that was given" in result.stdout
    (tmp_path / "trusted.vkey").write_text(vkey + "\n")
    result = run(app, ["verify", log_dir, "--key", str(tmp_path / "trusted.vkey"), "--json"])
    assert (result.exit_code, json.loads(result.stdout)["key_source"]) == (0, "given")
    path = tmp_path / SEGMENT
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":7'))
    result = run(app, ["verify", log_dir])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "entry 1 was altered" in result.stderr
    result = run(app, ["verify", log_dir, "--json"])
    assert (result.exit_code, json.loads(result.stdout)["seq"]) == (1, 1)


def test_several_logs_are_verified_in_turn(tmp_path: Path, build, vkey: str):
    good, bad = build(tmp_path / "good", 2), build(tmp_path / "bad", 2)
    (bad / "checkpoint").write_bytes(b"")
    result = run(app, ["verify", str(bad), str(good)])
    assert result.exit_code == 1
    assert "2 entries" in result.stdout
    assert f"FAILED {bad}" in result.stderr
    result = run(app, ["verify", str(good), str(bad), "--key", vkey])
    assert (result.exit_code, "by the key that was given" in result.stdout) == (1, True)


def test_a_key_of_another_log_is_no_key_of_this_one(log_dir: str, vkey: str):
    result = run(app, ["verify", log_dir, "--key", OTHER_KEY])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no key of hospital-a.heart/concordat/audit was given" in result.stderr


def test_show_lists_and_filters(log_dir: str):
    result = run(app, ["show", log_dir])
    lines = result.stdout.splitlines()
    assert (result.exit_code, len(lines)) == (0, 4)
    assert "deny" in lines[3]
    assert "run=run-7" in lines[3]
    assert "rule=purpose.allow" in lines[3]
    assert "run\\x1b[2J-7" in lines[3]
    assert "- two\\nlines" in lines[3]
    assert len(run(app, ["show", log_dir, "--action", "round.*"]).stdout.splitlines()) == 3
    assert len(run(app, ["show", log_dir, "--decision", "deny"]).stdout.splitlines()) == 1
    shown = run(app, ["show", log_dir, "--run", "run-7", "--json"]).stdout
    assert shown.encode() == (Path(log_dir) / SEGMENT).read_bytes().splitlines(keepends=True)[3]


def test_key_prints_the_verifier_key(log_dir: str, vkey: str):
    assert run(app, ["key", log_dir]).stdout == vkey + "\n"


def test_errors_are_one_sentence(log_dir: str, tmp_path: Path):
    for arguments, status, words in (
        (["verify", "/absent"], 2, "is not there"),
        (["show", "/absent"], 2, "is not a directory"),
        (["key", str(tmp_path / "segments")], 2, "log.vkey"),
        (["verify", log_dir, "--key", "nonsense"], 2, "expected a verifier key"),
        (["show", log_dir, "--decision", "maybe"], 2, "expected allow, deny or record"),
    ):
        result = run(app, arguments)
        assert (result.exit_code, result.stdout) == (status, "")
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
    (tmp_path / SEGMENT).write_bytes((tmp_path / SEGMENT).read_bytes() + b"torn")
    result = run(app, ["show", log_dir])
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 4)
    assert "entry 4 is cut short" in result.stderr


@pytest.mark.parametrize("command", [["verify"], ["prove", "0"], ["report", "--run", "run-7"]])
def test_a_home_in_place_of_its_log_is_told(tmp_path: Path, build, command: list[str]):
    log = build(tmp_path / "home" / "audit", 2)
    name, *rest = command
    result = run(app, [name, str(tmp_path / "home"), *rest])
    assert result.exit_code == 1
    assert str(log) in result.stderr


def test_help_teaches():
    for arguments, words in (
        (["--help"], "offline"),
        (["verify", "--help"], "consistent"),
        (["show", "--help"], "Listing does not verify"),
        (["key", "--help"], "channel that they trust"),
    ):
        result = run(app, arguments)
        assert (result.exit_code, words in result.output) == (0, True)


def test_importing_it_loads_nothing_heavy():
    code = "import sys, audit.cli; print(*[m for m in ('cryptography', 'rfc8785') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "\n"
