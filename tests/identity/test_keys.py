"""Where an authority's keys may lie: encrypted, in a token, or moved away."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from coordinator.authority import Authority
from coordinator.authority.keys import read_passphrase
from federation.enrolment import join, parse_request, request_enrolment
from federation.errors import ConcordatError, IdentityError, UsageError
from federation.home import Home
from federation.identity import Role, load_certificate
from federation.manifest import load_manifest

NAME = "cardio.example"
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


def enrolled(authority: Authority, home: Home) -> Home:
    request_enrolment(home, NAME, "silo-a", Role.SILO, "DE")
    certificate, _ = authority.enrol(parse_request(home.request.read_bytes()))
    join(home, json.dumps(authority.bundle(certificate)).encode())
    return home


def test_the_roots_key_is_not_needed_after_founding(tmp_path: Path):
    authority = Authority(tmp_path / "a")
    authority.found(NAME)
    authority.root_key.unlink()
    home = enrolled(authority, Home(tmp_path / "h"))
    assert authority.revoke("silo-a", "left").version == 3
    assert load_manifest(home).version == 2


def test_encrypted_keys_open_with_their_passphrase_alone(tmp_path: Path):
    authority = Authority(tmp_path / "a", b"correct horse")
    authority.found(NAME)
    for key in (authority.root_key, authority.key):
        assert b"ENCRYPTED" in key.read_bytes()
    for wrong in (None, b"battery staple"):
        with pytest.raises(IdentityError, match="wrong or missing passphrase"):
            Authority(authority.path, wrong).check_key()
    enrolled(authority, Home(tmp_path / "h"))
    assert "correct horse" not in repr(authority)


def test_a_passphrase_file_others_can_read_is_refused(tmp_path: Path):
    file = tmp_path / "p"
    file.touch(mode=0o600)
    file.write_text("secret words\nand more\n")
    assert read_passphrase(file) == b"secret words"
    file.chmod(0o640)
    with pytest.raises(IdentityError, match="expected 0600"):
        read_passphrase(file)
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(IdentityError, match="no passphrase"):
        read_passphrase(file)
    assert read_passphrase(None) is None


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A fresh SoftHSM token; gives the URI of an object in it."""
    if not SOFTHSM.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("1234\n")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "ca", "--pin", "1234", "--so-pin", "4321"]
    subprocess.run(command, check=True, capture_output=True)
    return lambda name: f"pkcs11:token=ca;object={name}?module-path={SOFTHSM}&pin-source=file:{pin}"


CEREMONY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from coordinator.authority import Authority
from federation.errors import ConcordatError
from federation.identity import load_certificate
authority = Authority(Path(sys.argv[1]))
authority.found("cardio.example", "30d", sys.argv[2].replace("NAME", "root"), sys.argv[2].replace("NAME", "issuing"))
authority.check_key()
print(authority.manifest().version)
try:
    Authority(Path(sys.argv[1]) / "again").found("cardio.example", "30d", sys.argv[2].replace("NAME", "root"))
except ConcordatError as error:
    print(error)
"""


def in_a_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A PKCS #11 module reads its configuration once a process, so each ceremony has its own."""
    command = [sys.executable, "-c", code, *arguments, str(Path.cwd())]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_authoritys_keys_can_live_in_a_token(token: Callable[[str], str], tmp_path: Path):
    uri = token("NAME")
    done = in_a_process(CEREMONY, str(tmp_path / "a"), uri)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1", done.stdout.splitlines()[1]]
    assert "the token already has an object 'root'" in done.stdout
    authority = Authority(tmp_path / "a")
    assert not authority.key.exists()
    assert not authority.root_key.exists()
    # What the token signed is what everyone else checks, with no token at hand.
    assert load_manifest(Home(authority.path)).version == 1
    crl = x509.load_pem_x509_crl(authority.revocations.read_bytes())
    assert crl.is_signature_valid(load_certificate(authority.issuer.read_bytes()).public_key())  # type: ignore[arg-type]


ENROL = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from coordinator.authority import Authority
from federation.enrolment import join, parse_request
from federation.home import Home
authority, home = Authority(Path(sys.argv[1])), Home(Path(sys.argv[2]))
certificate, _ = authority.enrol(parse_request(home.request.read_bytes()))
join(home, json.dumps(authority.bundle(certificate)).encode())
"""


def test_a_token_certifies_members(token: Callable[[str], str], tmp_path: Path):
    assert in_a_process(CEREMONY, str(tmp_path / "a"), token("NAME")).returncode == 0
    home = Home(tmp_path / "h")
    request_enrolment(home, NAME, "silo-a", Role.SILO, "DE")
    done = in_a_process(ENROL, str(tmp_path / "a"), str(home.path))
    assert done.returncode == 0, done.stderr
    chain = ["-CAfile", str(tmp_path / "a" / "ca.pem"), "-untrusted", str(tmp_path / "a" / "issuing.pem")]
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", *chain, str(home.certificate)]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0


def test_the_private_half_does_not_come_out_of_the_token(token: Callable[[str], str], tmp_path: Path):
    code = """
import sys
from coordinator.authority.token import TokenKey
from cryptography.hazmat.primitives import serialization as s
key = TokenKey(sys.argv[1], create=True)
pem = lambda: key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
for attempt in (pem, key.private_numbers):
    try:
        attempt()
    except Exception as error:
        print(error)
import pkcs11
try:
    print(key._private[pkcs11.Attribute.VALUE])
except pkcs11.PKCS11Error as error:
    print(type(error).__name__)
"""
    done = in_a_process(code, token("one"))
    assert done.stdout.splitlines() == ["a key in a token cannot be read"] * 2 + ["AttributeSensitive"], done.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda uri: uri.replace("token=ca", "token=other"), "has no token 'other'"),
        (lambda uri: uri.replace("object=missing;", "").replace("object=missing", "object=absent"), "has no EC key"),
        (lambda uri: uri.replace("libsofthsm2.so", "absent.so"), "cannot be loaded"),
    ],
    ids=["token", "object", "module"],
)
def test_a_token_that_is_not_there_is_named(
    token: Callable[[str], str], tmp_path: Path, change: Callable[[str], str], reason: str
):
    code = "import sys\nfrom coordinator.authority.token import TokenKey\nTokenKey(sys.argv[1])"
    done = in_a_process(code, change(token("missing")))
    assert reason in done.stderr


@pytest.mark.parametrize("uri", ["", "pkcs11:", "file:/x", "pkcs11:token=a;object=b"])
def test_a_reference_that_names_no_key_is_refused(tmp_path: Path, uri: str):
    with pytest.raises(UsageError, match="expected pkcs11:token="):
        Authority(tmp_path / "a").found(NAME, "30d", uri or "x")


def test_a_wrong_pin_is_refused_and_not_shown(token: Callable[[str], str], tmp_path: Path):
    uri = token("one")
    (tmp_path / "pin").write_text("9999\n")
    code = "import sys\nfrom coordinator.authority.token import TokenKey\nTokenKey(sys.argv[1])"
    done = in_a_process(code, uri)
    assert "the PIN for token 'ca' is wrong" in done.stderr
    assert "9999" not in done.stderr


def test_a_lifetime_that_is_none_is_refused(tmp_path: Path):
    for lifetime in ("", "30", "0d", "1y", "-1d", "1.5h"):
        with pytest.raises(ConcordatError, match="expected a number and s, m, h or d"):
            Authority(tmp_path / "a").found(NAME, lifetime)
    assert not (tmp_path / "a").exists()
