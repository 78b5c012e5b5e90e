"""The list of every certificate that an authority issued: one JSON object a line, forced to disk before it is used."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from federation.identity import fingerprint, peer_of
from federation.json_text import parse_json
from federation.trust import generation_of, serial_of


@dataclass(frozen=True)
class Issued:
    """The list in a file, which may be absent."""

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Its lines, oldest first; one torn by a crash is left out."""
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    yield parse_json(line)

    def add(self, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> None:
        """Enter a member's certificate."""
        peer = peer_of(certificate)
        line = {
            "serial": serial_of(certificate),
            "name": peer.name,
            "role": peer.role.value,
            "issued": now.isoformat(timespec="seconds"),
            "expires": certificate.not_valid_after_utc.isoformat(timespec="seconds"),
            "key": fingerprint(peer.public_key),
            "issuer": generation_of(issuer),
        }
        with self.path.open("ab+") as file:
            # A line torn by a crash stays alone; its certificate never left this process.
            torn = file.tell() > 0 and self.path.read_bytes()[-1:] != b"\n"
            file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def is_newest(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is the one that its member was issued last."""
        peer = peer_of(certificate)
        asked = {"serial": serial_of(certificate), "key": fingerprint(peer.public_key), "role": peer.role.value}
        newest = self._newest().get(peer.name, {})
        return {name: newest.get(name) for name in asked} == asked

    def remaining(self, generations: Collection[int], now: datetime) -> list[str]:
        """The names whose newest certificate is still valid and of one of these issuing authorities."""
        return [
            name
            for name, line in sorted(self._newest().items())
            if line.get("issuer", 1) in generations and datetime.fromisoformat(line["expires"]) > now
        ]

    def _newest(self) -> dict[str, dict[str, Any]]:
        return {line["name"]: line for line in self}
