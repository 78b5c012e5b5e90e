from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from audit import verify
from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.note import Checkpoint, open_checkpoint, open_note, parse_note, parse_vkey, sign_note, verifier_key

# The worked example of Go's package golang.org/x/mod/sumdb/note.
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NEUMANN_NOTE = (
    NEUMANN_TEXT + "\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ROOT = bytes(range(32))


def test_the_published_example_verifies():
    assert open_note(NEUMANN_NOTE.encode(), parse_vkey(NEUMANN)) == NEUMANN_TEXT
    assert str(parse_vkey(NEUMANN)) == NEUMANN
    assert parse_vkey("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8").name == "sum.golang.org"


def test_a_checkpoint_round_trips_in_both_readers(key: Ed25519PrivateKey, origin: str, vkey: str):
    head = Checkpoint(origin, 20852163, ROOT)
    note = sign_note(head.text, origin, key)
    assert note.startswith(f"{origin}\n20852163\n{base64.b64encode(ROOT).decode()}\n\n— {origin} ")
    assert open_checkpoint(note.encode(), parse_vkey(vkey)) == head
    assert verify.open_checkpoint(note.encode(), *verify.parse_vkey(vkey)) == (20852163, ROOT)


@pytest.mark.parametrize("lines", [("extension",), ("a b", "— x AAAA", "\u2028", "1"), ("x" * 1000,) * 50])
def test_lines_that_extend_a_checkpoint_are_kept_in_both_readers(
    key: Ed25519PrivateKey, origin: str, vkey: str, lines: tuple[str, ...]
):
    head = Checkpoint(origin, 7, ROOT, lines)
    note = sign_note(head.text, origin, key).encode()
    assert open_checkpoint(note, parse_vkey(vkey)) == head
    assert verify.open_checkpoint(note, *verify.parse_vkey(vkey)) == (7, ROOT)
    refusals(note.replace(lines[0].encode() + b"\n", b"", 1), vkey)
    refusals(sign_note(head.text + "\n", origin, key).encode(), vkey)


def test_signatures_of_others_are_ignored_and_a_bad_one_of_ours_is_not(key: Ed25519PrivateKey, origin: str, vkey: str):
    text = Checkpoint(origin, 3, ROOT).text
    other = sign_note(text, "witness.example/w", Ed25519PrivateKey.generate()).partition("\n\n")[2]
    note = sign_note(text, origin, key)
    assert open_checkpoint((note + other).encode(), parse_vkey(vkey)).size == 3
    assert verify.open_checkpoint((note + other).encode(), *verify.parse_vkey(vkey))[0] == 3
    forged = parse_vkey(vkey).key_id + bytes(64)
    bad = note + f"— {origin} {base64.b64encode(forged).decode()}\n"
    refusals(bad.encode(), vkey)
    refusals((text + "\n" + other).encode(), vkey)


def refusals(note: bytes, vkey: str) -> None:
    """Both readers refuse the note."""
    with pytest.raises(VerificationError):
        open_checkpoint(note, parse_vkey(vkey))
    with pytest.raises(verify.VerificationFailure):
        verify.open_checkpoint(note, *verify.parse_vkey(vkey))


@pytest.mark.parametrize(
    "text",
    [
        "{origin}\n03\n{root}\n",
        "{origin}\n-3\n{root}\n",
        "{origin}\n3\n",
        "{origin}\n3\nAAAA\n",
        "other.example/log\n3\n{root}\n",
        "{origin}\n3\n{root}\n\nmore\n",
    ],
)
def test_signed_text_that_is_no_checkpoint_is_refused(key: Ed25519PrivateKey, origin: str, vkey: str, text: str):
    text = text.format(origin=origin, root=base64.b64encode(ROOT).decode())
    refusals(sign_note(text, origin, key).encode(), vkey)


def test_spellings_that_are_not_canonical_are_refused(key: Ed25519PrivateKey, origin: str, vkey: str):
    note = sign_note(Checkpoint(origin, 3, ROOT).text, origin, key)
    last = note[-3]  # before "=" and the line feed: its two lowest bits are padding
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for sloppy in (
        note[:-3] + alphabet[alphabet.index(last) + 1] + "=\n",
        note[:-1],
        note + "\n",
        note[:-2] + "\n",
    ):
        refusals(sloppy.encode(), vkey)
    refusals(note.replace("— ", "- ").encode(), vkey)
    refusals(note.replace("\n", "\r\n").encode(), vkey)
    refusals(b"\xff" + note.encode(), vkey)
    line = note.partition("\n\n")[2]
    refusals((note + line * LIMITS.note_signatures).encode(), vkey)


def test_bad_names_and_texts_are_not_signed(key: Ed25519PrivateKey):
    for name in ("", "with space", "with+plus", "ümlaut", "x" * 256, "a\nb"):
        with pytest.raises(VerificationError, match="expected 1 to 255"):
            sign_note("text\n", name, key)
    for text in ("no line feed", "tab\t\n", ""):
        with pytest.raises(VerificationError, match="expected lines"):
            sign_note(text, "name", key)


def test_vkeys_that_do_not_fit_are_refused(vkey: str):
    name, key_id, blob = vkey.split("+", 2)
    wrong_id = "00000000" if key_id != "00000000" else "00000001"
    ecdsa = base64.b64encode(b"\x02" + base64.b64decode(blob)[1:]).decode()
    for text in (
        "",
        name,
        f"{name}+{wrong_id}+{blob}",
        f"{name}+{key_id.upper()}x+{blob}",
        f"{name}+{key_id}+{ecdsa}",
        f"{name}+{key_id}+{blob[:-4]}",
        vkey + "\n",
        f"x{vkey}",
    ):
        with pytest.raises(VerificationError):
            parse_vkey(text)
        with pytest.raises(verify.VerificationFailure):
            verify.parse_vkey(text)


@given(st.text() | st.from_regex(r"[!-~]{1,9}\+[0-9a-f]{8}\+A[A-Za-z0-9+/]{43}", fullmatch=True))
def test_vkey_readers_agree_and_raise_one_error_only(text: str):
    try:
        ours = parse_vkey(text)
    except VerificationError:
        ours = None
    try:
        theirs = verify.parse_vkey(text)
    except verify.VerificationFailure:
        theirs = None
    assert (ours and (ours.name, ours.key_id, ours.public)) == theirs


@given(
    st.binary()
    | st.lists(
        st.sampled_from(["— ", "a/b", " ", "\n", "\n\n", "x08go/ZJkuBS", "=", "AAAAAAAAAA==", "7", "+", "\t", "é"])
    ).map(lambda parts: "".join(parts).encode())
)
@example(b"\n\n\xe2\x80\x94 a AAAAAAA=\n")
def test_note_readers_raise_one_error_only(data: bytes):
    with contextlib.suppress(VerificationError):
        parse_note(data)
    with pytest.raises(VerificationError):
        open_checkpoint(data, parse_vkey(NEUMANN))
    with pytest.raises(verify.VerificationFailure):
        verify.open_checkpoint(data, *verify.parse_vkey(NEUMANN))


def test_oversized_notes_are_refused_unread(vkey: str):
    with pytest.raises(VerificationError, match="at most"):
        parse_note(b"x" * (LIMITS.note + 1))


def test_the_verifiers_limits_are_the_packages():
    theirs = (verify.MAX_ENTRY, verify.MAX_PAYLOAD, verify.MAX_NOTE, verify.MAX_SIGNATURES)
    assert theirs == (LIMITS.entry, LIMITS.payload, LIMITS.note, LIMITS.note_signatures)


def test_a_verifier_key_has_the_key_id_of_the_specification(key: Ed25519PrivateKey, origin: str, vkey: str):
    ours = verifier_key(origin, key.public_key())
    assert str(ours) == vkey
    assert vkey.split("+")[1] == ours.key_id.hex()
