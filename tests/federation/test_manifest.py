from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from federation import run
from federation.errors import ManifestError
from federation.home import Home
from federation.identity import Role, load_certificate, load_private_key, new_key, sign
from federation.limits import LIMITS
from federation.manifest import (
    Federation,
    ManifestMetadata,
    Member,
    accept_manifest,
    dump,
    load_manifest,
    sign_manifest,
    store_manifest,
    verify_manifest,
)
from policies.document import load_document
from policies.errors import DocumentError


class Signer:
    """Signs any edition with the federation's own key."""

    def __init__(self, founded: Any) -> None:
        self.key = load_private_key(founded.authority.key)
        self.issuer = load_certificate(founded.authority.issuer.read_bytes())
        self.ca: x509.Certificate = founded.ca
        self.name: str = founded.name

    def edition(self, version: int, *members: Member, name: str | None = None) -> tuple[str, str]:
        metadata = ManifestMetadata(name=name or self.name, version=version)
        text = dump(Federation(apiVersion="concordat/v1", kind="Federation", metadata=metadata, members=members))
        return text, self.sign(text)

    def sign(self, text: str) -> str:
        return sign_manifest(text, self.key, self.issuer)


@pytest.fixture
def signer(federation: Any) -> Signer:
    return Signer(federation)


@pytest.fixture
def home(federation: Any, tmp_path: Path) -> Home:
    """A home that trusts the authority and has no manifest yet."""
    home = Home(tmp_path / "home")
    home.create()
    home.authority.write_bytes(federation.authority.certificate.read_bytes())
    return home


def member(name: str, role: Role = Role.SILO) -> Member:
    return Member(name=name, role=role, country="DE")


def test_a_signed_manifest_says_who_belongs(federation: Any):
    signed = load_manifest(federation.homes["silo-a"])
    assert signed.version == 7
    assert [(m.name, m.role.value) for m in signed.federation.members] == [
        ("hub", "coordinator"),
        ("ops", "operator"),
        ("ops-b", "operator"),
        ("aud", "auditor"),
        ("silo-a", "silo"),
        ("silo-b", "silo"),
    ]
    assert signed.federation.coordinator.name == "hub"
    assert [m.name for m in signed.federation.with_role(Role.SILO)] == ["silo-a", "silo-b"]
    assert signed.federation.member("aud").country == "DE"
    with pytest.raises(ManifestError, match="silo-c is not a member"):
        signed.federation.member("silo-c")


def test_a_manifest_names_exactly_one_coordinator_when_asked(signer: Signer):
    hubs = [member("hub", Role.COORDINATOR), member("hub-b", Role.COORDINATOR)]
    for members in ([], hubs):
        signed = verify_manifest(*signer.edition(1, *members), signer.ca)
        with pytest.raises(ManifestError, match=f"got {len(members)} coordinators"):
            _ = signed.federation.coordinator


def test_a_name_stands_once(signer: Signer):
    text, _ = signer.edition(1, member("a"), member("b"))
    doubled = text.replace("name: b", "name: a")
    with pytest.raises(DocumentError, match=r"manifest\.yaml:\d+:9: got \"a\", expected each member's name once"):
        verify_manifest(doubled, signer.sign(doubled), signer.ca)


def test_a_revoked_name_is_not_a_members(signer: Signer):
    text = signer.edition(1, member("a"))[0].replace("revoked: []\n", "")
    revoked = text.replace("members:", "revoked:\n- name: a\n  date: 2026-11-02\n  reason: left\nmembers:")
    with pytest.raises(DocumentError, match="expected a name that was never revoked"):
        verify_manifest(revoked, signer.sign(revoked), signer.ca)
    other = revoked.replace("- name: a\n  date", "- name: b\n  date")
    signed = verify_manifest(other, signer.sign(other), signer.ca)
    with pytest.raises(ManifestError, match=r"b was revoked on 2026-11-02 \(left\)"):
        signed.federation.member("b")


def test_a_signed_manifest_with_an_unknown_field_is_refused_at_its_place(signer: Signer):
    text = signer.edition(1)[0] + "secret: 1\n"
    with pytest.raises(DocumentError, match=r"manifest\.yaml:\d+:1: "):
        verify_manifest(text, signer.sign(text), signer.ca)


NAMES = st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True)
MEMBERS = st.lists(
    st.builds(
        Member,
        name=NAMES,
        role=st.sampled_from(Role),
        country=st.sampled_from(["DE", "FR", "NO", "US"]),
        addresses=st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=20)).map(tuple),
        log=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=40),
    ),
    unique_by=lambda m: m.name,
    max_size=4,
).map(tuple)


@given(NAMES, st.integers(1, 10**9), MEMBERS)
def test_a_manifest_reads_back_as_it_was_written(name: str, version: int, members: tuple[Member, ...]):
    metadata = ManifestMetadata(name=name, version=version)
    federation = Federation(apiVersion="concordat/v1", kind="Federation", metadata=metadata, members=members)
    assert load_document(dump(federation), Federation).model == federation


# -- signatures


def test_every_changed_byte_is_noticed(signer: Signer):
    text, signature = signer.edition(3, member("a"))
    verify_manifest(text, signature, signer.ca)
    for position in range(len(text)):
        changed = text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :]
        with pytest.raises(ManifestError, match="not signed by this federation's authority"):
            verify_manifest(changed, signature, signer.ca)


def test_every_changed_byte_of_the_signature_is_noticed(signer: Signer):
    """But where the number of unused bits after the issuer's signature is one and not none, which changes nothing."""
    text, signature = signer.edition(3, member("a"))
    parts = [base64.b64decode(part) for part in signature.split(".")]
    count = len(parts[1]) - len(signer.issuer.signature) - 1
    for index, raw in enumerate(parts):
        for position in range(len(raw)):
            if (index, position) == (1, count) and not signer.issuer.signature[-1] & 1:
                continue
            changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
            forged = [base64.b64encode(part).decode() for part in (*parts[:index], changed, *parts[index + 1 :])]
            with pytest.raises(ManifestError):
                verify_manifest(text, ".".join(forged), signer.ca)


def test_anothers_signature_is_refused(signer: Signer, federation: Any):
    text, signature = signer.edition(1)
    proof, _, certificate = signature.partition(".")
    other_use = base64.b64encode(sign(signer.key, run.DOMAIN, text.encode())).decode() + "." + certificate
    other_key = sign_manifest(text, new_key(), signer.issuer)
    other_text = signer.sign(text + " ")
    silo = federation.homes["silo-a"]
    by_a_member = sign_manifest(text, silo.private_key(), load_certificate(silo.certificate.read_bytes()))
    odd = ["", "=", ".", proof, proof + ".", proof[:-4] + "." + certificate, "." + certificate, certificate]
    odd += [signature + end for end in ("\u00e9", "\ud800", "\n!", "." + certificate)] + [signature[:-4]]
    odd += ["A" * (LIMITS.manifest_signature + 1)]
    for wrong in (other_use, other_key, other_text, by_a_member, *odd):
        with pytest.raises(ManifestError):
            verify_manifest(text, wrong, signer.ca)


def test_a_manifest_that_is_too_large_or_no_text_is_refused(signer: Signer):
    for text in ("#" * (LIMITS.document + 1), "\ud800"):
        with pytest.raises(ManifestError):
            verify_manifest(text, "AAAA", signer.ca)


@pytest.mark.parametrize("name", ["manifest.yaml", "manifest.sig"])
def test_a_damaged_manifest_in_a_home_is_refused(federation: Any, copy: Callable[[Home], Home], name: str):
    chance = random.Random(name)
    home = copy(federation.homes["ops"])
    path = home.path / name
    content = path.read_bytes()
    # The signature of the manifest before stands beside the newest, and is not needed for it.
    needed = len(content) if name == "manifest.yaml" else content.index(b"\n") + 1
    for _ in range(60):
        position, byte = chance.randrange(needed - 1), chance.randrange(256)
        if content[position] == byte:
            continue
        path.write_bytes(content[:position] + bytes([byte]) + content[position + 1 :])
        with pytest.raises(ManifestError):
            load_manifest(home)


# -- taking over another edition


def test_a_newer_edition_is_taken_over(signer: Signer, home: Home):
    for version in (1, 2, 5):
        text, signature = signer.edition(version, member("a"))
        assert accept_manifest(home, text, signature).version == version
        assert load_manifest(home).version == version
    before = home.manifest.stat().st_mtime_ns
    assert accept_manifest(home, text, signature).version == 5
    assert home.manifest.stat().st_mtime_ns == before


def test_an_edition_that_must_not_be_taken_over_leaves_the_known_one(
    signer: Signer, home: Home, contents: Callable[[Path], Any]
):
    accept_manifest(home, *signer.edition(5, member("a"), member("left")))
    before = contents(home.path)
    refused = {
        "expected at least 5": signer.edition(4, member("a"), member("left"), member("came-back")),
        "second manifest with version 5": signer.edition(5, member("a")),
        "got a manifest of other.example": signer.edition(6, member("a"), name="other.example"),
        "not signed": (signer.edition(6)[0], signer.edition(5)[1]),
    }
    for reason, (text, signature) in refused.items():
        with pytest.raises(ManifestError, match=reason):
            accept_manifest(home, text, signature)
        assert contents(home.path) == before


def test_a_crash_between_the_two_files_leaves_the_manifest_before(signer: Signer, home: Home, tmp_path: Path):
    first = accept_manifest(home, *signer.edition(1))
    text, signature = signer.edition(2, member("a"))
    half = Home(tmp_path / "half")
    half.create()
    store_manifest(half.path, text, signature, first)
    half.manifest_signature.replace(home.manifest_signature)
    assert load_manifest(home).version == 1
    assert accept_manifest(home, text, signature).version == 2
    assert load_manifest(home).version == 2
    # The signature before counts for its own manifest alone.
    home.manifest.write_text(signer.edition(1, member("b"))[0])
    with pytest.raises(ManifestError, match="does not verify"):
        load_manifest(home)


def test_a_manifest_is_read_whole_while_it_is_replaced(signer: Signer, home: Home):
    accept_manifest(home, *signer.edition(1))
    editions = [signer.edition(version, member("a")) for version in range(2, 60)]
    writer = threading.Thread(target=lambda: [accept_manifest(home, *edition) for edition in editions])
    writer.start()
    seen = [1]
    while writer.is_alive():
        seen.append(load_manifest(home).version)
    writer.join()
    assert load_manifest(home).version == 59
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
