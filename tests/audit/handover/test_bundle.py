from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from audit import bundle, verify
from audit.cli import app
from audit.errors import VerificationError
from audit.note import sign_note
from audit.query import SelectionError
from audit.report import evidence
from audit.snapshot import take_all
from audit.verify import VerificationFailure, verify_bundle

from .conftest import RUN, Party, countersigned, key_of

run = CliRunner().invoke


@pytest.fixture
def archive(directories: list[str], tmp_path: Path) -> Path:
    bundle.write(take_all(directories), RUN, tmp_path / "bundle.zip", payloads=True)
    return tmp_path / "bundle.zip"


def rewrite(archive: Path, change: dict[str, bytes | None], method: int = zipfile.ZIP_STORED) -> Path:
    """A copy with some files' content replaced, left out (None) or added."""
    out = archive.with_name("changed.zip")
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, "w", method) as target:
        for name in dict.fromkeys([*source.namelist(), *change]):
            data = change[name] if name in change else source.read(name)
            if data is not None:
                target.writestr(name, data)
    return out


def test_a_bundle_holds_every_partys_log_and_the_runs_payloads(archive: Path):
    reports = verify_bundle(archive)
    assert [(item.origin.rpartition("/")[2], item.size, item.payloads, item.witnessed) for item in reports] == [
        ("hub", 10, 0, 10),
        ("north", 13, 3, 13),
        ("south", 10, 3, 10),
    ]
    with zipfile.ZipFile(archive) as opened:
        assert json.loads(opened.read("bundle.json"))["run"] == RUN


def test_the_same_logs_give_the_same_bytes_in_any_order(archive: Path, directories: list[str], tmp_path: Path):
    bundle.write(take_all(directories[::-1]), RUN, tmp_path / "again.zip", payloads=True)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_payloads_stay_behind_unless_asked_for(directories: list[str], tmp_path: Path):
    made = bundle.write(take_all(directories), RUN, tmp_path / "bundle.zip")
    assert (made.payloads, made.about_run, made.entries) == (0, 27, 33)
    reports = verify_bundle(tmp_path / "bundle.zip")
    assert [(item.payloads, item.erased_payloads, item.left_out_payloads) for item in reports] == [
        (0, 0, 0),
        (0, 0, 3),
        (0, 0, 3),
    ]


def test_the_one_file_verifier_checks_it_with_keys_alone(archive: Path, parties: list[Party], tmp_path: Path):
    program = shutil.copy(verify.__file__, tmp_path / "verify.py")
    keys = [word for party in parties for word in ("--key", party.vkey)]
    command = [sys.executable, "-I", program, str(archive)]
    done = subprocess.run([*command, *keys], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.count("signature: by the key that was given") == 3
    done = subprocess.run([*command, *keys[:4]], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (1, "FAILED: no key of heart.example/silo/south was given\n")


def test_an_altered_entry_is_named(archive: Path):
    name = "logs/01/segments/000000000000.jsonl"
    with zipfile.ZipFile(archive) as opened:
        data = opened.read(name)
    with pytest.raises(VerificationFailure, match="entry 3 was altered"):
        verify_bundle(rewrite(archive, {name: data.replace(b'"rows":120', b'"rows":121')}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"../evil": b"x"}, "belongs to no bundle"),
        ({"logs/00/../../evil": b"x"}, "belongs to no bundle"),
        ({"/etc/evil": b"x"}, "belongs to no bundle"),
        ({"logs/00/lock": b"x"}, "belongs to no bundle"),
        ({"logs/00/segments/000000000009.jsonl": b""}, "incomplete"),
        ({"logs/00/payloads/000000000000.json": b"{}"}, "not covered by the signature|not what the entry commits"),
        ({"logs/01/checkpoint": None}, "cannot read"),
        ({"logs/01/witnessed/0001": b"heart.example/silo/north\n"}, "not a signed note"),
        ({"logs/01/payloads/000000000005.json": b'{"payload":{},"salt":"00"}\n'}, "payload file of entry 5"),
    ],
)  # fmt: skip
def test_what_belongs_to_no_bundle_is_refused(archive: Path, tmp_path: Path, change: dict, words: str):
    with pytest.raises(VerificationFailure, match=words):
        verify_bundle(rewrite(archive, change))
    assert not list(tmp_path.parent.rglob("evil"))


def test_a_witness_with_a_later_or_another_state_of_a_log_is_heard(
    directories: list[str], parties: list[Party], tmp_path
):
    north, held = parties[1].vkey.partition("+")[0], Path(directories[0], "witness", "north")
    for size, words in ((14, "was cut or rolled back"), (5, "cosigned another history of 5 entries")):
        text = f"{north}\n{size}\n{base64.b64encode(b'x' * 32).decode()}\n"
        held.write_text(countersigned(sign_note(text, north, key_of("north")), parties, "hub"))
        out = tmp_path / f"{size}.zip"
        bundle.write(take_all(directories), RUN, out)
        with pytest.raises(VerificationFailure, match=words):
            verify_bundle(out)
        with pytest.raises(VerificationError, match=r"set back|another history"):
            evidence.collect(take_all(directories), RUN)


def test_two_logs_of_one_party_are_refused(archive: Path):
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.startswith("logs/02/")]
        twice = {name.replace("logs/02", "logs/03"): opened.read(name) for name in names}
    with pytest.raises(VerificationFailure, match="two logs of one party"):
        verify_bundle(rewrite(archive, twice))


def test_nothing_can_unpack_to_more_than_it_is(archive: Path):
    with pytest.raises(VerificationFailure, match="more bytes than it has"):
        verify_bundle(rewrite(archive, {"README.txt": bytes(20_000_000)}, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("README.txt", hashlib.shake_128(b"does not shrink").digest(1000))
    with pytest.raises(VerificationFailure, match="or is packed"):
        verify_bundle(archive)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_to_an_archive_raises_anything_else(archive: Path, data: st.DataObject):
    whole = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of what steers a reader of ZIP files stands at the end.
        at = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 4000, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    damaged = archive.with_name("damaged.zip")
    damaged.write_bytes(bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) // 2, 30, 0]))]))
    with contextlib.suppress(VerificationFailure):
        verify_bundle(damaged)


def test_every_byte_that_a_signature_covers_counts(archive: Path):
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as opened:
        names = [name for name in opened.namelist() if name.startswith("logs/") and "witnessed" not in name]
        contents = {name: opened.read(name) for name in names}
    for name, data in contents.items():
        for at in (len(data) // 2,):
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            with pytest.raises(VerificationFailure):
                verify_bundle(rewrite(archive, {name: changed}))


def test_what_cannot_be_meant_is_said(directories: list[str], archive: Path, tmp_path: Path):
    with pytest.raises(SelectionError, match="exists already"):
        bundle.write(take_all(directories), RUN, archive)
    with pytest.raises(SelectionError, match="none of the logs has an entry of run no-such"):
        bundle.write(take_all(directories), "no-such", tmp_path / "none.zip")
    with pytest.raises(VerificationError, match="two logs of"):
        take_all([directories[0], directories[0]])
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".zip"] == ["bundle.zip"]


def test_the_commands_make_and_check_it(directories: list[str], parties: list[Party], tmp_path: Path):
    out, keys = str(tmp_path / "b.zip"), [word for party in parties for word in ("--key", party.vkey)]
    result = run(app, ["bundle", *directories, "--run", RUN, "--out", out, *keys])
    assert (result.exit_code, "3 logs, 33 entries, 27 of them about the run, 0 payloads" in result.stdout) == (0, True)
    result = run(app, ["verify", out, "--json", *keys])
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3)
