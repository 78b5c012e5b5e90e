"""Homes whose files were swapped for links, pipes or files of others: nothing waits, and nothing is written through."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit import keys as log_keys
from audit.errors import AuditKeyError
from audit.forward import ForwardError, Target
from audit.store import replace_file as replace_log_file
from federation.errors import ConcordatError, IdentityError
from federation.home import Home, read_limited, replace_file
from federation.identity import load_private_key, new_key, save_private_key
from federation.tls import load_identity
from policies.errors import DocumentError
from policies.model import load_policy
from silo.gate.policy_file import PolicyFile
from silo.worker.data.keyed import keyed
from silo.worker.data.sources.sql import credentials
from silo.worker.errors import DataError

POLICY = (Path(__file__).parents[1] / "smallest_policy.yaml").read_text()


def pseudonyms(path: Path) -> None:
    with keyed(path):
        pass


def presented(path: Path) -> None:
    load_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), path, path)


def collector(path: Path) -> None:
    try:
        Target.parse("logs.example:6514", str(path))
    except OSError as error:
        raise ForwardError(str(error)) from None  # as the command tells it


READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "a limited file": (lambda path: read_limited(path, 100), ConcordatError),
    "a key": (load_private_key, IdentityError),
    "a log's key": (log_keys.load_key, AuditKeyError),
    "a document": (load_policy, DocumentError),
    "the active policy": (lambda path: PolicyFile(path).first(), DocumentError),
    "a certificate of TLS": (presented, IdentityError),
    "certificates of a log's collector": (collector, ForwardError),
    "a key for pseudonyms": (pseudonyms, DataError),
    "credentials of a database": (credentials, DataError),
}


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """The loosest that a service manager could leave."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "directory", "terminal", "link to itself", "nothing"])
def test_what_is_no_file_is_refused_at_once(reader: str, kind: str, tmp_path: Path) -> None:
    """A pipe into which nobody writes would stop a gate that reads its policy, for ever and with its lock held."""
    path = tmp_path / "content"
    match kind:
        case "pipe":
            os.mkfifo(path, 0o600)
        case "link to a pipe":
            os.mkfifo(tmp_path / "pipe", 0o600)
            path.symlink_to(tmp_path / "pipe")
        case "directory":
            path.mkdir()
        case "terminal":
            path.symlink_to("/dev/null")
        case "link to itself":
            path.symlink_to(path)
    read, error = READERS[reader]
    with pytest.raises(error, match=r"content|cannot be read"):
        read(path)


def test_a_policy_that_becomes_a_pipe_is_refused_and_the_gate_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    file = PolicyFile(path)
    active = file.first()
    path.unlink()
    os.mkfifo(path)
    from policies.bundle import version_of

    rejected = file.poll(version_of(active))
    assert "no regular file" in str(rejected)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o666, 0o777])
def test_a_key_that_others_can_read_is_refused_by_whatever_name(mode: int, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    save_private_key(key, new_key())
    key.chmod(mode)
    (tmp_path / "link").symlink_to(key)
    (tmp_path / "hard").hardlink_to(key)
    for path in (key, tmp_path / "link", tmp_path / "hard"):
        with pytest.raises(IdentityError, match=f"has mode {mode:04o}, expected 0600"):
            load_private_key(path)


def test_a_key_and_a_home_are_private_whatever_the_umask(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "home")
    home.create()
    save_private_key(home.key, new_key())
    log_keys.create_key(home.log_key)
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home.key, home.log_key)} == {0o600}


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_a_new_key_goes_through_nothing_that_lies_there(kind: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "key.pem"
    victim.write_text("mine")
    if kind == "file":
        path.write_text("theirs")
    else:
        path.symlink_to(victim if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(IdentityError, match="a key is never overwritten"):
        save_private_key(path, new_key())
    assert victim.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


REPLACERS: dict[str, tuple[Callable[[Path, bytes], None], str]] = {
    "a home's file": (lambda path, content: replace_file(path, content, 0o600), ".{}.new"),
    "a log's file": (lambda path, content: replace_log_file(path, content, mode=0o600), "{}.tmp"),
}


@pytest.mark.parametrize("writer", REPLACERS)
@pytest.mark.parametrize("kind", ["hard link", "file of everybody", "pipe"])
def test_a_file_is_replaced_through_nothing_that_lies_at_its_temporary_name(
    writer: str, kind: str, tmp_path: Path
) -> None:
    write, name = REPLACERS[writer]
    victim, path = tmp_path / "victim", tmp_path / "cert.pem"
    temporary = tmp_path / name.format(path.name)
    victim.write_text("mine")
    held = None
    match kind:
        case "hard link":
            temporary.hardlink_to(victim)
        case "file of everybody":
            temporary.touch(0o666)
            held = temporary.open("r+b")
        case "pipe":
            os.mkfifo(temporary)
    write(path, b"new")
    if held is not None:
        with held:
            held.write(b"evil")
    assert (path.read_bytes(), victim.read_text()) == (b"new", "mine")
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    assert not path.is_symlink()


@pytest.mark.parametrize("writer", REPLACERS)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_at_the_temporary_name_is_an_error_and_is_not_followed(writer: str, there: bool, tmp_path: Path) -> None:
    write, name = REPLACERS[writer]
    victim, path = tmp_path / "victim", tmp_path / "cert.pem"
    if there:
        victim.write_text("mine")
    (tmp_path / name.format(path.name)).symlink_to(victim)
    with pytest.raises(OSError, match=r"exists|symbolic links"):
        write(path, b"new")
    assert victim.exists() is there
    assert not there or victim.read_text() == "mine"
    assert not path.exists()


@pytest.mark.parametrize("writer", REPLACERS)
def test_a_file_that_became_a_link_is_replaced_and_not_written_through(writer: str, tmp_path: Path) -> None:
    write, _ = REPLACERS[writer]
    victim, path = tmp_path / "victim", tmp_path / "cert.pem"
    victim.write_text("mine")
    path.symlink_to(victim)
    write(path, b"new")
    assert (path.read_bytes(), victim.read_text(), path.is_symlink()) == (b"new", "mine", False)


def test_the_policy_that_is_decided_by_is_the_one_that_was_read(tmp_path: Path) -> None:
    """The digest is of the bytes that were parsed: a file swapped between two looks is another policy, or none."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    document = load_policy(path)
    path.write_text(POLICY.replace("version: 1,", "version: 2,"))
    assert document.digest == load_policy(POLICY).digest
    assert document.model.metadata.version == 1
    assert load_policy(path).digest != document.digest
