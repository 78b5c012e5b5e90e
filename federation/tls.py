"""TLS 1.3 with certificates on both sides; nothing older and, but at the enrolment interface, nothing anonymous."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from federation.errors import ConcordatError, IdentityError
from policies.files import open_regular


def server_context(certificate: Path, key: Path, authority: Path, others: Iterable[str] = ()) -> ssl.SSLContext:
    """A server side that completes no handshake without a client certificate of this federation.

    `others` are PEM certificates of institutions' own authorities, which the manifest names.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key)
    _trust(context, authority, others)
    # A resumed session would keep the certificate of an earlier handshake.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context


class _CheckedContext(ssl.SSLContext):
    """A client side that lets go of a server whose certificate does not pass a check beyond its chain."""

    check: Callable[[bytes], None]

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Shake hands, then check; raises SSLCertVerificationError."""
        wrapped = super().wrap_socket(*arguments, **options)
        try:
            self.check(wrapped.getpeercert(binary_form=True) or b"")
        except ConcordatError as error:
            wrapped.close()
            refused = ssl.SSLCertVerificationError(1, f"certificate verify failed: {error}")
            refused.verify_message = str(error)
            raise refused from None
        return wrapped


def client_context(
    certificate: Path,
    key: Path,
    authority: Path,
    others: Iterable[str] = (),
    check: Callable[[bytes], None] | None = None,
) -> ssl.SSLContext:
    """A client side that presents its certificate and checks the server's name and authority.

    `check` is called with the server's certificate (DER) once its chain holds, and raises IdentityError to refuse it;
    it is for blocking sockets.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, ssl.SSLContext if check is None else _CheckedContext)
    if isinstance(context, _CheckedContext) and check is not None:
        context.check = check
    _trust(context, authority, others)
    context.check_hostname = True
    return context


def stranger_context(authority: str) -> ssl.SSLContext:
    """A client side without a certificate, which trusts the root in an invitation (PEM) and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _modern(context)
    try:
        context.load_verify_locations(cadata=authority)
    except ssl.SSLError as error:
        raise IdentityError(f"the authority in the invitation cannot be used: {error}") from None
    return context


def enrolment_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server side for strangers: it asks for no certificate."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key)
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(
    protocol: int, certificate: Path, key: Path, kind: type[ssl.SSLContext] = ssl.SSLContext
) -> ssl.SSLContext:
    context = kind(protocol)
    _modern(context)
    load_identity(context, certificate, key)
    return context


def _modern(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT


def load_identity(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Give a context another certificate and key, for the connections to come; raises IdentityError."""
    try:
        _require_regular(certificate, key)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(f"certificate {certificate} with key {key} cannot be used: {error}") from None


def trust_also(context: ssl.SSLContext, authority: str) -> None:
    """Accept certificates of one more authority (PEM), which may itself be another's child; raises IdentityError."""
    try:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=authority)
    except ssl.SSLError as error:
        raise IdentityError(f"the certificate of an authority cannot be used: {error}") from None


def _trust(context: ssl.SSLContext, authority: Path, others: Iterable[str]) -> None:
    try:
        _require_regular(authority)
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(f"the authority {authority} cannot be used: {error}") from None
    for pem in others:
        trust_also(context, pem)


def _require_regular(*paths: Path) -> None:
    """Raise OSError for a pipe or a device, from which TLS would read for ever."""
    for path in paths:
        open_regular(path).close()
