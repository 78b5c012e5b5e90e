"""Who a party is: its key, its certificate, and the name and role in that certificate.

One EC key is the TLS client key and the Flower node key (promise 4); it is made where it is used and never leaves
(promise 8).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.errors import IdentityError
from federation.limits import LIMITS
from policies.files import open_regular

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
FEDERATION_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,126}[a-z0-9])?")
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises, much of it outside ValueError, for a certificate or request that it cannot read."""


class Role(StrEnum):
    """What a certificate lets its holder be."""

    COORDINATOR = "coordinator"
    SILO = "silo"
    OPERATOR = "operator"
    AUDITOR = "auditor"


@dataclass(frozen=True)
class Peer:
    """The identity in a certificate."""

    federation: str
    role: Role
    name: str
    public_key: bytes
    """PEM SubjectPublicKeyInfo, the form in which Flower carries a node key."""

    @property
    def uri(self) -> str:
        """The SPIFFE-style identifier in the certificate's URI name."""
        return spiffe_id(self.federation, self.role, self.name)


def spiffe_id(federation: str, role: Role, name: str) -> str:
    """The identifier of a member: `spiffe://<federation>/<role>/<name>`."""
    return f"spiffe://{federation}/{role.value}/{name}"


def parse_spiffe_id(uri: str) -> tuple[str, Role, str]:
    """Split an identifier into federation, role and name; raises IdentityError."""
    found = re.fullmatch(r"spiffe://([^/]+)/([^/]+)/([^/]+)", uri)
    if found is None:
        raise IdentityError(f"got identifier {uri[:200]!r}, expected spiffe://<federation>/<role>/<name>")
    federation, role, name = found.groups()
    if role not in {r.value for r in Role}:
        raise IdentityError(f"got role {role!r}, expected one of {', '.join(r.value for r in Role)}")
    if not FEDERATION_NAME.fullmatch(federation) or not NAME.fullmatch(name):
        raise IdentityError(
            f"got identifier {uri[:200]!r} with a name that is not lower-case letters, digits and hyphens"
        )
    return federation, Role(role), name


def check_name(name: str, what: str = "name") -> str:
    """Return the name, or raise IdentityError where it is not a valid member name."""
    if not NAME.fullmatch(name):
        raise IdentityError(
            f"got {what} {name!r}, expected up to 63 lower-case letters, digits and hyphens, such as hospital-a"
        )
    return name


def peer_of(certificate: x509.Certificate) -> Peer:
    """Read the identity out of a certificate whose chain was already verified; raises IdentityError."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise IdentityError("the certificate has no subject alternative name, expected a spiffe:// URI") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityError(f"the certificate has {len(uris)} URI names, expected exactly one spiffe:// URI")
    federation, role, name = parse_spiffe_id(uris[0])
    return Peer(federation, role, name, public_key_pem(certificate.public_key()))


def public_key_pem(key: object) -> bytes:
    """PEM SubjectPublicKeyInfo of an EC public key; raises IdentityError for another kind of key."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise IdentityError("got a key that is not EC P-256 or P-384, expected one of these two")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(public_key: bytes) -> str:
    """A short name of a public key to compare by telephone: five groups of four hex digits of its SHA-256."""
    digest = hashlib.sha256(public_key).hexdigest()
    return "-".join(digest[i : i + 4] for i in range(0, 20, 4))


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def save_private_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> None:
    """Write a key as PKCS #8 PEM, mode 0600, refusing to replace an existing file."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    write_private(path, pem)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600 and force it to disk; raises IdentityError where it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise IdentityError(f"{path} exists", advice="move it away first: a key is never overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_private(path: Path, status: os.stat_result) -> None:
    """Refuse a file with a secret that others can read; raises IdentityError.

    A Secret mounted into a pod belongs to root and is read through the pod's own group: mode 0440 and root's is taken
    from there, by a process that is not root.
    """
    mode = stat.S_IMODE(status.st_mode)
    mounted = _is_root_s(status.st_uid) and os.geteuid() != 0 and not mode & 0o337
    if mode & 0o077 and not mounted:
        raise IdentityError(f"{path} has mode {mode:04o}, expected 0600", advice=f"run: chmod 600 {path}")


def _is_root_s(owner: int) -> bool:
    """Whether a file's owner is root, also in a user namespace without it, which shows every stranger as nobody."""
    if owner == 0:
        return True
    known = {int(line.split()[0]) for line in Path("/proc/self/uid_map").read_text().splitlines()}
    return 0 not in known and owner == int(Path("/proc/sys/kernel/overflowuid").read_text())


def read_private(path: Path) -> bytes:
    """Read a key file; raises IdentityError where it is absent, readable by others, or too large."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            check_private(path, status)
            if status.st_size > LIMITS.key_file:
                raise IdentityError(f"{path} has {status.st_size} bytes, expected at most {LIMITS.key_file}")
            return file.read()
    except FileNotFoundError:
        raise IdentityError(f"{path} is missing", advice="this home has no key yet; request one first") from None
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from None


def load_private_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Read an EC private key from a 0600 PEM file; raises IdentityError."""
    content = read_private(path)
    try:
        key = serialization.load_pem_private_key(content, passphrase)
    except (ValueError, TypeError) as error:
        # One wrong passphrase in 256 decrypts to something that is padded well, and fails only as a key.
        encrypted = b"ENCRYPTED" in content or "assword" in str(error)
        reason = "wrong or missing passphrase" if encrypted else "not a PEM private key"
        raise IdentityError(f"{path} cannot be read: {reason}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{path} holds a key that is not elliptic-curve, expected P-256 or P-384")
    public_key_pem(key.public_key())
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """Parse one PEM certificate; raises IdentityError."""
    if len(pem) > LIMITS.certificate:
        raise IdentityError(f"got a certificate of {len(pem)} bytes, expected at most {LIMITS.certificate}")
    try:
        return check_readable(x509.load_pem_x509_certificate(pem))
    except UNREADABLE:
        raise IdentityError("got something that is not a PEM certificate") from None


def load_der_certificate(der: bytes) -> x509.Certificate:
    """Parse one DER certificate; raises IdentityError."""
    if len(der) > LIMITS.certificate:
        raise IdentityError(f"got a certificate of {len(der)} bytes, expected at most {LIMITS.certificate}")
    try:
        return check_readable(x509.load_der_x509_certificate(der))
    except UNREADABLE:
        raise IdentityError("got something that is not a DER certificate") from None


def check_readable(certificate: x509.Certificate) -> x509.Certificate:
    """Read now what cryptography reads only when asked, so that later use cannot fail; raises one of UNREADABLE."""
    _ = certificate.extensions, certificate.public_key()
    return certificate


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A PEM certificate signing request (RFC 2986) for a member name."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def sign(key: ec.EllipticCurvePrivateKey, domain: bytes, content: bytes) -> bytes:
    """Sign content with ECDSA and SHA-256, separated by domain so that one signature cannot serve another use."""
    return key.sign(domain + b"\0" + content, ec.ECDSA(hashes.SHA256()))


def verify(public_key: object, domain: bytes, content: bytes, signature: bytes) -> None:
    """Check a signature made by `sign`; raises IdentityError."""
    public_key_pem(public_key)
    assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  narrowed by public_key_pem
    try:
        public_key.verify(signature, domain + b"\0" + content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise IdentityError(f"the signature over this {domain.decode()} does not verify") from None
