"""No option of a verifying command is without effect: it changes the outcome, or it is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import trustme
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from audit import bundle, verify
from audit.check import check
from audit.cli import app
from audit.entry import Event
from audit.errors import VerificationError
from audit.keys import vkey_of
from audit.log import AuditLog, utc_now
from audit.snapshot import take_all
from audit.witness import Witness

ORIGIN, PEER = "hospital-a.heart/concordat/audit", "hospital-b.heart/concordat/audit"
KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode()[:32].ljust(32, b"k")) for name in (ORIGIN, PEER)}
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
invoke = CliRunner().invoke


@dataclass(frozen=True)
class Place:
    """Two histories of one log, the log of a peer, hand-overs of the forged one, and what an honest witness holds."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name.replace("_", "."))

    @property
    def vkey(self) -> str:
        return vkey_of(ORIGIN, KEYS[ORIGIN].public_key())

    @property
    def peer_vkey(self) -> str:
        return vkey_of(PEER, KEYS[PEER].public_key())


def write(folder: Path, origin: str, *resources: str) -> AuditLog:
    with AuditLog.open(folder, origin=origin, key=KEYS[origin]) as log:
        for resource in resources:
            log.append(Event("gate", "round.egress", resource, run="run-1"))
    return log


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("options"))
    honest = write(made.folder / "honest", ORIGIN, "x", "y", "z")
    write(made.folder / "forged", ORIGIN, "x", "FORGED", "z")
    write(made.folder / "peer", PEER, "p")
    witness = Witness(made.folder / "witness", "fed/w", OTHER, utc_now)
    witness.cosign(honest.statement(), honest.verifier)
    (copy,) = (made.folder / "witness").iterdir()
    shutil.copy(copy, made.folder / "copy")
    for name in ("honest", "forged"):
        bundle.write(take_all([made.folder / name, made.folder / "peer"]), "run-1", made.folder / f"{name}.zip")
        run = ["--run", "run-1", "--out"]
        assert (
            invoke(app, ["report", made.folder.joinpath(name).as_posix(), *run, f"{made.folder / name}.html"]).exit_code
            == 0
        )
        exported = ["export", str(made.folder / name), "--format", "jsonl", "--out", f"{made.folder / name}.export"]
        assert invoke(app, exported).exit_code == 0
    assert invoke(app, ["prove", made.honest, "1", "--out", made.proof]).exit_code == 0
    trustme.CA().cert_pem.write_to_path(made.ca)
    return made


def by_hand(*words: str) -> tuple[int, str]:
    """The lone file, as a program, within this process for the sake of speed."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["verify.py", *words]
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(verify.__file__, run_name="__main__")
    except SystemExit as end:
        return (end.code, said.getvalue()) if isinstance(end.code, int) else (1, said.getvalue() + str(end.code))
    finally:
        sys.argv = before
    return 0, said.getvalue()


def by_command(*words: str) -> tuple[int, str]:
    """`concordat audit verify`."""
    result = invoke(app, ["verify", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


VERIFIERS = pytest.mark.parametrize("verifier", [by_hand, by_command])
Verifier = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_is_empty_or_given_twice_is_refused(name: str) -> None:
    words = [
        f"{param.opts[0]}=x" for param in COMMANDS[name].params if isinstance(param, click.Option) and param.required
    ]
    words += ["7"] * sum(isinstance(param, click.Argument) for param in COMMANDS[name].params)
    for option in COMMANDS[name].params:
        if not isinstance(option, click.Option) or option.is_flag:
            continue
        others = [word for word in words if not word.startswith(f"{option.opts[0]}=")]
        empty = invoke(app, [name, *others, option.opts[0], ""])
        assert (empty.exit_code, f"got an empty {option.opts[0]}" in empty.output) == (2, True), option.opts
        twice = invoke(app, [name, *others, option.opts[0], "1", option.opts[0], "2"])
        if not option.multiple:
            assert (twice.exit_code, f"got {option.opts[0]} 2 times" in twice.output) == (2, True), option.opts


def test_every_command_that_verifies_by_a_key_is_in_the_table_below() -> None:
    with_key = {name for name, command in COMMANDS.items() for param in command.params if "--key" in param.opts}
    assert with_key == {*KEYED, "watch"}
    (witnessing,) = [
        name for name, command in COMMANDS.items() for param in command.params if "--witness" in param.opts
    ]
    assert witnessing == "verify"


# Each with the exit status and words that the right key leads to.
KEYED: dict[str, tuple[Callable[[Place, Path], list[str]], int, str]] = {
    "verify": (lambda place, _: [place.honest], 0, "by the key that was given"),
    "prove": (lambda place, out: [place.honest, "1", "--out", str(out)], 0, "wrote"),
    "verify-proof": (lambda place, _: [place.proof], 0, "verified: entry 1"),
    "diff": (lambda place, _: [place.honest, place.honest], 0, "the same"),
    "query": (lambda place, _: [place.honest], 0, "3 of 3 entries"),
    "export": (lambda place, out: [place.honest, "--format", "csv", "--out", str(out)], 0, "wrote"),
    "report": (lambda place, out: [place.honest, "--run", "run-1", "--out", str(out)], 0, "wrote"),
    "bundle": (lambda place, out: [place.honest, "--run", "run-1", "--out", str(out)], 0, "wrote"),
    "forward": (lambda place, _: [place.honest, "--to", "[::1]:9", "--ca", place.ca, "--once"], 1, "does not answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_a_key_of_another_log_or_no_key_at_all_is_refused_by_every_command(
    place: Place, tmp_path: Path, name: str
) -> None:
    words, status, said = KEYED[name]
    right = invoke(app, [name, *words(place, tmp_path / "right"), "--key", place.vkey])
    assert (right.exit_code, said in right.output) == (status, True), right.output
    (tmp_path / "empty").touch()
    (tmp_path / "two").write_text(f"{place.vkey}\n{place.peer_vkey}\n")
    impostor = vkey_of(ORIGIN, OTHER.public_key())
    wrong = [place.peer_vkey, impostor, place.vkey[:-1], place.ca, str(tmp_path), str(tmp_path / "none")]
    for key in [*wrong, str(tmp_path / "empty"), str(tmp_path / "two")]:
        result = invoke(app, [name, *words(place, tmp_path / "out"), "--key", key])
        assert result.exit_code in {1, 2}, (key, result.output)
        assert isinstance(result.exception, SystemExit)
        assert said not in result.output
        assert not (tmp_path / "out").exists()


def test_watch_follows_nothing_by_a_wrong_key(place: Place) -> None:
    command = [sys.executable, "-m", "federation", "audit", "watch", place.honest, "--key"]
    wrong = subprocess.run([*command, place.peer_vkey], capture_output=True, text=True, check=False, timeout=60)
    assert (wrong.returncode, "no key of" in wrong.stderr) == (1, True)
    with subprocess.Popen([*command, place.vkey], stderr=subprocess.PIPE, text=True) as right:
        assert right.stderr is not None
        assert "3 entries" in right.stderr.readline()
        right.terminate()


def test_an_entry_given_beside_a_proof_is_the_one_that_is_checked(place: Place, tmp_path: Path) -> None:
    lines = Path(place.honest, "segments/000000000000.jsonl").read_bytes().splitlines()
    for number, status in ((1, 0), (0, 1), (2, 1)):
        (tmp_path / "entry").write_bytes(lines[number])
        words = ["verify-proof", place.proof, "--key", place.vkey, "--entry", str(tmp_path / "entry")]
        assert invoke(app, words).exit_code == status
    for wrong in (tmp_path / "none", tmp_path):
        words = ["verify-proof", place.proof, "--key", place.vkey, "--entry", str(wrong)]
        assert invoke(app, words).exit_code == 1


@VERIFIERS
@pytest.mark.parametrize("what", ["honest", "honest.zip"])
def test_a_copy_that_agrees_is_compared_and_told(place: Place, verifier: Verifier, what: str) -> None:
    keys = ["--key", place.vkey] + (["--key", place.peer_vkey] if what.endswith("zip") else [])
    for copies in (["witness"], ["copy"], ["witness", "witness", "copy"]):
        words = [str(place.folder / what), *keys]
        for copy in copies:
            words += ["--witness", str(place.folder / copy)]
        status, said = verifier(*words)
        assert (status, said.count("their copies agree, the latest has 3 entries")) == (0, 1), said
        assert said.count("NONE of the copies that were given is of this log") == what.count("zip")
        status, told = verifier(*words, "--json")
        assert [json.loads(line)["copies"] for line in told.splitlines()] == [len(copies), 0][: 1 + what.count("zip")]


@VERIFIERS
@pytest.mark.parametrize("what", ["forged", "forged.zip", "forged.html", "forged.export"])
def test_a_second_history_never_passes_beside_a_copy_of_the_first(place: Place, verifier: Verifier, what: str) -> None:
    for copy in (place.witness, place.copy):
        status, said = verifier(str(place.folder / what), "--witness", copy)
        assert (status, "verified:" in said) == (1, False), said
    if what in {"forged", "forged.zip"}:
        assert "another history of 3 entries" in said


def hostile(place: Place, folder: Path) -> list[str]:
    """Places that hold no copy of the log, or one that is none."""
    (folder / "empty").mkdir()
    (folder / "peers").mkdir()
    shutil.copy(Path(place.peer, "checkpoint"), folder / "peers" / "peer")
    (folder / "damaged").write_bytes(Path(place.copy).read_bytes().replace(b"\n3\n", b"\n2\n"))
    (folder / "short").write_bytes(Path(place.copy).read_bytes()[:-20])
    (folder / "huge").write_bytes(Path(place.copy).read_bytes() + b"x" * verify.MAX_NOTE)
    (folder / "text").write_text("a witness's copy\n")
    (folder / "link").symlink_to(place.copy)
    os.mkfifo(folder / "pipe")
    (folder / "nested" / "inner").mkdir(parents=True)
    names = ["empty", "peers", "damaged", "short", "huge", "text", "link", "pipe", "nested", "not-there"]
    return [*(str(folder / name) for name in names), "", place.honest_zip, place.honest_html, place.peer, "/dev/zero"]


@VERIFIERS
@pytest.mark.parametrize("what", ["honest", "honest.zip", "honest.html", "honest.export"])
def test_a_path_without_a_copy_of_the_log_is_refused_also_beside_a_good_one(
    place: Place, tmp_path: Path, verifier: Verifier, what: str
) -> None:
    for wrong in hostile(place, tmp_path):
        if wrong.endswith("peers") and what.endswith("zip"):
            continue  # the peer's log is in the bundle
        for copies in (["--witness", wrong], ["--witness", place.copy, "--witness", wrong]):
            status, said = verifier(str(place.folder / what), *copies)
            assert (status in {1, 2}, "verified:" in said) == (True, False), (copies, said)


@pytest.mark.parametrize(
    ("verifier", "what"),
    [
        *((by_command, what) for what in ("honest", "honest.zip", "honest.html", "honest.export")),
        *((by_hand, what) for what in ("honest", "honest.zip")),  # verify.py reads logs and bundles
    ],
)
def test_a_key_that_no_log_needs_and_two_keys_of_one_name_are_refused(
    place: Place, verifier: Verifier, what: str
) -> None:
    keys = ["--key", place.vkey] + (["--key", place.peer_vkey] if what.endswith("zip") else [])
    assert verifier(str(place.folder / what), *keys)[0] == 0
    assert verifier(str(place.folder / what), *keys, "--key", place.vkey)[0] == 0, "the same again says the same"
    for surplus in (vkey_of("nobody/log", OTHER.public_key()), vkey_of(ORIGIN, OTHER.public_key()), "", "no key"):
        for words in ([*keys, "--key", surplus], ["--key", surplus, *keys]):
            status, said = verifier(str(place.folder / what), *words)
            assert (status in {1, 2}, "verified:" in said) == (True, False), (surplus, said)


def test_one_path_of_several_may_be_the_one_that_a_key_and_a_copy_are_for(place: Place) -> None:
    keys = ["--key", place.vkey, "--key", place.peer_vkey]
    status, said = by_command(place.peer, place.honest, *keys, "--witness", place.witness)
    assert (status, said.count("verified:"), said.count("their copies agree")) == (0, 2, 1)
    status, said = by_command(place.peer, *keys)
    assert (status, said.count("verified:")) == (1, 0)
    status, said = by_command(place.peer, place.forged, "--witness", place.witness)
    assert (status, said.count("verified:"), "another history" in said) == (1, 1, True)


def test_a_path_that_cannot_be_followed_or_read_is_a_sentence(place: Place, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (str(loop), "x" * 300, f"{place.honest}/checkpoint/x"):
        found = invoke(app, ["verify", path, place.honest])
        assert (found.exit_code, type(found.exception)) == (1, SystemExit), path[:20]
        assert f"FAILED {path}: cannot read" in found.output
        assert "verified: " in found.output  # what else was given is told all the same
        code, said = by_hand(path)
        assert code == 1
        assert "FAILED: cannot read" in said


def test_a_directory_of_somebody_else_s_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "closed" / "log").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(65534)  # root may read everything
        for path in (tmp_path / "closed", tmp_path / "closed" / "log"):
            for check_at in (
                lambda path: verify.verify_all(path, verify.Given()),
                lambda path: check(path, verify.Given()),
            ):
                with pytest.raises((verify.VerificationFailure, VerificationError), match=r"cannot read .*: Perm"):
                    check_at(path)
    finally:
        os.seteuid(before)
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_argument_is_not_the_directory_in_which_the_command_runs(
    name: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.honest)
    for argument in COMMANDS[name].params:
        if isinstance(argument, click.Argument):
            words = ["" if one is argument else "1" for one in COMMANDS[name].params if isinstance(one, click.Argument)]
            found = invoke(app, [name, *words])
            assert found.exit_code == 2, found.output
            assert "got an empty " in found.output
    code, said = by_hand("")
    assert code == 1
    assert "FAILED: got an empty path" in said
