"""What silos sign of the models they took: the chain, its form on the wire, and what a gate does not go on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import VerificationError
from audit.note import decode_base64, verifier_key
from federation.limits import LIMITS
from federation.receipts import (
    EVALUATION,
    Shown,
    Step,
    beginning,
    element,
    extended,
    follow,
    require_receipts,
    sign_receipt,
    step_of,
    verify_receipt,
)

NAMES = ("a", "b", "c")
SECRETS = {name: Ed25519PrivateKey.from_private_bytes(name.encode() * 32) for name in NAMES}
KEYS = {name: verifier_key(f"fed/silo/{name}", key.public_key()) for name, key in SECRETS.items()}
START = beginning("run-1", "sha256:" + "1" * 64)
LINKS = [element("round.begin", number, f"sha256:{number:064d}", {}) for number in range(1, 7)]
HISTORIES = [START]
for _link in LINKS:
    HISTORIES.append(extended(HISTORIES[-1], _link))


def shown(step: int, base: int = 0, signers: tuple[str, ...] = NAMES) -> Shown:
    """What comes with the model of a step where these silos took the one before."""
    receipts = {name: sign_receipt(SECRETS[name], step - 1, HISTORIES[step - 1]) for name in signers if step > 1}
    return Shown(base, HISTORIES[base], tuple(LINKS[base : step - 1]), receipts)


def test_a_history_by_hand() -> None:
    first = b"concordat/history/v1\nsha256:d\nr\n"
    link = b'{"action":"round.begin","model":"sha256:m","round":1,"said":{"clip_norm":"1.0"}}'
    digests = ["sha256:" + hashlib.sha256(data).hexdigest() for data in (first, link)]
    both = "sha256:" + hashlib.sha256(f"{digests[0]}\n{digests[1]}\n".encode()).hexdigest()
    assert beginning("r", "sha256:d") == digests[0]
    assert element("round.begin", 1, "sha256:m", {"clip_norm": "1.0"}) == digests[1]
    assert extended(digests[0], digests[1]) == both
    receipt = sign_receipt(SECRETS["a"], 1, both)
    SECRETS["a"].public_key().verify(decode_base64(receipt), f"concordat/receipt/v1\n1\n{both}\n".encode())
    assert (step_of("round.begin", 3), step_of(EVALUATION, 3)) == (3, 4)


@pytest.mark.parametrize(
    "change",
    [{"action": EVALUATION}, {"number": 2}, {"model": "sha256:n"}, {"said": {"clip_norm": "2.0"}}, {"said": {}}],
)
def test_a_link_binds_all_that_every_silo_has_to_be_told(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"action": "round.begin", "number": 1, "model": "sha256:m", "said": {"clip_norm": "1.0"}}
    assert element(**fields) != element(**{**fields, **change})


@pytest.mark.parametrize(("name", "step", "history"), [("b", 2, 2), ("a", 3, 2), ("a", 2, 3)])
def test_a_receipt_is_of_one_silo_one_step_and_one_history(name: str, step: int, history: int) -> None:
    receipt = sign_receipt(SECRETS["a"], 2, HISTORIES[2])
    verify_receipt(KEYS["a"], 2, HISTORIES[2], receipt)
    with pytest.raises(VerificationError, match="did not sign"):
        verify_receipt(KEYS[name], step, HISTORIES[history], receipt)


def test_a_silo_goes_on_from_wherever_the_history_is_shown_to_it() -> None:
    for base in range(4):
        for taken in ({}, {4: HISTORIES[4]}, {3: HISTORIES[3]}, {5: HISTORIES[5], 4: HISTORIES[4]}):
            before, step = follow(shown(5, base), START, taken, 5, LINKS[4])
            assert (before, step) == (Step(4, HISTORIES[4]), Step(5, HISTORIES[5]))
            require_receipts(shown(5, base), before, KEYS, 3, None)


@pytest.mark.parametrize(
    ("show", "taken", "number", "message"),
    [
        (shown(5), {4: HISTORIES[3]}, 5, "another model in step 4"),
        (shown(5), {2: HISTORIES[3]}, 5, "another model in step 2"),
        (shown(5, 3), {3: HISTORIES[2]}, 5, "another model in step 3"),
        (shown(5), {5: HISTORIES[4]}, 5, "another model in step 5"),
        (shown(5, 3), {2: HISTORIES[2]}, 5, "begins after step 2"),
        (shown(3), {5: HISTORIES[5]}, 3, "none of step 3"),
        (shown(4), {}, 5, "does not lead to step 5"),
        (shown(1), {}, 0, "does not lead to step 0"),
        (replace(shown(1), base=-1), {}, 0, "does not lead"),
        (replace(shown(2), history=HISTORIES[3]), {}, 2, "not of this run"),
    ],
)
def test_what_a_silo_took_otherwise_is_not_gone_on_from(
    show: Shown, taken: dict[int, str], number: int, message: str
) -> None:
    with pytest.raises(VerificationError, match=message):
        follow(show, START, taken, number, LINKS[max(number, 1) - 1])


def test_as_many_receipts_are_needed_as_a_round_needs_silos() -> None:
    before = Step(4, HISTORIES[4])
    require_receipts(shown(5, signers=("a", "b")), before, KEYS, 2, None)
    require_receipts(shown(5, signers=("a",)), before, KEYS, 2, "b")
    for signers, own in ((("a",), None), (("a",), "a"), ((), "a")):
        with pytest.raises(VerificationError, match="1 silos signed"):
            require_receipts(shown(5, signers=signers), before, KEYS, 2, own)
    require_receipts(shown(1), Step(0, START), KEYS, 3, None)


@pytest.mark.parametrize(
    ("receipts", "message"),
    [
        ({**shown(5).receipts, "z": shown(5).receipts["a"]}, "'z'"),
        ({**shown(5).receipts, "b": shown(5).receipts["a"]}, "silo/b did not sign"),
        (shown(4).receipts, "did not sign"),
    ],
)
def test_a_receipt_that_is_none_is_refused_and_not_left_out(receipts: dict[str, str], message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        require_receipts(replace(shown(5), receipts=receipts), Step(4, HISTORIES[4]), KEYS, 1, "a")
    with pytest.raises(VerificationError, match="did not sign"):
        require_receipts(replace(shown(1), receipts=shown(2).receipts), Step(0, START), KEYS, 1, None)


def test_what_is_shown_comes_through_the_wire() -> None:
    for step in (1, 5):
        assert Shown.load(shown(step).dump()) == shown(step)
    assert shown(5, signers=("b",)).silent(NAMES) == "a,c"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=90),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["base", "history", "links", "receipts"]), JUNK), JUNK)
def test_whatever_is_shown_is_read_or_refused(changes: dict[str, Any], other: Any) -> None:
    whole = json.loads(shown(5).dump())
    for data in ({**whole, **changes}, other):
        try:
            found = Shown.load(json.dumps(data))
            follow(found, START, {4: HISTORIES[4]}, 5, LINKS[4])
        except VerificationError:
            continue


@pytest.mark.parametrize("text", [None, 7, "", "[", "[" * 100_000, "x" * (LIMITS.receipts + 1), "{}", "[]"])
def test_what_is_no_text_of_receipts_is_refused(text: Any) -> None:
    with pytest.raises(VerificationError):
        Shown.load(text)
