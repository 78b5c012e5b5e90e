"""TLS 1.3 with certificates on both sides; nothing older and nothing anonymous."""

from __future__ import annotations

import ssl
from pathlib import Path

from federation.errors import IdentityError


def _context(protocol: int, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(f"certificate {certificate} with key {key} cannot be used: {error}") from None
    return context


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """A server side that completes no handshake without a client certificate of this authority."""
    return _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, authority)


def client_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """A client side that presents its certificate and checks the server's name against this authority alone."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, authority)
    context.check_hostname = True
    return context
