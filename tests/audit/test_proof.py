from __future__ import annotations

import base64
import contextlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import AuditError, VerificationError
from audit.merkle import inclusion_proof, leaf_hash, root_of
from audit.note import parse_vkey, sign_note
from audit.proof import TlogProof, parse_proof, verify_proof

ENTRIES = [b"entry %d" % n for n in range(11)]
HASHES = [leaf_hash(entry) for entry in ENTRIES]


@pytest.fixture
def proof(origin: str, key: Ed25519PrivateKey) -> TlogProof:
    root = base64.b64encode(root_of(HASHES)).decode()
    note = sign_note(f"{origin}\n{len(HASHES)}\n{root}\n", origin, key)
    return TlogProof(6, tuple(inclusion_proof(HASHES, 6)), note, b"anything")


def test_the_text_is_the_published_format(proof: TlogProof) -> None:
    lines = proof.text.splitlines()
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", f"extra {base64.b64encode(b'anything').decode()}", "index 6"]
    assert [base64.b64decode(line) for line in lines[3:7]] == list(proof.path)
    assert lines[7] == ""
    assert proof.text.endswith(proof.checkpoint)


@pytest.mark.parametrize("extra", [None, b"", b"x"])
def test_what_was_written_is_read_back(proof: TlogProof, extra: bytes | None) -> None:
    proof = replace(proof, extra=extra)
    assert parse_proof(proof.text.encode()) == proof


def test_the_entry_is_proved_and_no_other(proof: TlogProof, vkey: str) -> None:
    assert verify_proof(proof, ENTRIES[6], parse_vkey(vkey)).size == 11
    for wrong, entry in (
        (proof, ENTRIES[7]),
        (replace(proof, index=7), ENTRIES[6]),
        (replace(proof, path=proof.path[:-1]), ENTRIES[6]),
        (replace(proof, checkpoint=proof.checkpoint.replace("\n11\n", "\n12\n")), ENTRIES[6]),
    ):
        with pytest.raises(VerificationError):
            verify_proof(wrong, entry, parse_vkey(vkey))


def test_a_proof_under_another_key_is_none(proof: TlogProof, origin: str) -> None:
    from audit.keys import vkey_of

    other = parse_vkey(vkey_of(origin, Ed25519PrivateKey.generate().public_key()))
    with pytest.raises(VerificationError, match="not signed"):
        verify_proof(proof, ENTRIES[6], other)


@given(st.data())
def test_only_our_error_escapes_the_parser(data: st.DataObject) -> None:
    good = b"c2sp.org/tlog-proof@v1\nextra AAAA\nindex 3\n" + base64.b64encode(bytes(32)) + b"\n\nnote\n"
    raw = data.draw(st.one_of(st.binary(max_size=200), st.just(good)))
    if raw == good:
        at = data.draw(st.integers(0, len(good) - 1))
        raw = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(AuditError):
        parse_proof(raw)
