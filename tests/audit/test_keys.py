from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from audit.errors import AuditKeyError
from audit.keys import create_key, load_key, vkey_of


def test_a_created_key_is_private_and_loads_again(tmp_path: Path):
    path = tmp_path / "log.pem"
    key = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert vkey_of("a/log", load_key(path).public_key()) == vkey_of("a/log", key.public_key())


def test_an_existing_file_is_not_overwritten(tmp_path: Path):
    path = tmp_path / "log.pem"
    path.write_bytes(b"precious")
    with pytest.raises(AuditKeyError, match="exists already"):
        create_key(path)
    assert path.read_bytes() == b"precious"
    with pytest.raises(AuditKeyError, match="cannot write"):
        create_key(tmp_path / "absent" / "log.pem")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o700])
def test_a_key_that_others_may_read_is_refused_with_advice(tmp_path: Path, mode: int):
    path = tmp_path / "log.pem"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(AuditKeyError, match=f"mode {mode:04o}, expected 0600 or 0400: run chmod 600"):
        load_key(path)
    path.chmod(0o400)
    load_key(path)


def test_what_is_no_plain_ed25519_key_is_refused(tmp_path: Path):
    ec = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    for number, data in enumerate((b"", b"not a key", ec, locked, b"x" * 20_000)):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(AuditKeyError):
            load_key(path)
    with pytest.raises(AuditKeyError, match="cannot read"):
        load_key(tmp_path / "absent.pem")
