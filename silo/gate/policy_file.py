"""The policy's file under a running gate: notices a new one, and takes it only if it is whole, signed and newer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import ConcordatError, ManifestError
from federation.signed_policy import load_active_policy
from policies.bundle import ActiveVersion, check_succession
from policies.document import Document
from policies.errors import PolicyError
from policies.model import SiloPolicy

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Rejected:
    """A file that does not become the active policy, and why."""

    reason: str


class PolicyFile:
    """One policy's file, the key of who signs it (None: no signature is asked for), and the silo's country."""

    def __init__(
        self, path: Path, signer: ec.EllipticCurvePublicKey | None = None, country: Callable[[], str] | None = None
    ) -> None:
        self._path, self._signer, self._country = path, signer, country
        self._seen: Stamp | None = None
        self._digest: str | None = None

    def first(self) -> Document[SiloPolicy]:
        """The policy to start with. Raises ConcordatError or PolicyError."""
        self._seen = self._stamp()
        policy = self._load(None)
        self._digest = policy.digest
        return policy

    def poll(self, active: ActiveVersion) -> Document[SiloPolicy] | Rejected | None:
        """A newer policy, or why what lies there now is refused; None where nothing changed since the last call."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            policy = self._load(active)
        except (ConcordatError, PolicyError, OSError) as error:
            return Rejected(str(error))
        if policy.digest == self._digest:
            return None
        self._digest = policy.digest
        return policy

    def _stamp(self) -> Stamp | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load(self, last: ActiveVersion | None) -> Document[SiloPolicy]:
        policy = load_active_policy(self._path, self._signer, self._path.name)
        check_succession(last, policy)
        if self._country is not None:
            check_country(policy, self._country())
        return policy


def check_country(policy: Document[SiloPolicy], country: str) -> None:
    """Raise ManifestError unless the policy is written for the country in which the manifest puts this silo."""
    if policy.model.residency.silo != country:
        raise ManifestError(
            f"the policy places this silo in {policy.model.residency.silo} "
            f"({policy.locate(('residency', 'silo'))}), the manifest in {country}",
            advice="correct the one that is wrong",
        )
