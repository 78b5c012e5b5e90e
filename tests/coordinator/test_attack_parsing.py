"""What an enrolment costs: the manifest it makes is parsed once, however many members there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation.errors import ManifestError
from federation.home import Home
from federation.identity import Role
from federation.joining import prepare
from federation.manifest import accept_manifest, parse_manifest, verify_manifest

from .conftest import Founded


def test_an_enrolment_parses_one_manifest_once(found: Callable[..., Founded]):
    federation = found()
    hub = federation.member("hub", Role.COORDINATOR, "127.0.0.1:9443")
    authority = federation.authority
    for number in range(3):
        invitation = authority.invite(f"silo-{number}", Role.SILO, "DE", "127.0.0.1:9444")
        before = parse_manifest.cache_info().misses
        request = prepare(Home(federation.directory / f"silo-{number}"), invitation)
        certificate, manifest = authority.redeem(request, lambda: None)
        accept_manifest(hub, manifest.document.text, manifest.signature)
        authority.bundle(certificate)
        assert parse_manifest.cache_info().misses - before == 1


def test_a_manifest_that_was_parsed_is_verified_all_the_same(found: Callable[..., Founded]):
    """What is kept is a text's content, never that somebody signed it."""
    federation, other = found(), found(folder="other")
    text = federation.authority.manifest().document.text
    for signature in (other.authority.manifest().signature, federation.authority.manifest().signature[::-1]):
        with pytest.raises(ManifestError, match="not signed by this federation's authority"):
            verify_manifest(text, signature, federation.ca)
