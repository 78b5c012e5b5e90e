from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.addresses import split_address
from federation.errors import ConcordatError, IdentityError, UsageError
from federation.home import Home, read_limited, replace_file
from federation.identity import Role


def test_a_home_is_made_for_its_owner_alone(tmp_path: Path):
    home = Home(tmp_path / "a" / "b")
    home.create()
    assert home.path.stat().st_mode & 0o777 == 0o700
    (home.path / "kept").write_text("x")
    home.create()
    assert (home.path / "kept").read_text() == "x"
    with pytest.raises(UsageError, match="cannot create"):
        Home(home.path / "kept" / "c").create()


def test_a_home_knows_whose_it_is(federation: Any):
    identity = federation.homes["ops"].identity()
    assert (identity.federation, identity.role, identity.name) == (federation.name, Role.OPERATOR, "ops")
    assert federation.homes["ops"].private_key().public_key() is not None


def test_a_key_that_is_not_the_certificates_is_refused(federation: Any, copy: Callable[[Home], Home]):
    home = copy(federation.homes["ops"])
    shutil.copy(federation.homes["silo-a"].key, home.key)
    with pytest.raises(IdentityError, match="does not belong to the certificate"):
        home.private_key()


def test_a_directory_that_is_no_home_is_refused(tmp_path: Path):
    with pytest.raises(UsageError):
        Home(tmp_path).identity()


# -- replacing a file


def test_a_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "file"
    replace_file(path, b"first")
    replace_file(path, b"second and longer")
    replace_file(path, b"3rd")
    assert path.read_bytes() == b"3rd"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_planted_for_the_new_file_is_not_followed(tmp_path: Path):
    path, victim = tmp_path / "file", tmp_path / "victim"
    path.write_bytes(b"old")
    victim.write_bytes(b"another's")
    (tmp_path / ".file.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        replace_file(path, b"new")
    assert (path.read_bytes(), victim.read_bytes()) == (b"old", b"another's")


def test_a_link_in_the_place_of_the_file_is_replaced_and_its_target_kept(tmp_path: Path):
    path, victim = tmp_path / "file", tmp_path / "victim"
    victim.write_bytes(b"another's")
    path.symlink_to(victim)
    replace_file(path, b"new")
    assert (path.is_symlink(), path.read_bytes(), victim.read_bytes()) == (False, b"new", b"another's")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    replace_file(path, b"old")
    program = """
import resource, sys
from pathlib import Path
from federation.home import replace_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    replace_file(Path(sys.argv[1]), bytes(100_000))
except OSError as error:
    sys.exit(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "File too large")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_is_read_up_to_its_limit(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_limited(path, 5) == b"12345"
    with pytest.raises(ConcordatError, match="more than 4 bytes"):
        read_limited(path, 4)
    with pytest.raises(UsageError, match="is missing"):
        read_limited(tmp_path / "none", 4)
    with pytest.raises(UsageError, match="cannot be read"):
        read_limited(tmp_path, 4)


# -- addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub.example.org:9443", ("hub.example.org", 9443)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("coordinator:80", ("coordinator", 80)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]):
    assert split_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub",
        "hub:",
        ":9443",
        "[]:1",
        "hub:0",
        "hub:65536",
        "hub:-1",
        "hub:+1",
        "hub:1_0",
        "hub: 1",
        "hub:\u00b2",
        "hub:\u0663",
        "hub:" + "9" * 5000,
        "https://hub:443",
        "hub:443/path",
        "m\u00fcnchen.example:443",
        "hub name:443",
        "hub\n:443",
        "hub:443\n",
        "user@hub:443",
        "-hub:443",
    ],
)
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(UsageError, match="expected host:port"):
        split_address(text)


@given(st.text(max_size=30) | st.from_regex(r"[a-z0-9.\[\]:-]{1,20}:[0-9]{1,6}"))
def test_any_text_is_an_address_or_is_refused(text: str):
    try:
        host, port = split_address(text)
    except UsageError:
        return
    assert host.isascii()
    assert 0 < port < 65536
    assert text in {f"{host}:{text.rpartition(':')[2]}", f"[{host}]:{text.rpartition(':')[2]}"}
