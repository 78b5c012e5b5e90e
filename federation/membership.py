"""Whose certificate this is: the one check that joins certificate, issuer and manifest."""

from __future__ import annotations

import ssl
from datetime import datetime

from cryptography import x509

from federation.errors import IdentityError, ManifestError
from federation.home import Home
from federation.identity import Peer, load_certificate, load_der_certificate, peer_of
from federation.manifest import SignedManifest, load_manifest
from federation.tls import client_context
from federation.trust import check_usage, check_valid, is_issued_by, serial_of


def identify(manifest: SignedManifest, certificate: x509.Certificate, now: datetime | None = None) -> Peer:
    """The member that a certificate stands for, at a time (aware, default now); raises IdentityError with the reason.

    It must be valid, name a member of this federation in the role the manifest gives it, come from the issuing
    authority that signed the manifest, from one before it that is not retired or from the institution's own that may
    vouch for this member, and not be revoked.
    """
    peer = recognise(manifest, certificate)
    _check_vouched(manifest, certificate, peer, now)
    check_usage(certificate, peer)
    check_valid(certificate, now)
    return peer


def recognise(manifest: SignedManifest, certificate: x509.Certificate) -> Peer:
    """The member that a certificate names, whoever issued it and when; raises IdentityError where it is revoked.

    For whoever knows otherwise that it was issued to this member.
    """
    peer = peer_of(certificate)
    if peer.federation != manifest.federation.metadata.name:
        raise IdentityError(
            f"got a certificate of federation {peer.federation}, expected {manifest.federation.metadata.name}"
        )
    check_membership(manifest, peer)
    serial = serial_of(certificate)
    for revoked in manifest.federation.revoked_certificates:
        if revoked.serial == serial and revoked.name == peer.name:
            raise IdentityError(
                f"this certificate of {peer.name} was revoked on {revoked.date} ({revoked.reason})",
                advice="enrol again with a new key",
            )
    return peer


def check_membership(manifest: SignedManifest, peer: Peer) -> None:
    """Check that the manifest has this name in this role; raises IdentityError."""
    try:
        member = manifest.federation.member(peer.name)
    except ManifestError as error:
        raise IdentityError(str(error)) from None
    if member.role is not peer.role:
        raise IdentityError(f"{peer.name} is a {member.role} in the manifest, a {peer.role} in its certificate")


def authorities_for(manifest: SignedManifest, name: str) -> list[str]:
    """The certificates (PEM) of the institutions' own authorities that may vouch for a member."""
    return [authority.certificate for authority in manifest.federation.authorities if name in authority.members]


def is_outlived(manifest: SignedManifest, certificate: x509.Certificate) -> bool:
    """Whether a certificate comes from an issuing authority before the present one: it is to be renewed at once."""
    return any(is_issued_by(certificate, former.x509) for former in manifest.federation.former_issuers)


def coordinator_context(home: Home) -> ssl.SSLContext:
    """How a member connects to its coordinator: with its certificate, and to none of an issuer that was retired."""
    manifest = load_manifest(home)

    def check(certificate: bytes) -> None:
        for former in load_manifest(home).federation.former_issuers:
            if former.retired is not None and is_issued_by(load_der_certificate(certificate), former.x509):
                former.check_counts()

    others = authorities_for(manifest, manifest.federation.coordinator.name)
    return client_context(home.certificate, home.key, home.authority, others, check)


def _check_vouched(
    manifest: SignedManifest, certificate: x509.Certificate, peer: Peer, now: datetime | None = None
) -> None:
    if is_issued_by(certificate, manifest.issuer):
        return
    for former in manifest.federation.former_issuers:
        if is_issued_by(certificate, former.x509):
            former.check_counts(now)
            return
    for authority in manifest.federation.authorities:
        if is_issued_by(certificate, load_certificate(authority.certificate.encode())):
            if peer.name not in authority.members:
                raise IdentityError(
                    f"the authority {authority.name} certified {peer.name}, and may vouch for "
                    f"{', '.join(authority.members)} alone"
                )
            return
    raise IdentityError(
        f"the certificate of {peer.name} was not issued by this federation's authority, "
        f"nor by one that its manifest names for {peer.name}"
    )
