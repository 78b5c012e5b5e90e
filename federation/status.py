"""How a member stands: its identity, its certificate's validity, the manifest it knows, the length of its log."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from audit.erasure import bound_of, oldest_overdue
from federation.durations import say_duration
from federation.errors import ConcordatError
from federation.home import Home, read_limited
from federation.identity import fingerprint, load_certificate
from federation.limits import LIMITS
from federation.manifest import load_manifest
from federation.membership import identify
from federation.renewal import certificate_of
from federation.trust import check_issuer, generation_of, load_chain


@dataclass(frozen=True)
class Status:
    """A member's standing at one moment; times are UTC in ISO 8601, `seconds_left` is negative once expired."""

    federation: str
    role: str
    name: str
    key: str
    serial: str
    expires: str
    seconds_left: int
    renewal_due: str
    issuer: int
    issuer_expires: str
    issuer_seconds_left: int
    root_expires: str
    root_seconds_left: int
    manifest_version: int
    log_entries: int
    retention: str
    """What the policy that was active last says of payloads; empty where nothing."""
    problem: str

    def fields(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            ("member", f"{self.name}, {self.role} of {self.federation}"),
            ("key", self.key),
            ("certificate", f"{self.serial[:16]}, {_validity(self.expires, self.seconds_left)}"),
            ("renewal", f"due {self.renewal_due}"),
            ("issuer", f"number {self.issuer}, {_validity(self.issuer_expires, self.issuer_seconds_left)}"),
            ("root", _validity(self.root_expires, self.root_seconds_left)),
            ("manifest", f"version {self.manifest_version}"),
            ("audit log", f"{self.log_entries} entries"),
            *([("retention", self.retention)] if self.retention else []),
            ("problem", self.problem or "none"),
        ]
        return [f"{name:12} {value}" for name, value in rows]


def status_of(home: Home, now: datetime | None = None) -> Status:
    """How a home stands; raises UsageError or IdentityError where it is no member's home."""
    now = now or datetime.now(UTC)
    peer = home.identity()
    certificate = certificate_of(home)
    manifest = load_manifest(home, expired=True)
    root = load_certificate(read_limited(home.authority, LIMITS.certificate))
    problem = ""
    try:
        check_issuer(manifest.issuer, root)
        identify(manifest, load_chain(read_limited(home.certificate, LIMITS.certificate))[0], now)
        home.private_key()
    except ConcordatError as error:
        problem = str(error)
    bound, overdue = bound_of(home.audit), oldest_overdue(home.audit, now)
    if overdue is not None and bound is not None:
        problem = problem or f"the log keeps a payload of {overdue:%Y-%m-%d}, past the policy's maximum"
    return Status(
        federation=peer.federation,
        role=peer.role.value,
        name=peer.name,
        key=fingerprint(peer.public_key),
        serial=certificate.serial,
        expires=certificate.expires.isoformat(timespec="seconds"),
        seconds_left=math.floor(certificate.left(now).total_seconds()),
        renewal_due=certificate.due.isoformat(timespec="seconds"),
        issuer=generation_of(manifest.issuer),
        issuer_expires=manifest.issuer.not_valid_after_utc.isoformat(timespec="seconds"),
        issuer_seconds_left=_seconds_left(manifest.issuer, now),
        root_expires=root.not_valid_after_utc.isoformat(timespec="seconds"),
        root_seconds_left=_seconds_left(root, now),
        manifest_version=manifest.version,
        log_entries=_entries(home),
        retention="" if bound is None else bound.text,
        problem=problem,
    )


def _seconds_left(certificate: x509.Certificate, now: datetime) -> int:
    return math.floor((certificate.not_valid_after_utc - now).total_seconds())


def _validity(expires: str, seconds_left: int) -> str:
    state = "valid" if seconds_left > 0 else "EXPIRED"
    span = say_duration(timedelta(seconds=abs(seconds_left)))
    left = f"{span} left" if seconds_left > 0 else f"since {span}"
    return f"{state} until {expires} ({left})"


def _entries(home: Home) -> int:
    """The size that the log's own checkpoint states (its second line)."""
    path = home.audit / "checkpoint"
    if not path.exists():
        return 0
    lines = read_limited(path, LIMITS.certificate).decode("utf-8", "replace").splitlines()
    return int(lines[1]) if len(lines) > 1 and lines[1].isdigit() else 0
