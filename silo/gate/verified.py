"""Checks manifest, signature and form of what an operator submitted, before anything is decided about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from federation.errors import IdentityError, ManifestError
from federation.identity import Peer
from federation.manifest import SignedManifest
from federation.run import Run, SignedRun, parse_signed_run, verify_signed_run
from federation.statistics.document import Statistics
from federation.wire import Envelope
from policies.document import Document
from policies.errors import PolicyError
from policies.request import Party
from silo.gate.journal import Journal
from silo.gate.parts import Parts
from silo.gate.session import parties_of

S = TypeVar("S", Run, Statistics)


@dataclass(frozen=True)
class Verified(Generic[S]):
    """What was submitted, whose it is, and who takes part by the manifest that came with it."""

    signed: SignedRun
    document: Document[S]
    operator: Peer
    manifest: SignedManifest
    parties: tuple[Party, ...]


def verified(
    parts: Parts, journal: Journal, run_id: str, envelope: Envelope, load: Callable[[str], Document[S]]
) -> Verified[S]:
    """Read a submission with `load` and verify it; raises Refusal."""
    try:
        manifest = parts.accept_manifest(envelope.text("manifest"), envelope.text("manifest_signature"))
        parts.witnessing.use(manifest.federation)
        fields = {name: envelope.text(name) for name in ("run", "app_digest", "signature", "operator")}
        signed = parse_signed_run(fields)
        operator = verify_signed_run(signed, manifest)
        document = load(signed.text)
        parties = parties_of(manifest.federation, document.model, operator)
        return Verified(signed, document, operator, manifest, parties)
    except (IdentityError, ManifestError) as error:
        raise journal.refuse("run.signature", str(error), run_id) from None
    except PolicyError as error:
        raise journal.refuse("run.document", str(error)[:2000], run_id) from None
