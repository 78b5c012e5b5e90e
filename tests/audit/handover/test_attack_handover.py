"""A hostile hand-over is refused: nothing hangs, leads elsewhere or ends in a traceback."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import bundle, verify
from audit.entry import Event
from audit.errors import VerificationError
from audit.export import package
from audit.log import AuditLog
from audit.query import Selection
from audit.snapshot import take, take_all
from audit.verify import VerificationFailure, verify_bundle

from .conftest import RUN, Party, key_of
from .test_bundle import archive  # noqa: F401  a fixture

ROOT = Path(verify.__file__).parents[1]


def both(*words: str) -> list[subprocess.CompletedProcess[str]]:
    """What both verifiers say, as programs, within half a minute and half a GiB of memory."""
    limit = ["prlimit", f"--as={1 << 30}"]
    commands = ([sys.executable, "-I", verify.__file__], [sys.executable, "-m", "federation", "audit", "verify"])
    done = [
        subprocess.run([*limit, *one, *words], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
        for one in commands
    ]
    assert not any("Traceback" in one.stderr for one in done), done[0].stderr + done[1].stderr
    return done


def refused(*words: str) -> str:
    done = both(*words)
    assert all(one.returncode == 1 and "verified:" not in one.stdout for one in done), [one.stdout for one in done]
    said = done[0].stderr + done[1].stderr
    assert all(c.isprintable() or c == "\n" for c in said), "nothing of it steers the terminal"
    return said


# -- archives


def member(name: str, data: bytes = b"x", mode: int = 0o644, kind: int = 0o100000) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | mode) << 16
    return info, data


NAMES = [
    "../evil",
    "logs/00/../../../evil",
    "/evil",
    "logs//00/checkpoint",
    "logs/00/checkpoint/",
    "logs/00/",
    "C:\\evil",
    "logs\\00\\checkpoint",
    "logs/00/segments/../checkpoint",
    "logs/00000/checkpoint",
    "logs/0/checkpoint",
    "logs/00/checkpoint\n",
    "logs/00/checkpoint\0.txt",
    "logs/\uff10\uff10/checkpoint",
    "logs/00/payloads/1.json",
    "bundle.json/x",
    "\x1b[2J",
    "\u202eevil",
    "e" * 65535,
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_that_belongs_to_no_bundle_is_refused(archive: Path, tmp_path: Path, name: str) -> None:  # noqa: F811
    with zipfile.ZipFile(archive, "a") as changed:
        changed.writestr(*member(name))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(VerificationFailure, match=r"belongs to no bundle|not a sound archive|twice|cannot read"):
        verify_bundle(archive)
    assert set(tmp_path.rglob("*")) == before


def test_a_link_in_an_archive_leads_nowhere(archive: Path) -> None:  # noqa: F811
    secret = archive.parent / "secret"
    secret.write_text("a secret")
    with zipfile.ZipFile(archive, "a") as changed:
        changed.writestr(*member("logs/03/checkpoint", str(secret).encode(), kind=0o120000))
    assert "a secret" not in refused(str(archive))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(archive: Path) -> None:  # noqa: F811
    with zipfile.ZipFile(archive, "a") as changed:
        changed.writestr(*member("logs/00/checkpoint"))
    assert "twice" in refused(str(archive))


def spoil_last(path: Path, at: int, form: str, value: int) -> None:
    """Set a field of the last member in the archive's directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.rindex(b"PK\1\2") + at, value)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (8, "<H", 1),  # encrypted
        (8, "<H", 0x41),  # strongly encrypted
        (8, "<H", 0x20),  # patched
        (6, "<H", 99),  # needs a version that there is not
        (10, "<H", 8),  # says that it is packed
        (20, "<L", 0xFFFFFFFF),  # sizes that lie, or that are said elsewhere (zip64)
        (24, "<L", 0xFFFFFFFF),
        (24, "<L", 0),
        (20, "<L", 10),
        (42, "<L", 0xFFFFFFFF),  # begins beyond the end
        (42, "<L", 7),
        (16, "<L", 0),  # another checksum
    ],
)
def test_a_member_that_lies_of_itself_is_refused(archive: Path, at: int, form: str, value: int) -> None:  # noqa: F811
    spoil_last(archive, at, form, value)
    with pytest.raises(VerificationFailure):
        verify_bundle(archive)


def test_a_directory_of_millions_of_members_is_not_read(archive: Path) -> None:  # noqa: F811
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    many = 400_000
    for zip64 in (False, True):
        with archive.open("wb") as out:
            out.write(b"PK\3\4" + entry * many)
            size, start = len(entry) * many, 4
            if zip64:
                out.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, many, many, size, start))
                out.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1))
            counted = (0xFFFF, 0xFFFF, 0, start) if zip64 else (many & 0xFFFF, many & 0xFFFF, size, start)
            out.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *counted, 0))
        assert "has a directory of" in refused(str(archive))


def test_a_bundle_holds_more_than_ninety_nine_logs(tmp_path: Path) -> None:
    folders = [tmp_path / f"log{number:03d}" for number in range(101)]
    for number, folder in enumerate(folders):
        with AuditLog.open(folder, origin=f"many.example/silo/s{number}", key=key_of(str(number))) as log:
            log.append(Event("gate", "round.egress", "heart", run=RUN))
    bundle.write(take_all(folders), RUN, tmp_path / "b.zip")
    assert len(verify_bundle(tmp_path / "b.zip")) == 101


# -- directories


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return make


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk


SPOILT = pytest.mark.parametrize(
    "spoil", [fifo, link("/dev/zero"), link("/etc/passwd"), huge], ids=["fifo", "zero", "link", "huge"]
)
OF_A_LOG = ["checkpoint", "log.vkey", "segments/000000000000.jsonl", "segments/000000000000.hashes"]
OF_AN_EXPORT = ["entries.jsonl", "proofs.jsonl", "checkpoint", "log.vkey", "manifest.json", "events.cef"]


@SPOILT
@pytest.mark.parametrize("name", OF_A_LOG)
def test_a_file_of_a_log_that_is_none_is_refused_at_once(parties: list[Party], name: str, spoil) -> None:
    spoil(parties[0].directory / name)
    with pytest.raises(VerificationFailure):
        verify.verify(parties[0].directory)
    with pytest.raises(VerificationError):
        take(parties[0].directory)


@SPOILT
@pytest.mark.parametrize("name", OF_AN_EXPORT)
def test_a_file_of_an_export_that_is_none_is_refused_at_once(
    parties: list[Party], tmp_path: Path, name: str, spoil
) -> None:
    package.write(take(parties[0].directory), Selection(), "cef", tmp_path / "out")
    spoil(tmp_path / "out" / name)
    with pytest.raises(VerificationError):
        package.check(tmp_path / "out")


def test_names_in_a_hostile_directory_steer_no_terminal(parties: list[Party]) -> None:
    for name in (b"\x1b[2J\x07", b"\xff\xfe", "\u202e".encode(), b"a\nverified: x"):
        Path(os.fsdecode(os.fsencode(parties[0].directory / "segments") + b"/" + name)).touch()
    refused(str(parties[0].directory))


def test_a_copy_of_a_log_may_lack_its_empty_directory(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "log", origin="x.example/log", key=key_of("x")) as log:
        log.append(Event("gate", "round.egress", "heart", run=RUN))
    (tmp_path / "log" / "payloads").rmdir()
    assert all(one.returncode == 0 for one in both(str(tmp_path / "log")))
    bundle.write(take_all([tmp_path / "log"]), RUN, tmp_path / "b.zip")
    assert all(one.returncode == 0 for one in both(str(tmp_path / "b.zip")))
