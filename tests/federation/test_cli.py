"""The command as people meet it: real processes, their exit codes and what they say."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from demo.ports import reserve_port
from federation.cli import GROUPS
from federation.errors import Exit
from federation.home import Home
from federation.identity import Role
from federation.processes import Child, command_line

HEAVY = ("tensorflow", "keras", "flwr", "pydantic", "pandas", "pyarrow", "numpy", "cryptography", "httpx", "uvicorn")
PATIENCE = 60.0


def concordat(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(*map(str, arguments)), capture_output=True, text=True, check=False, cwd=cwd, timeout=PATIENCE
    )


# -- help


def test_help_lists_every_group_and_every_exit_code():
    done = concordat("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, (_, text) in GROUPS.items():
        assert re.search(rf"^  {name} +{re.escape(text[:20])}", done.stdout, re.MULTILINE)
    words = " ".join(done.stdout.split())
    for code in (code for code in Exit if code not in {Exit.OK, Exit.FAILED}):
        assert f"{int(code)} " in words.partition("Exit codes:")[2]


def test_the_command_and_the_module_are_the_same():
    script = Path(sys.executable).with_name("concordat")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == concordat("--version").stdout
    assert re.fullmatch(r"concordat \d+\.\d+\.\d+\S*\n", done.stdout)


def test_help_of_every_group_loads_nothing_heavy():
    """Seconds of imports before a line of help would teach people not to ask."""
    program = f"""
import sys
from federation.cli import GROUPS, command
shown = []
for arguments in [[], *([name] for name in GROUPS)]:
    try:
        command.main([*arguments, "--help"], standalone_mode=False)
    except SystemExit as end:
        assert end.code == 0
    loaded = sorted(name for name in {HEAVY} if name in sys.modules)
    assert not loaded, (arguments, loaded)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: ") == len(GROUPS) + 1


# -- mistakes


def refused(done: subprocess.CompletedProcess[str], code: Exit, *words: str) -> None:
    """One sentence on standard error, the documented exit code, and never a traceback."""
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("concordat: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["unknown"], "No such command 'unknown'"),
        (["run", "unknown"], "No such command 'unknown'"),
        (["--unknown"], "No such option"),
        (["run", "list"], "Missing option '--home'"),
        (["run", "digest"], "Missing argument"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_said_as_such(arguments: list[str], words: str):
    done = concordat(*arguments)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_arguments_is_a_question_for_help():
    for arguments in ([], ["run"]):
        done = concordat(*arguments)
        assert done.returncode == Exit.USAGE
        assert "Usage: " in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_home_that_is_missing_or_empty_is_named(tmp_path: Path):
    missing = tmp_path / "none"
    for arguments in (
        ["run", "list", "--home", missing],
        ["run", "list", "--home", tmp_path],
        ["coordinator", "serve", "--home", missing],
        ["federation", "show", missing],
    ):
        done = concordat(*arguments)
        refused(done, Exit.USAGE, str(tmp_path))


def test_a_home_of_the_wrong_role_is_refused(federation: Any, tmp_path: Path):
    ops, silo = federation.homes["ops"].path, federation.homes["silo-a"].path
    refused(concordat("run", "list", "--home", silo), Exit.FAILED, "home of the silo silo-a, expected an operator")
    refused(
        concordat("coordinator", "serve", "--home", ops),
        Exit.FAILED,
        "home of the operator ops, expected a coordinator",
    )


def test_what_a_member_asks_for_is_whole_and_shows_its_fingerprint(tmp_path: Path):
    ask = ["federation", "request", "cardio.example", "--name", "hub", "--role", "coordinator", "--country", "DE"]
    done = concordat(*ask, "--home", tmp_path / "hub")
    refused(done, Exit.USAGE, "without an address")
    assert not (tmp_path / "hub").exists(), "a name is given once: nothing is made for what no member could reach"
    done = concordat(*ask, "--home", tmp_path / "hub", "--address", "hub.example:9443")
    assert re.search(r"fingerprint to compare by telephone: ([0-9a-f]{4}-){4}[0-9a-f]{4}\n", done.stdout)


def test_a_home_that_is_wrong_revokes_nobody(tmp_path: Path):
    authority, bundle = tmp_path / "authority", tmp_path / "bundle.json"
    assert concordat("federation", "init", authority, "--name", "cardio.example").returncode == 0
    asked = ["federation", "request", "cardio.example", "--name", "ops", "--role", "operator", "--country", "DE"]
    assert concordat(*asked, "--home", tmp_path / "ops").returncode == 0
    request = tmp_path / "ops" / "request.json"
    unwritable = concordat("federation", "enroll", authority, request, "--out", tmp_path / "none" / "bundle.json")
    refused(unwritable, Exit.USAGE, "is not a directory")
    assert concordat("federation", "enroll", authority, request, "--out", bundle).returncode == 0, "not enrolled before"
    revoke = ["federation", "revoke", authority, "ops", "--reason", "none", "--home", tmp_path / "none"]
    refused(concordat(*revoke), Exit.USAGE, "ca.pem is missing")
    assert "revoked" not in concordat("federation", "show", authority).stdout


def test_paths_that_are_wrong_say_what_was_meant(federation: Any, tmp_path: Path):
    nowhere = tmp_path / "nowhere"
    enrol = concordat("silo", "enroll", "--invitation", nowhere, "--home", tmp_path / "home")
    refused(enrol, Exit.USAGE, "the operator handed over")
    revoke = concordat("federation", "revoke", nowhere, "silo-a", "--reason", "none")
    refused(revoke, Exit.USAGE, "is not an authority's directory")
    ops = federation.homes["ops"].path
    model = concordat("run", "model", "some-run", "--home", ops, "--out", tmp_path / "model.h5")
    refused(model, Exit.USAGE, "ends in .npz or .keras")


def test_a_coordinator_that_does_not_answer_has_its_own_exit_code(federation: Any, closed_port: int):
    done = concordat("run", "list", "--home", federation.homes["ops"].path)
    refused(done, Exit.UNREACHABLE, f"127.0.0.1:{closed_port} does not answer")
    done = concordat("run", "follow", "some-run", "--home", federation.homes["ops"].path)
    refused(done, Exit.UNREACHABLE, f"127.0.0.1:{closed_port} does not answer")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"kind: Run\nrounds: [1\n", "run.yaml:3:1"),
        (b"apiVersion: concordat/v1\nkind: Run\nkind: Run\n", "run.yaml:3:1"),
        (b"kind: Run\n\xff\n", "run.yaml:2:1"),
        (b"", "run.yaml:1:1"),
        (b"- a\n", "run.yaml:1:1"),
    ],
    ids=["unclosed", "twice", "not-utf-8", "empty", "list"],
)
def test_a_broken_run_is_refused_at_its_place(tmp_path: Path, federation: Any, content: bytes, place: str):
    (tmp_path / "run.yaml").write_bytes(content)
    for arguments in (["digest", "run.yaml"], ["submit", "run.yaml", "--home", federation.homes["ops"].path]):
        done = concordat("run", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (Exit.FAILED, "")
        assert place in done.stderr
        assert "Traceback" not in done.stderr


def test_a_run_without_its_app_is_refused_before_anything_is_sent(tmp_path: Path, federation: Any, run_text: str):
    (tmp_path / "run.yaml").write_text(run_text)
    done = concordat("run", "submit", "run.yaml", "--home", federation.homes["ops"].path, cwd=tmp_path)
    refused(done, Exit.USAGE, "has no pyproject.toml", "set app.path in run.yaml")


def test_a_bundle_that_is_not_there_is_refused_before_anything_is_sent(tmp_path: Path, federation: Any, run_text: str):
    (tmp_path / "run.yaml").write_text(run_text)
    home = federation.homes["ops"].path
    done = concordat("run", "submit", "run.yaml", "--bundle", "absent.fab", "--home", home, cwd=tmp_path)
    refused(done, Exit.USAGE, "absent.fab")


def test_a_tampered_manifest_stops_every_command(federation: Any, copy: Callable[[Home], Home]):
    home = copy(federation.homes["ops"])
    text = home.manifest.read_bytes()
    for changed in (text.replace(b"country: DE", b"country: FR", 1), b"\xff" + text):
        home.manifest.write_bytes(changed)
        for arguments in (["run", "list", "--home", home.path], ["federation", "show", home.path]):
            refused(concordat(*arguments), Exit.FAILED, "manifest")


def test_an_answer_of_no_is_an_exit_code_too(tmp_path: Path):
    """A script that verifies a log must not take a failure for a success."""
    done = concordat("audit", "verify", tmp_path)
    assert done.returncode == Exit.FAILED
    assert "FAILED" in done.stderr
    done = concordat("audit", "verify", tmp_path / "none")
    assert done.returncode == Exit.USAGE


def test_output_into_a_closed_pipe_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command_line("--help"), stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (Exit.FAILED, "")


# -- the steps of enrolment, as their people take them


def test_a_federation_is_founded_and_joined_by_commands_alone(tmp_path: Path):
    def step(*arguments: str | Path) -> str:
        done = concordat(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    step("federation", "init", "authority", "--name", "cardio.example")
    made = step("silo", "enroll", "cardio.example", "--name", "silo-a", "--country", "DE", "--home", "silo-a")
    given = step("federation", "enroll", "authority", "silo-a/request.json", "--out", "bundle.json")
    fingerprints = [re.search(r"telephone: ([0-9a-f-]{24})\n", text) for text in (made, given)]
    assert fingerprints[0] is not None
    assert fingerprints[1] is not None
    assert fingerprints[0][1] == fingerprints[1][1]
    assert "joined cardio.example (manifest version 2)" in step("silo", "join", "bundle.json", "--home", "silo-a")
    assert "silo-a" in step("federation", "show", "silo-a")
    again = concordat("federation", "enroll", "authority", "silo-a/request.json", "--out", "b.json", cwd=tmp_path)
    refused(again, Exit.USAGE, "a member of cardio.example; choose another name")
    second = concordat("federation", "init", "authority", "--name", "cardio.example", cwd=tmp_path)
    refused(second, Exit.USAGE, "already holds a federation")


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--role", "king", Exit.USAGE),
        ("--name", "Hub!", Exit.FAILED),
        ("--country", "Germany", Exit.USAGE),
        ("--address", "hub:\u00b2", Exit.USAGE),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(tmp_path: Path, option: str, value: str, code: Exit):
    options = {"--role": "coordinator", "--name": "hub", "--country": "DE", "--address": "hub:443"} | {option: value}
    arguments = [part for pair in options.items() for part in pair]
    done = concordat("federation", "request", "cardio.example", *arguments, "--home", tmp_path / "hub")
    refused(done, code, value.rstrip("\u00b2"))
    assert not (tmp_path / "hub" / "key.pem").exists()


# -- the coordinator's process


@pytest.mark.federation
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_coordinator_records_its_stop(found: Callable[..., Any], tmp_path: Path, number: signal.Signals):
    founded = found()
    home = founded.member("hub", Role.COORDINATOR, "127.0.0.1:1")
    listen = f"127.0.0.1:{reserve_port()}"
    command = command_line("coordinator", "serve", "--home", str(home.path), "--listen", listen)
    child = Child("hub", command, tmp_path / "hub.log")
    child.expect("listening on", PATIENCE)
    child.signal(number)
    assert child.wait(PATIENCE) == 0
    assert "Traceback" not in child.output()
    assert verify(home.audit).size == 2
    shown = concordat("audit", "show", home.audit).stdout
    assert re.findall(r"coordinator\.\w+", shown) == ["coordinator.start", "coordinator.stop"]


@pytest.mark.federation
def test_a_port_that_is_taken_is_said_in_a_sentence(found: Callable[..., Any]):
    founded = found()
    home = founded.member("hub", Role.COORDINATOR, "127.0.0.1:1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = concordat("coordinator", "serve", "--home", home.path, "--listen", place)
    refused(done, Exit.USAGE, f"cannot listen on {place}")
