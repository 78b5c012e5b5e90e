"""What every member's installation is examined for."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from audit.erasure import bound_of, oldest_overdue
from federation.addresses import split_address
from federation.doctor.findings import Finding, failure, ok, warning
from federation.errors import ManifestError
from federation.home import Home, read_limited
from federation.identity import load_certificate, load_private_key
from federation.limits import LIMITS
from federation.manifest import load_manifest
from federation.membership import coordinator_context, identify
from federation.metrics import certificate_days_left
from federation.trust import load_chain

SECONDS = 10.0
FEW_DAYS = 7.0
FEW_DAYS_OF_AUTHORITY = 90
LITTLE_DISK, NO_DISK = 5 << 30, 256 << 20
SKEW, MUCH_SKEW = timedelta(seconds=5), timedelta(seconds=60)


def check_permissions(home: Home) -> Iterator[Finding]:
    """The home and its keys belong to nobody else."""
    mode = stat.S_IMODE(home.path.stat().st_mode)
    if mode & 0o007:
        yield failure("permissions", f"{home.path} has mode {mode:04o}, expected 0700", f"run: chmod 700 {home.path}")
    load_private_key(home.key)
    log_mode = stat.S_IMODE(home.log_key.stat().st_mode)
    if log_mode & 0o077:
        remedy = f"run: chmod 600 {home.log_key}, and think about who may have read it"
        yield failure("permissions", f"{home.log_key} has mode {log_mode:04o}, expected 0600", remedy)
    elif not mode & 0o007:
        yield ok("permissions", "the home and its keys can be read by this user alone")


def check_certificate(home: Home) -> Iterator[Finding]:
    """The certificate belongs to the key, comes from whom the manifest names, and is valid for some time to come."""
    home.private_key()
    certificate = load_chain(read_limited(home.certificate, LIMITS.certificate))[0]
    identify(load_manifest(home), certificate)
    days = certificate_days_left(home)
    until = f"until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    remedy = "renew it: see docs/joining.md"
    if days <= 0:
        yield failure("certificate", f"it was valid {until}", remedy)
    elif days < FEW_DAYS:
        yield warning("certificate", f"{days:.1f} days left, {until}", remedy)
    else:
        yield ok("certificate", f"{days:.0f} days left, {until}, chain complete")
    yield from _check_issuer(home)


def _check_issuer(home: Home) -> Iterator[Finding]:
    """The authorities above it are valid for long enough to replace them."""
    root = load_certificate(read_limited(home.authority, LIMITS.certificate))
    for what, authority in (("issuing authority", load_manifest(home).issuer), ("root", root)):
        days = (authority.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)
        if days < FEW_DAYS_OF_AUTHORITY:
            remedy = "the operator has to replace it: see docs/operator.md"
            yield warning("certificate", f"the {what} is valid for {days:.0f} days more", remedy)


def check_manifest(home: Home) -> Iterator[Finding]:
    """The manifest is signed, and this member is in it with the role and log key it has."""
    signed = load_manifest(home)
    peer = home.identity()
    member = signed.federation.member(peer.name)
    if member.role is not peer.role:
        raise ManifestError(f"{peer.name} is a {member.role} in the manifest, a {peer.role} in its certificate")
    yield ok("manifest", f"{signed.federation.metadata.name}, version {signed.version}, {peer.name} is its {peer.role}")


def check_disk(home: Home) -> Iterator[Finding]:
    """There is room for the log: where it cannot be written nothing is allowed."""
    free = shutil.disk_usage(home.path).free
    detail = f"{free / (1 << 30):.1f} GiB free at {home.path}"
    if free < NO_DISK:
        yield failure("disk", detail, "make room: where the log cannot be written, everything is refused")
    elif free < LITTLE_DISK:
        yield warning("disk", detail, "make room before the log runs out of it")
    else:
        yield ok("disk", detail)


def check_retention(home: Home) -> Iterator[Finding]:
    """No payload of the log is past the maximum of the policy that was active last."""
    bound, overdue = bound_of(home.audit), oldest_overdue(home.audit, datetime.now(UTC))
    if overdue is not None:
        detail = f"the log keeps a payload of {overdue:%Y-%m-%d}, past the policy's maximum: every run is refused"
        remedy = f"stop the gate and run: concordat audit retention --home {home.path} --apply"
        yield failure("retention", detail, remedy)
    elif bound is not None:
        yield ok("retention", f"nothing is past its maximum, {bound.text}")


def check_name(address: str) -> Iterator[Finding]:
    """The name service knows the address."""
    host, port = split_address(address)
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        remedy = "ask who runs your name service, or the operator whether the address in the manifest is right"
        yield failure("name service", f"{host} is not found: {error.strerror}", remedy)
    else:
        yield ok("name service", f"{host} is {', '.join(found)}"[:300])


def check_coordinator(home: Home, address: str, headers: Mapping[str, str]) -> Iterator[Finding]:
    """The coordinator answers with its certificate, takes ours, and its clock agrees with this machine's.

    `headers` are those by which it knows this member beyond TLS.
    """
    host, port = split_address(address)
    connection = http.client.HTTPSConnection(host, port, context=coordinator_context(home), timeout=SECONDS)
    asked = datetime.now(UTC)
    try:
        connection.request("POST", "/v1/fleet/examine", body=b"", headers=dict(headers))
        answer = connection.getresponse()
        said = answer.read(2000).decode("utf-8", "replace")
    except ssl.SSLCertVerificationError as error:
        remedy = "something between ends TLS, or it is not the federation's coordinator: ask the operator"
        yield failure("coordinator", f"its certificate does not verify ({error.verify_message})", remedy)
        return
    except ssl.SSLError as error:
        remedy = "see the certificate above, and ask the operator whether this member is revoked"
        yield failure("coordinator", f"{address} turned this certificate away ({error.reason})", remedy)
        return
    except (OSError, http.client.HTTPException) as error:
        remedy = "see whether a firewall or NetworkPolicy lets this machine reach it, and whether it runs"
        yield failure("coordinator", f"{address} does not answer: {error or type(error).__name__}", remedy)
        return
    finally:
        connection.close()
    if answer.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        yield failure("coordinator", f"{address} refuses this member: {said[:300]}", "ask the operator")
    else:
        yield ok("coordinator", f"{address} answers and takes this member's certificate")
    yield from check_clock(answer.headers.get("date", ""), asked)


def check_clock(date: str, now: datetime) -> Iterator[Finding]:
    """The clock of this machine agrees with a peer's, from the Date header (RFC 9110) of an answer."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        yield warning("clock", "the coordinator did not say what time it is", "compare this machine's clock yourself")
        return
    apart = abs(now - theirs)
    detail = f"{apart.total_seconds():.0f} s apart from the coordinator's"
    remedy = "have both machines take their time from a time service (chrony, systemd-timesyncd)"
    if apart > MUCH_SKEW:
        yield failure("clock", detail, remedy)
    elif apart > SKEW:
        yield warning("clock", detail, remedy)
    else:
        yield ok("clock", detail)
