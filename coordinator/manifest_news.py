"""Has every silo get the newest manifest with the next message it is sent, also within a run and between runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from federation.errors import ConcordatError
from federation.manifest import SignedManifest
from federation.wire import MANIFEST, MANIFEST_DIGEST, MANIFEST_SIGNATURE, Envelope
from policies.errors import PolicyError


class ManifestNews:
    """Knows from each silo's answers which manifest it has."""

    def __init__(self, manifest: Callable[[], SignedManifest]) -> None:
        self._manifest = manifest
        self._held: dict[int, str] = {}

    def beside(self, envelope: Envelope, nodes: Iterable[int]) -> Envelope:
        """A message with the newest manifest, unless each of these nodes said that it has it.

        A manifest that the message brings of its own gives way to the newest: a gate refuses an older one.
        """
        try:
            newest = self._manifest()
        except (ConcordatError, PolicyError, OSError):
            return envelope  # half copied; the watch says so
        digest = newest.document.digest
        if MANIFEST not in envelope.config and all(self._held.get(node) == digest for node in nodes):
            return envelope
        fields = {MANIFEST: newest.document.text, MANIFEST_SIGNATURE: newest.signature}
        return replace(envelope, config={**envelope.config, **fields})

    def heard(self, node: int, answer: Envelope) -> None:
        """Note which manifest a node said that it has."""
        self._held[node] = str(answer.config.get(MANIFEST_DIGEST, ""))[:100]
