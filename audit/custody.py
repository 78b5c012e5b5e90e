"""Looking after a member's log: its home holds the log, the log's key and a certificate."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from audit.errors import AuditError, AuditLocked
from audit.keys import load_key
from audit.limits import LIMITS
from audit.log import AuditLog
from audit.note import parse_vkey
from audit.upkeep import Wanted, ask, carry_out


def look_after(home: Path, wanted: Wanted) -> list[str]:
    """Do what is wanted with a member's log, or have its running process do it; returns what there is to say.

    Raises AuditError.
    """
    try:
        log = _open_of_home(home)
    except AuditLocked as error:
        said = ask(home / "audit", wanted)
        if said is None:
            raise AuditError(f"{error}; a log has one writer, and this one takes no requests") from error
        return said
    with log:
        return carry_out(log, _actor_of_home(home), wanted)


def _open_of_home(home: Path) -> AuditLog:
    try:
        with (home / "audit" / "log.vkey").open("rb") as file:
            vkey = file.read(1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise AuditError(f"{home} is not the home of a member with a log: {error.strerror}") from error
    key = load_key(home / "log-key.pem")
    return AuditLog.open(home / "audit", origin=parse_vkey(vkey).name, key=key)


def _actor_of_home(home: Path) -> str:
    """The identity in a home's certificate; AuditError where there is none."""
    try:
        with (home / "cert.pem").open("rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read(LIMITS.key_file))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise AuditError(f"{home / 'cert.pem'} names no member: {error}") from error
    return uri
