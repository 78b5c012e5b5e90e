"""The gate's own certificate: presented to the coordinator, renewed in time, taken up again when it was replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.addresses import split_address
from federation.errors import ConcordatError, IdentityError
from federation.faults import attempt
from federation.home import Home, read_limited
from federation.identity import public_key_pem
from federation.limits import LIMITS
from federation.manifest import SignedManifest, accept_manifest, load_manifest
from federation.membership import coordinator_context, is_outlived
from federation.renewal import Certificate, ask_renewal, certificate_of, install_renewed
from federation.trust import is_issued_by, load_chain
from policies.errors import PolicyError
from silo.gate.fleet import FleetConnection

RETRY = timedelta(hours=1)


class OwnIdentity:
    """A home's certificate and key as they are in use, and whether they still are the newest; thread-safe."""

    def __init__(self, home: Home, address: str) -> None:
        self._home = home
        self._address = address
        self._lock = threading.Lock()
        self._in_use = self._edition()
        self._known: tuple[tuple[int, int], SignedManifest] | None = None
        self._not_before = datetime.min.replace(tzinfo=UTC)
        self.certificate: Certificate = certificate_of(home)
        self._outlived = self._is_outlived()
        self.exchanged: Callable[[int, int], None] = lambda _sent, _received: None
        """Told of the bytes of each request to the coordinator and of its answer."""

    def present(self) -> tuple[Callable[[], FleetConnection], bytes]:
        """How to connect with what lies in the home now, and the public key (PEM) that goes with it.

        Raises IdentityError where key and certificate do not fit.
        """
        with self._lock:
            edition = self._edition()
            key = self._home.private_key()
            context = coordinator_context(self._home)
            self._in_use = edition
            self.certificate = certificate_of(self._home)
            self._outlived = self._is_outlived()
        host, port = split_address(self._address)
        return lambda: FleetConnection(host, port, context, key, self.exchanged), public_key_pem(key.public_key())

    def signer(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """The key that lies in the home now, and its certificate; raises IdentityError where they do not fit."""
        with self._lock:
            key = self._home.private_key()
            certificate = self._leaf()
        if public_key_pem(key.public_key()) != public_key_pem(certificate.public_key()):
            raise IdentityError(f"the key and the certificate in {self._home.path} do not fit")
        return key, certificate

    def manifest(self) -> SignedManifest:
        """The newest manifest that was accepted; raises ManifestError."""
        status = self._home.manifest.stat()
        edition = (status.st_mtime_ns, status.st_ino)
        with self._lock:
            if self._known is None or self._known[0] != edition:
                self._known = (edition, load_manifest(self._home))
            return self._known[1]

    def has_changed(self) -> bool:
        """Whether another certificate lies in the home than the one in use."""
        return self._edition() != self._in_use

    def renew_if_due(self, now: datetime | None = None) -> str | None:
        """Renew in the second half of the certificate's life, or where its issuing authority was replaced.

        Returns why that failed, to be tried again later.
        Nothing is renewed while a newer certificate already waits in the home to be presented.
        """
        now = now or datetime.now(UTC)
        if not (self._outlived or now >= self.certificate.due) or now < self._not_before or self.has_changed():
            return None
        problem: str | None = attempt(self._renew, str)
        if problem is not None:
            self._not_before = now + min(RETRY, max(self.certificate.left(now) / 10, timedelta(seconds=1)))
        return problem

    def _renew(self) -> str | None:
        try:
            with self._lock:
                if not self._is_ours():
                    return None
                context = coordinator_context(self._home)
            bundle = ask_renewal(self._home, self._address, context)
            with self._lock:
                install_renewed(self._home, bundle)
        except (ConcordatError, PolicyError, OSError) as error:
            return str(error)
        return None

    def accept_manifest(self, text: str, signature: str) -> SignedManifest:
        """Take over a newer manifest, which a renewal brings too; raises ManifestError."""
        with self._lock:
            accepted = accept_manifest(self._home, text, signature)
            self._outlived = self._is_outlived()
        return accepted

    def _leaf(self) -> x509.Certificate:
        return load_chain(read_limited(self._home.certificate, LIMITS.certificate))[0]

    def _is_outlived(self) -> bool:
        return is_outlived(load_manifest(self._home), self._leaf())

    def _is_ours(self) -> bool:
        """Whether the federation issued the certificate; an institution renews its own."""
        manifest = load_manifest(self._home)
        return is_issued_by(self._leaf(), manifest.issuer) or is_outlived(manifest, self._leaf())

    def _edition(self) -> tuple[int, int]:
        status = self._home.certificate.stat()
        return status.st_mtime_ns, status.st_ino
