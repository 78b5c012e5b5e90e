"""Packed updates: what is sent, how far it is from what was meant, and what a hostile silo may send."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from federation.encodings import BLOCK, kept_values, moved, pack, packed_bytes, received, unpack
from federation.errors import WireError
from federation.run import Updates
from federation.wire import Envelope, Packed, Weights

HALF, INT8 = Updates(encoding="float16"), Updates(encoding="int8")
EVERY = [HALF, INT8, Updates(encoding="top_k", share=0.25), Updates(encoding="top_k", share=1.0)]
DIFFERENCES = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e4, 1e4, width=32))


def vector(*values: float) -> Weights:
    return np.array(values, dtype=np.float32)


# -- by hand


def test_float16_rounds_to_its_nearest() -> None:
    """Between 1 and 2 a float16 has steps of 2^-10; its largest is 65504."""
    back = unpack(HALF, pack(HALF, vector(1 + 2**-11 + 2**-13, 1e6, -1e6, 0)), 4)
    assert back.tolist() == [1 + 2**-10, 65504.0, -65504.0, 0.0]


def test_int8_shares_a_scale_in_a_block() -> None:
    """The largest is 2.54, so a step is 0.02: 0.031 is 1.55 steps, which is 2."""
    packed = pack(INT8, vector(2.54, -2.54, 0.031, 0.0))
    assert packed[:4].view("<f4")[0] == pytest.approx(0.02)
    assert packed[4:].view(np.int8).tolist() == [127, -127, 2, 0]
    np.testing.assert_allclose(unpack(INT8, packed, 4), [2.54, -2.54, 0.04, 0], rtol=1e-6)


def test_a_block_of_int8_does_not_feel_the_next() -> None:
    difference = np.full(BLOCK + 1, 1e-3, dtype=np.float32)
    difference[-1] = 100.0
    np.testing.assert_allclose(unpack(INT8, pack(INT8, difference), BLOCK + 1), difference, rtol=1e-6)


def test_top_k_sends_the_largest_by_magnitude_and_of_equal_ones_the_first() -> None:
    updates = Updates(encoding="top_k", share=0.5)
    packed = pack(updates, vector(1, -3, 1, 2, 1, 1))
    assert packed[:12].view("<u4").tolist() == [0, 1, 3]
    assert unpack(updates, packed, 6).tolist() == [1, -3, 0, 2, 0, 0]


@pytest.mark.parametrize(
    ("updates", "size", "expected"),
    [
        (None, 1000, 4000),
        (HALF, 1000, 2000),
        (INT8, 1000, 1004),
        (INT8, BLOCK + 1, BLOCK + 1 + 8),
        (Updates(encoding="top_k", share=0.01), 1000, 80),
        (Updates(encoding="top_k", share=0.0001), 1000, 8),
    ],
)
def test_what_an_update_weighs(updates: Updates | None, size: int, expected: int) -> None:
    assert packed_bytes(updates, size) == expected
    if updates is not None:
        assert pack(updates, np.ones(size, dtype=np.float32)).nbytes == expected


@pytest.mark.parametrize("fields", [{"encoding": "top_k"}, {"encoding": "int8", "share": 0.1}, {"encoding": "zip"}])
def test_a_share_belongs_to_top_k_and_to_no_other(fields: dict[str, str | float]) -> None:
    with pytest.raises(ValidationError):
        Updates.model_validate(fields)


# -- laws


@given(DIFFERENCES)
def test_float16_is_within_half_a_step(difference: Weights) -> None:
    back = unpack(HALF, pack(HALF, difference), difference.size)
    assert (np.abs(back - difference) <= np.abs(difference) * 2.0**-11 + 2.0**-25).all()


@given(DIFFERENCES)
def test_int8_is_within_half_a_step(difference: Weights) -> None:
    back = unpack(INT8, pack(INT8, difference), difference.size)
    step = float(np.abs(difference).max()) / 127
    assert (np.abs(back.astype(np.float64) - difference) <= step * (0.5 + 1e-5) + 1e-38).all()


@given(DIFFERENCES, st.floats(0.01, 1))
def test_top_k_keeps_the_nearest_of_so_many_values(difference: Weights, share: float) -> None:
    updates = Updates(encoding="top_k", share=share)
    back = unpack(updates, pack(updates, difference), difference.size)
    count = kept_values(updates, difference.size)
    left_out = np.sort(np.abs(difference))[: difference.size - count].astype(np.float64)
    assert math.isclose(float(np.sum((back - difference).astype(np.float64) ** 2)), float(np.sum(left_out**2)))


@pytest.mark.parametrize("updates", EVERY)
@given(difference=DIFFERENCES)
def test_what_was_unpacked_packs_to_what_it_was(updates: Updates, difference: Weights) -> None:
    once = unpack(updates, pack(updates, difference), difference.size)
    again = unpack(updates, pack(updates, once), difference.size)
    np.testing.assert_allclose(again, once, rtol=1e-6)


# -- what a hostile silo may send


@pytest.mark.parametrize("updates", EVERY)
@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: np.append(p, np.uint8(0)), lambda p: p[:0]])
def test_another_size_is_refused(updates: Updates, change: Callable[[Packed], Packed]) -> None:
    with pytest.raises(WireError, match=r"got an update of \d+ bytes, expected \d+ as"):
        unpack(updates, change(pack(updates, np.ones(8, dtype=np.float32))), 8)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(WireError, match="not finite"):
        unpack(HALF, np.array([1, value], dtype="<f2").view(np.uint8), 2)
    top = Updates(encoding="top_k", share=1.0)
    frame = np.concatenate([np.array([0, 1], dtype="<u4").view(np.uint8), vector(1, value).view(np.uint8)])
    with pytest.raises(WireError, match="not finite"):
        unpack(top, frame, 2)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    frame = np.concatenate([vector(scale).view(np.uint8), np.array([1, 2], dtype=np.int8).view(np.uint8)])
    with pytest.raises(WireError, match="scale"):
        unpack(INT8, frame, 2)


def test_a_code_that_pack_does_not_make_is_refused() -> None:
    frame = np.concatenate([vector(1.0).view(np.uint8), np.array([-128], dtype=np.int8).view(np.uint8)])
    with pytest.raises(WireError, match="below -127"):
        unpack(INT8, frame, 1)


@pytest.mark.parametrize("indices", [[1, 1], [2, 1], [0, 4], [3, 2**32 - 1]])
def test_indices_that_do_not_rise_below_the_size_are_refused(indices: list[int]) -> None:
    updates = Updates(encoding="top_k", share=0.5)
    frame = np.concatenate([np.array(indices, dtype="<u4").view(np.uint8), vector(1, 1).view(np.uint8)])
    with pytest.raises(WireError, match="rising numbers below 4"):
        unpack(updates, frame, 4)


@pytest.mark.parametrize("updates", EVERY)
@given(frame=st.binary(max_size=64), size=st.integers(1, 40))
def test_any_bytes_are_an_update_or_one_clear_error(updates: Updates, frame: bytes, size: int) -> None:
    try:
        back = unpack(updates, np.frombuffer(frame, dtype=np.uint8), size)
    except WireError:
        return
    assert back.shape == (size,)
    assert np.isfinite(back).all()


def test_an_answer_in_another_form_than_the_runs_is_refused() -> None:
    model = vector(1, 2)
    with pytest.raises(WireError, match="no weights"):
        received(None, Envelope(packed=pack(HALF, model)), model)
    with pytest.raises(WireError, match="no update as float16"):
        received(HALF, Envelope(weights=model), model)


def test_what_is_received_is_the_model_with_the_difference() -> None:
    model = vector(1, 2)
    answer = Envelope(packed=pack(HALF, vector(0.5, -0.25)))
    assert received(HALF, answer, model).tolist() == moved(model, vector(0.5, -0.25)).tolist() == [1.5, 1.75]
