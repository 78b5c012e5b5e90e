"""Who a connection's certificate stands for now, and which certificate of a member is its newest."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509

from federation.errors import ConcordatError, IdentityError
from federation.home import read_limited, replace_file
from federation.identity import Peer, fingerprint, load_der_certificate
from federation.json_text import parse_json
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.membership import identify
from federation.trust import check_valid, serial_of
from policies.errors import PolicyError

SUPERSEDED_KEPT = 16
_FILE = 4 * LIMITS.document
"""What the file may have: as many members as a manifest names, and as many that left, with the longest names."""
OnNew = Callable[[Peer, dict[str, str | int | bool]], None]


@dataclass(frozen=True)
class _Newest:
    """The newest certificate seen of a member, and those that it superseded, latest first."""

    issued: float
    serial: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Known:
    manifest: str
    peer: Peer
    certificate: x509.Certificate


class Identities:
    """Checks certificates against the newest manifest, and keeps the newest certificate seen of each member.

    Once a member has used a newer certificate, an older one of its is refused: whoever still has the old key is not it.
    Thread-safe.
    """

    def __init__(self, manifest: Callable[[], SignedManifest], path: Path, on_new: OnNew) -> None:
        self._manifest = manifest
        self._path = path
        self._on_new = on_new
        self._lock = threading.Lock()
        self._checked: dict[bytes, _Known] = {}
        self._newest: dict[str, _Newest] = _load(path)

    def __call__(self, der: bytes) -> Peer:
        """The member that a certificate (DER) stands for; raises IdentityError with the reason."""
        known = self._known(der)
        check_valid(known.certificate)
        self._check_newest(known)
        return known.peer

    def name_of(self, der: bytes) -> str | None:
        """The name of the member that a certificate (DER) was issued to, also where a newer one superseded it."""
        try:
            return self._known(der).peer.name
        except IdentityError:
            return None

    def _known(self, der: bytes) -> _Known:
        try:
            manifest = self._manifest()
        except (ConcordatError, PolicyError, OSError) as error:
            raise IdentityError(str(error)) from None
        known = self._checked.get(der)
        if known is None or known.manifest != manifest.document.digest:
            certificate = load_der_certificate(der)
            known = _Known(manifest.document.digest, identify(manifest, certificate), certificate)
            with self._lock:
                if len(self._checked) >= 4 * LIMITS.members:
                    self._checked.clear()
                self._checked[der] = known
        return known

    def _check_newest(self, known: _Known) -> None:
        certificate, name = known.certificate, known.peer.name
        serial, issued = serial_of(certificate), certificate.not_valid_before_utc.timestamp()
        with self._lock:
            seen = self._newest.get(name)
            if seen is not None and seen.serial == serial:
                return
            if seen is not None and (seen.issued > issued or serial in seen.before):
                raise IdentityError(
                    f"this certificate of {name} ({serial[:16]}) was superseded by a newer one ({seen.serial[:16]})",
                    advice="use the newest; if that one is not yours, tell the operator at once",
                )
            # Recorded first: a use that cannot be recorded does not happen.
            self._on_new(
                known.peer,
                {
                    "serial": serial,
                    "key": fingerprint(known.peer.public_key),
                    "expires": certificate.not_valid_after_utc.isoformat(timespec="seconds"),
                    "before": seen.serial if seen else "",
                },
            )
            before = (seen.serial, *seen.before)[:SUPERSEDED_KEPT] if seen else ()
            newest = {**self._newest, name: _Newest(issued, serial, before)}
            content = {one: asdict(state) for one, state in sorted(newest.items())}
            replace_file(self._path, json.dumps(content).encode())
            self._newest = newest


def _load(path: Path) -> dict[str, _Newest]:
    if not path.exists():
        return {}
    try:
        content = parse_json(read_limited(path, _FILE))
        return {
            str(name): _Newest(float(one["issued"]), str(one["serial"]), tuple(map(str, one["before"])))
            for name, one in content.items()
        }
    except (ValueError, TypeError, AttributeError, KeyError):
        raise IdentityError(
            f"{path} is damaged", advice="move it away: each member's newest certificate is then learned anew"
        ) from None
