"""A member's home directory: where its key, certificate, manifest and log lie."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import ConcordatError, IdentityError, UsageError
from federation.identity import Peer, load_certificate, load_private_key, peer_of
from federation.limits import LIMITS
from policies.files import open_regular


@dataclass(frozen=True)
class Home:
    """Paths inside one member's home; the directory is mode 0700."""

    path: Path

    @property
    def key(self) -> Path:
        """The private key of TLS and Flower, made here."""
        return self.path / "key.pem"

    @property
    def next_key(self) -> Path:
        """The key that a renewal is asked for, until its certificate is here."""
        return self.path / "key.next.pem"

    @property
    def log_key(self) -> Path:
        """The Ed25519 key that signs this member's audit log, made here."""
        return self.path / "log-key.pem"

    @property
    def certificate(self) -> Path:
        """The certificate issued for the key, with its chain."""
        return self.path / "cert.pem"

    @property
    def authority(self) -> Path:
        """The certificate of the federation's root."""
        return self.path / "ca.pem"

    @property
    def manifest(self) -> Path:
        """The newest federation manifest this member has accepted."""
        return self.path / "manifest.yaml"

    @property
    def manifest_signature(self) -> Path:
        """The issuing authority's signature over the manifest, with its certificate; then that over the one before."""
        return self.path / "manifest.sig"

    @property
    def request(self) -> Path:
        """The request for enrolment that went to the operator."""
        return self.path / "request.json"

    @property
    def audit(self) -> Path:
        """The directory of this member's audit log."""
        return self.path / "audit"

    @property
    def run_directory(self) -> Path:
        """Sockets and process state; may be emptied while nothing runs."""
        return self.path / "run"

    @property
    def runs(self) -> Path:
        """State of training runs (coordinator: events, checkpoints, models)."""
        return self.path / "runs"

    def create(self) -> None:
        """Make the directory, mode 0700; an existing one is kept."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot create {self.path}: {error.strerror}") from None

    def identity(self) -> Peer:
        """Who this home belongs to, from its certificate; raises IdentityError."""
        if not self.certificate.exists():
            raise UsageError(f"{self.path} is not the home of a member", advice="join a federation first")
        return peer_of(load_certificate(read_limited(self.certificate, LIMITS.certificate)))

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key, checked to belong to the certificate; raises IdentityError.

        Where the certificate is already the next key's, a renewal was cut short after it: the key follows now.
        """
        certified = load_certificate(read_limited(self.certificate, LIMITS.certificate)).public_key()
        if self.next_key.exists() and load_private_key(self.next_key).public_key() == certified:
            self.next_key.replace(self.key)
            sync_directory(self.path)
        key = load_private_key(self.key)
        if key.public_key() != certified:
            raise IdentityError(
                f"the key {self.key} does not belong to the certificate {self.certificate}",
                advice="join again with the bundle issued for this key",
            )
        return key


def read_limited(path: Path, limit: int) -> bytes:
    """Read a whole file of at most `limit` bytes; raises ConcordatError that says what is wrong."""
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise ConcordatError(f"{path} has more than {limit} bytes, the most that is accepted")
    return content


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file's content so that a crash leaves either the old or the new, and force it to disk."""
    temporary = path.with_name(f".{path.name}.new")
    # What lies there is left over, or somebody put it there: its owner and its other names are not to be ours.
    if temporary.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(temporary))
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
