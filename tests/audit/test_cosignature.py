from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.cosignature import cosign, cosigned, cosigned_at, cosigner_id, with_signature
from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.note import parse_note, parse_vkey, sign_note, verifier_key
from audit.verify import check_ed25519

WITNESS = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
NAME = "b.example/silo/w1"
PUBLISHED = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501  the specification's example


@pytest.fixture
def note(origin: str, key: Ed25519PrivateKey) -> str:
    return sign_note(f"{origin}\n7\n{base64.b64encode(bytes(32)).decode()}\n", origin, key)


def test_the_line_is_what_the_specification_says(note: str) -> None:
    text = parse_note(note.encode()).text
    line = cosign(text, NAME, WITNESS, 1679315147)
    name, blob = line.removeprefix("— ").split(" ")
    raw = base64.b64decode(blob)
    key = verifier_key(NAME, WITNESS.public_key())
    assert (name, raw[:4], int.from_bytes(raw[4:12], "big"), len(raw)) == (NAME, cosigner_id(key), 1679315147, 76)
    check_ed25519(key.public, b"cosignature/v1\ntime 1679315147\n" + text.encode(), raw[12:])


def test_the_published_example_has_our_layout() -> None:
    signature = parse_note(PUBLISHED.encode()).signatures[1][2]
    assert (len(signature), int.from_bytes(signature[:8], "big")) == (72, 1679315147)


def test_a_key_cosigns_under_another_id_than_it_signs(vkey: str) -> None:
    assert cosigner_id(parse_vkey(vkey)) != parse_vkey(vkey).key_id


def test_known_witnesses_count_and_no_others(note: str, vkey: str, key: Ed25519PrivateKey, origin: str) -> None:
    text, log = parse_note(note.encode()).text, parse_vkey(vkey)
    known = verifier_key(NAME, WITNESS.public_key())
    stranger = Ed25519PrivateKey.generate()
    whole = with_signature(note, cosign(text, NAME, WITNESS, 100))
    whole = with_signature(whole, cosign(text, "stranger/w", stranger, 200))
    whole = with_signature(whole, cosign(text, origin, key, 300))
    found = cosigned(whole.encode(), log, [known, log])
    assert (found.size, found.witnesses) == (7, {NAME: 100})
    assert found.age(160.0) == 60.0
    assert cosigned(note.encode(), log, [known]).age(160.0) == float("inf")


def test_a_newer_line_of_a_witness_takes_the_place_of_the_older(note: str) -> None:
    text, witness = parse_note(note.encode()).text, verifier_key(NAME, WITNESS.public_key())
    for seconds in (100, 200):
        note = with_signature(note, cosign(text, NAME, WITNESS, seconds))
    assert len(parse_note(note.encode()).signatures) == 2
    assert cosigned_at(parse_note(note.encode()), witness) == 200


@pytest.mark.parametrize("what", ["time", "text", "key", "length"])
def test_a_cosignature_on_something_else_does_not_count(note: str, what: str) -> None:
    text, witness = parse_note(note.encode()).text, verifier_key(NAME, WITNESS.public_key())
    line = cosign(text if what != "text" else text.replace("\n7\n", "\n8\n"), NAME, WITNESS, 100)
    raw = bytearray(base64.b64decode(line.split(" ")[2]))
    if what == "time":
        raw[11] ^= 1
    if what == "length":
        raw = raw[:-1]
    line = f"— {NAME} {base64.b64encode(raw).decode()}"
    if what == "key":
        witness = replace(witness, public=verifier_key(NAME, Ed25519PrivateKey.generate().public_key()).public)
    with pytest.raises(VerificationError, match=r"does not verify|not cosigned"):
        cosigned_at(parse_note(with_signature(note, line).encode()), witness)


def test_a_note_has_room_for_so_many_lines(note: str) -> None:
    text = parse_note(note.encode()).text
    note += "".join(f"{cosign(text, f'{NAME}/{n}', WITNESS, n)}\n" for n in range(LIMITS.note_signatures - 1))
    with pytest.raises(VerificationError, match="signature lines"):
        with_signature(note, cosign(text, NAME, WITNESS, 64))
