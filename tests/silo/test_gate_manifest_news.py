"""The manifest that comes beside a message: taken over where it is newer, refused where it is older or forged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.authority.issuers import certify_issuer
from federation.identity import load_certificate, load_private_key
from federation.manifest import SignedManifest, load_manifest
from federation.wire import MANIFEST, MANIFEST_DIGEST, MANIFEST_SIGNATURE, Envelope, Kind
from silo.gate.parts import Membership

from .simulator import SILO, Consortium, GateBench, found_consortium, refused


@pytest.fixture
def ours(tmp_path: Path) -> Consortium:
    return found_consortium(tmp_path / "ours")


@pytest.fixture
def gate(ours: Consortium, short_path: Path) -> Iterator[GateBench]:
    bench = GateBench(ours, short_path)
    home = ours.homes[SILO]
    bench.handler = bench.make_handler(
        membership=Membership(lambda: (home.private_key(), load_certificate(b"")), lambda: load_manifest(home))
    )
    yield bench
    bench.close()


def beside(manifest: SignedManifest, **changes: str) -> Envelope:
    return Envelope({MANIFEST: manifest.document.text, MANIFEST_SIGNATURE: manifest.signature, **changes})


def test_a_newer_manifest_is_taken_over_and_an_older_one_or_a_forged_one_refused(gate: GateBench, ours: Consortium):
    authority, home = ours.authority, ours.homes[SILO]
    gate.ask(Kind.WITNESS, beside(ours.manifest))
    before = load_manifest(home)
    answer = gate.ask(Kind.WITNESS, Envelope())
    assert answer.config[MANIFEST_DIGEST] == before.document.digest, "nothing came, and it says what it has"

    root, key = load_certificate(authority.certificate.read_bytes()), load_private_key(authority.root_key)
    newest = authority.replace_issuer(certify_issuer(authority.request_issuer(), root, key, datetime.now(UTC)))
    answer = gate.ask(Kind.WITNESS, beside(newest))
    assert (answer.config["status"], answer.config[MANIFEST_DIGEST]) == ("ok", newest.document.digest)
    assert load_manifest(home).edition == (2, newest.version)

    for message in (beside(before), beside(newest, **{MANIFEST_SIGNATURE: before.signature})):
        answer = gate.ask(Kind.WITNESS, message)
        assert refused(answer) == "coordinator.manifest"
        assert (gate.last["decision"], gate.last["rule"]) == ("deny", "coordinator.manifest")
        assert answer.config[MANIFEST_DIGEST] == newest.document.digest
    assert load_manifest(home).document.digest == newest.document.digest
