"""Every silo gets the newest manifest with its next message, and not again once it said that it has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.manifest_news import ManifestNews
from federation.errors import ManifestError
from federation.manifest import SignedManifest
from federation.wire import MANIFEST, MANIFEST_DIGEST, MANIFEST_SIGNATURE, Envelope

QUESTION = Envelope({"round": 1})


def test_it_goes_with_a_message_until_each_silo_said_that_it_has_it(found: Callable[..., Any]):
    first = found().authority.manifest()
    newest = [first]
    news = ManifestNews(lambda: newest[0])
    sent = news.beside(QUESTION, [1, 2])
    fields = {MANIFEST: first.document.text, MANIFEST_SIGNATURE: first.signature}
    assert sent.config == {**QUESTION.config, **fields}
    news.heard(1, Envelope({MANIFEST_DIGEST: first.document.digest}))
    assert MANIFEST in news.beside(QUESTION, [1, 2]).config, "2 has not said so"
    news.heard(2, Envelope({MANIFEST_DIGEST: first.document.digest}))
    assert news.beside(QUESTION, [1, 2]) == QUESTION
    assert MANIFEST in news.beside(QUESTION, [1, 3]).config
    news.heard(1, Envelope({}))
    assert MANIFEST in news.beside(QUESTION, [1]).config, "a gate that says nothing may have lost it"


def test_an_older_manifest_in_a_message_gives_way(found: Callable[..., Any]):
    """A gate that starts anew within a run is asked for admission with the manifest of now, not of the run's begin."""
    manifest = found().authority.manifest()
    news = ManifestNews(lambda: manifest)
    news.heard(1, Envelope({MANIFEST_DIGEST: manifest.document.digest}))
    admission = Envelope({MANIFEST: "of the beginning", MANIFEST_SIGNATURE: "its own"})
    assert news.beside(admission, [1]).config[MANIFEST] == manifest.document.text


def test_a_manifest_that_cannot_be_read_holds_no_message_up():
    def broken() -> SignedManifest:
        raise ManifestError("half copied")

    assert ManifestNews(broken).beside(QUESTION, [1]) == QUESTION
