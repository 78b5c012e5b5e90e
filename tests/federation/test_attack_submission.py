"""Statements that no operator made: other fields, other forms, other times; and what each submission has of its own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import IdentityError, SubmissionError, WireError
from federation.identity import Peer, Role, sign
from federation.limits import LIMITS
from federation.run import SignedRun, content_digest, parse_signed_run, sign_run, verify_signed_run
from federation.submission import CLOCK_SKEW, DOMAIN, LONGEST_VALIDITY, Submission, label_of, submission_of

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OPERATOR = Peer("cardio.example", Role.OPERATOR, "ops", b"")
CONTENT = ("sha256:" + "1" * 64, "sha256:" + "2" * 64)
GOOD = submission_of(CONTENT, OPERATOR, ["silo-b", "silo-a"], now=NOW)
FIELDS = json.loads(GOOD.dump())

CHANGES: list[tuple[str, Any]] = [
    ("run", "sha256:" + "1" * 63),
    ("run", "SHA256:" + "1" * 64),
    ("app", ""),
    ("federation", "Cardio.example"),
    ("federation", "a" * 200),
    ("operator", "ops\n"),
    ("operator", "\x1b[2J"),
    ("silos", []),
    ("silos", ["silo-b", "silo-a"]),
    ("silos", ["silo-a", "silo-a"]),
    ("silos", ["../silo-a"]),
    ("silos", "all"),
    ("silos", [f"s-{number:05}" for number in range(LIMITS.members + 1)]),
    ("nonce", "0" * 31),
    ("nonce", "0" * 33),
    ("nonce", "G" * 32),
    ("signed", "2026-11-24T12:00:00"),
    ("signed", "2026-11-24T13:00:00+01:00"),
    ("signed", "2026-11-24T12:00:00.5Z"),
    ("signed", "0001-01-01T00:00:00+23:00"),
    ("signed", 1_000_000),
    ("not_after", "9999-12-31T23:59:59-23:00"),
    ("not_after", None),
]


@pytest.mark.parametrize(("name", "value"), CHANGES, ids=lambda value: repr(value)[:40])
def test_a_field_that_is_not_of_its_form_is_refused(name: str, value: Any) -> None:
    with pytest.raises(WireError, match="got a statement"):
        Submission.load(rfc8785.dumps({**FIELDS, name: value}).decode())


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_statement_without_a_field_or_with_another_one_is_refused(name: str) -> None:
    fewer = {field: value for field, value in FIELDS.items() if field != name}
    for fields in (fewer, {**FIELDS, f"{name}2": "x"}):
        with pytest.raises(WireError, match="got a statement"):
            Submission.load(rfc8785.dumps(fields).decode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[" * 100_000,
        "NaN",
        GOOD.dump() + " ",
        " " + GOOD.dump(),
        json.dumps(FIELDS),
        GOOD.dump().replace('"run":', '"run":"sha256:' + "3" * 64 + '","run":'),
        GOOD.dump().replace("silo-a", "silo\\u002da"),
        GOOD.dump().replace("Z", "+00:00"),
    ],
    ids=lambda text: text[:30],
)
def test_another_writing_of_the_same_is_refused(text: str) -> None:
    """One statement has one form: else one signature could be read as two, or two forms as two submissions."""
    with pytest.raises(WireError):
        Submission.load(text)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_what_is_no_statement_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(WireError):
        Submission.load(text)


@given(place=st.integers(0, len(GOOD.dump()) - 1), character=st.characters(max_codepoint=0x2100))
def test_every_character_is_part_of_the_name(place: int, character: str) -> None:
    text = GOOD.dump()[:place] + character + GOOD.dump()[place + 1 :]
    try:
        other = Submission.load(text)
    except WireError:
        return
    assert (other.digest == GOOD.digest) == (text == GOOD.dump())


def test_the_same_run_is_another_submission_each_time() -> None:
    again = [submission_of(CONTENT, OPERATOR, GOOD.silos, now=NOW) for _ in range(50)]
    assert len({one.digest for one in (GOOD, *again)}) == len({one.nonce for one in (GOOD, *again)}) == 51
    assert Submission.load(GOOD.dump()) == GOOD


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (timedelta(), None),
        (-CLOCK_SKEW, None),
        (-CLOCK_SKEW - timedelta(seconds=1), "set the clocks"),
        (timedelta(days=7), None),
        (timedelta(days=7, seconds=1), "was good until"),
        (timedelta(days=4000), "was good until"),
    ],
)
def test_a_submission_is_open_from_its_signature_to_its_end(after: timedelta, words: str | None) -> None:
    if words is None:
        GOOD.require_open(NOW + after)
        return
    with pytest.raises(SubmissionError, match=words):
        GOOD.require_open(NOW + after)


@pytest.mark.parametrize("validity", [LONGEST_VALIDITY + timedelta(seconds=1), timedelta(), -timedelta(days=1)])
def test_nobody_can_sign_for_longer_nor_for_no_time(validity: timedelta) -> None:
    other = GOOD.model_copy(update={"not_after": GOOD.signed + validity})
    with pytest.raises(SubmissionError, match="at most 30 days"):
        other.require_open(NOW)


def test_the_largest_statement_fits_its_limit() -> None:
    names = [f"{number:04}-" + "x" * 58 for number in range(LIMITS.members)]
    federation = Peer("a" * 128, Role.OPERATOR, "o" * 63, b"")
    whole = submission_of(CONTENT, federation, names, now=NOW)
    assert len(whole.dump().encode()) < LIMITS.submission
    assert Submission.load(whole.dump()) == whole


@pytest.mark.parametrize(
    "text", ["", ".a", "-", "a/b", "a b", "a\n", "\u202e", "a" * (LIMITS.run_label + 1), "\x1b[31m"]
)
def test_an_id_of_another_form_is_none_and_is_not_printed_raw(text: str) -> None:
    with pytest.raises(WireError) as caught:
        label_of(text)
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    assert label_of("a" * LIMITS.run_label)


# -- whose it is


@pytest.fixture
def signed(federation: Any, run_text: str) -> SignedRun:
    home = federation.homes["ops"]
    return sign_run(run_text, b"app", home.private_key(), home.certificate.read_bytes(), ["silo-a", "silo-b"])


def test_one_operator_cannot_put_another_ones_submission_in_as_its_own(federation: Any, signed: SignedRun) -> None:
    """Else the number of the first could be used up by the second."""
    home = federation.homes["ops-b"]
    taken = SignedRun(
        signed.text,
        signed.submission,
        sign(home.private_key(), DOMAIN, signed.submission.content),
        home.certificate.read_bytes(),
    )
    with pytest.raises(IdentityError, match="does not verify for this operator: got ops-b, expected ops"):
        verify_signed_run(taken, federation.authority.manifest())


def test_a_signature_for_another_federation_is_refused(federation: Any, signed: SignedRun) -> None:
    home = federation.homes["ops"]
    elsewhere = signed.submission.model_copy(update={"federation": "other.example"})
    moved = SignedRun(
        signed.text, elsewhere, sign(home.private_key(), DOMAIN, elsewhere.content), home.certificate.read_bytes()
    )
    with pytest.raises(IdentityError, match=r"this federation: got cardio\.example, expected other\.example"):
        verify_signed_run(moved, federation.authority.manifest())


def test_a_signature_of_an_earlier_version_is_none(federation: Any, signed: SignedRun) -> None:
    """It was over the digest of text and app; neither its form nor its signature is taken."""
    home, digest = federation.homes["ops"], content_digest(signed.text, signed.app_digest)
    old = sign(home.private_key(), b"training run", digest.encode())
    with pytest.raises(IdentityError, match="does not verify"):
        verify_signed_run(
            SignedRun(signed.text, signed.submission, old, signed.operator_certificate), federation.authority.manifest()
        )
    fields = {**signed.fields(), "app_digest": signed.app_digest}
    del fields["submission"]
    with pytest.raises(WireError, match="submission"):
        parse_signed_run(fields)


def test_the_encoding_of_a_signature_makes_no_other_submission(federation: Any, signed: SignedRun) -> None:
    """ECDSA has two signatures for one content: (r, s) and (r, n - s). Both name one submission."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(signed.signature)
    other = SignedRun(signed.text, signed.submission, encode_dss_signature(r, order - s), signed.operator_certificate)
    verify_signed_run(other, federation.authority.manifest())
    assert other.digest == signed.digest
