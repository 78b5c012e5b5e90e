"""Fixed point, secret sharing and masks: against numbers computed by hand, published vectors and laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import WireError
from federation.limits import LIMITS
from federation.secure_aggregation.fixed_point import ONE, add_mean, carried, encode, integers_of
from federation.secure_aggregation.masks import add_mask, agreed, derive, pair_key, public_bytes, seal, unseal
from federation.secure_aggregation.shamir import PRIME, combine, split, value_at

# -- Shamir's secret sharing


def test_shares_are_those_of_the_textbook_polynomial() -> None:
    """1234 + 166 x + 94 x^2 modulo 1613, by hand: 1494, 329, 965, 176, 1188, 775 at 1 to 6."""
    shares = {at: value_at([1234, 166, 94], at, 1613) for at in range(1, 7)}
    assert shares == {1: 1494, 2: 329, 3: 965, 4: 176, 5: 1188, 6: 775}
    for holders in itertools.combinations(shares, 3):
        assert combine({holder: shares[holder] for holder in holders}, 1613) == 1234
    assert combine({1: 1494, 2: 329}, 1613) != 1234


@given(st.integers(0, 2**256 - 1), st.integers(1, 6), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret_back(secret: int, threshold: int, more: int, chance) -> None:  # type: ignore[no-untyped-def]
    shares = split(secret, threshold, threshold + more)
    holders = chance.sample(sorted(shares), threshold)
    assert combine({holder: shares[holder] for holder in holders}) == secret


def test_fewer_shares_fit_every_other_secret() -> None:
    """For each secret there is a last share with which two shares of three give it: two say nothing."""
    shares = split(42, 3, 3)
    for other in (0, 7, 2**255):
        # Solve for the share at 3: the weights at zero of 1, 2, 3 are 3, -3, 1.
        third = (other - 3 * shares[1] + 3 * shares[2]) % PRIME
        assert combine({1: shares[1], 2: shares[2], 3: third}) == other


def test_a_wrong_share_gives_another_secret() -> None:
    shares = split(42, 2, 3)
    assert combine({1: shares[1], 2: (shares[2] + 1) % PRIME}) != 42


@pytest.mark.parametrize("shares", [{}, {0: 1}, {1: PRIME}, {1: -1}, {PRIME: 1}])
def test_what_is_no_share_is_refused(shares: dict[int, int]) -> None:
    with pytest.raises(WireError, match="outside its field"):
        combine(shares)


@pytest.mark.parametrize(("secret", "threshold", "holders"), [(PRIME, 1, 1), (-1, 1, 1), (0, 3, 2), (0, 0, 2)])
def test_what_cannot_be_shared_is_refused(secret: int, threshold: int, holders: int) -> None:
    with pytest.raises(WireError, match="expected 1 to as many"):
        split(secret, threshold, holders)


# -- fixed point


def test_the_encoding_is_that_computed_by_hand() -> None:
    """A quarter of the examples: 8 is 2^30 / 4 = 2^28, one unit of the last place is 8 * 4 / 2^30."""
    change = np.array([8.0, -8.0, 4.0, 0.0, 2.0**-25, -(2.0**-25), 2.0**-26, 1.5 * 2.0**-25], dtype=np.float32)
    coded = encode(change, 25, 100, 8.0).view(np.int32)
    assert coded.tolist() == [2**28, -(2**28), 2**27, 0, 1, -1, 0, 2]


def test_an_update_beyond_the_bound_is_scaled_down_as_a_whole() -> None:
    coded = encode(np.array([16.0, -4.0], dtype=np.float32), 1, 1, 8.0).view(np.int32)
    assert coded.tolist() == [2**30, -(2**28)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(value: float) -> None:
    with pytest.raises(WireError, match="not finite"):
        encode(np.array([0.0, value], dtype=np.float32), 1, 1, 8.0)


@pytest.mark.parametrize("examples", [0, 101])
def test_a_weight_beyond_the_plan_is_refused(examples: int) -> None:
    with pytest.raises(WireError, match="expected 1 to the 100"):
        encode(np.zeros(1, dtype=np.float32), examples, 100, 8.0)


counts = st.lists(st.integers(1, LIMITS.examples), min_size=1, max_size=40)


@given(counts, st.floats(1e-6, 4096), st.lists(st.sampled_from([1.0, -1.0]), min_size=40, max_size=40))
def test_no_sum_wraps_around(examples: list[int], largest: float, signs: list[float]) -> None:
    """The largest changes that there may be, whatever the weights: the sum modulo 2^32 is the sum."""
    planned, total, exact = sum(examples), np.zeros(1, dtype=np.uint32), 0
    for count, sign in zip(examples, signs, strict=False):
        one = encode(np.array([sign * largest], dtype=np.float32), count, planned, largest)
        assert abs(int(one.view(np.int32)[0])) <= ONE * count / planned + 1
        total += one
        exact += int(one.view(np.int32)[0])
    assert int(total.view(np.int32)[0]) == exact
    assert abs(exact) <= ONE + len(examples) < 2**31


def test_the_bound_holds_for_as_many_members_as_there_may_be() -> None:
    assert ONE + LIMITS.members < 2**31


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-8, 8, width=32)), min_size=1, max_size=20))
def test_the_mean_is_as_exact_as_is_said(parts: list[tuple[int, float]]) -> None:
    planned = sum(count for count, _ in parts)
    total = np.zeros(1, dtype=np.uint32)
    for count, value in parts:
        total += encode(np.array([value], dtype=np.float32), count, planned, 8.0)
    mean = add_mean(np.zeros(1, dtype=np.float32), total, planned, planned, 8.0)[0]
    exact = sum(count * value for count, value in parts) / planned
    assert abs(mean - exact) <= len(parts) / 2 * (8.0 / ONE) + abs(exact) * 2**-23


def test_a_sum_of_another_size_is_no_models() -> None:
    with pytest.raises(WireError, match="expected 3 values"):
        add_mean(np.zeros(3, dtype=np.float32), np.zeros(2, dtype=np.uint32), 1, 1, 8.0)


def test_integers_cross_as_the_bits_that_they_are() -> None:
    """Also those that are no numbers when read as floats."""
    integers = np.array([0, 1, 2**32 - 1, 0x7F800001, 0xFFC00000, 2**31], dtype=np.uint32)
    assert integers_of(carried(integers)).tolist() == integers.tolist()


# -- masks


def test_keys_agree_as_in_rfc_7748() -> None:
    """Section 6.1: Alice's and Bob's keys and their shared secret."""
    private = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    bob = X25519PrivateKey.from_private_bytes(private)
    public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert public_bytes(bob).hex() == public
    other = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert agreed(bob, other).hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_a_key_that_agrees_on_nothing_is_refused() -> None:
    with pytest.raises(WireError, match="agrees on nothing"):
        agreed(X25519PrivateKey.generate(), bytes(32))


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 200_000])
def test_what_one_silo_adds_the_other_takes_off(size: int) -> None:
    a, b = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    one, other = np.zeros(size, dtype=np.uint32), np.zeros(size, dtype=np.uint32)
    add_mask(one, pair_key(a, public_bytes(b), b"context"))
    add_mask(other, pair_key(b, public_bytes(a), b"context"), subtract=True)
    assert np.count_nonzero(one) >= size - 1
    assert not (one + other).any()


def test_a_mask_is_the_aes_keystream() -> None:
    """AES-256 in counter mode from zero: its first block is the encryption of the zero block (FIPS 197, by openssl)."""
    values = np.zeros(4, dtype=np.uint32)
    add_mask(values, bytes(32))
    assert values.astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_another_purpose_or_context_gives_another_key() -> None:
    keys = {derive(bytes(32), purpose, context) for purpose in ("a", "b") for context in (b"x", b"y")}
    assert len(keys) == 4


def test_what_is_sealed_opens_for_whom_it_is_and_in_its_cohort_alone() -> None:
    a, b = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    sealed = seal(a, public_bytes(b), "a", "b", b"cohort", b"shares")
    assert unseal(b, public_bytes(a), "a", "b", b"cohort", sealed) == b"shares"
    for sender, receiver, context, content in (
        ("b", "a", b"cohort", sealed),
        ("a", "b", b"another round's", sealed),
        ("a", "b", b"cohort", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        ("a", "b", b"cohort", b""),
    ):
        with pytest.raises(WireError, match="does not open"):
            unseal(b, public_bytes(a), sender, receiver, context, content)
