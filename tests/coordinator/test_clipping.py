"""The adaptive clip norm at the coordinator."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.strategies.clipping import ClipNorm
from federation.errors import WireError
from federation.run import AdaptiveClipping, Privacy


def private(adaptive: AdaptiveClipping | None) -> Privacy:
    return Privacy(mode="silo_dp", clip_norm=1.0, delta=1e-5, noise_multiplier=1.0, adaptive=adaptive)


def adaptive() -> ClipNorm:
    return ClipNorm(private(AdaptiveClipping(target_quantile=0.5, learning_rate=0.2, max_clip_norm=10.0)))


def test_a_fixed_norm_is_neither_told_nor_moved() -> None:
    fixed = ClipNorm(private(None))
    fixed.saw({"a": 1.0})
    assert (fixed.told(), fixed.published(), fixed.norm) == ({}, {}, 1.0)
    assert fixed.bit_of("a", {}) is None
    assert ClipNorm(None).told() == {}


def test_a_step_is_the_papers() -> None:
    """Bits 1, 0.2, 0 give a share of 0.4: C <- exp(-0.2 * (0.4 - 0.5)) = exp(0.02)."""
    norm = adaptive()
    norm.saw({"a": 1.0, "b": 0.2, "c": 0.0})
    assert norm.norm == pytest.approx(math.exp(0.02))
    assert norm.told() == {"clip_norm": norm.norm}
    assert float(norm.published()["clip_norm"]) == norm.norm


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_no_bits_move_the_norm_out_of_its_bounds(bits: list[float]) -> None:
    norm = adaptive()
    for _ in range(50):
        before = norm.norm
        norm.saw({str(index): bit for index, bit in enumerate(bits)})
        assert 0 < norm.norm <= 10.0
        assert math.exp(-0.1) - 1e-9 <= norm.norm / before <= math.exp(0.1) + 1e-9


def test_without_noise_the_norm_finds_the_quantile() -> None:
    """Of updates of norms 1 to 9, half are no longer than 5."""
    norm = adaptive()
    for _ in range(200):
        norm.saw({str(size): float(size <= norm.norm) for size in range(1, 10)})
    assert 4 < norm.norm < 6


@pytest.mark.parametrize("bit", [None, 1, "1", True, math.nan, math.inf, -math.inf, 1e7])
def test_a_bit_that_is_none_is_one_clear_error(bit: object) -> None:
    with pytest.raises(WireError, match=r"silo-a sent .* for unclipped, expected a number"):
        adaptive().bit_of("silo-a", {} if bit is None else {"unclipped": bit})  # type: ignore[dict-item]


@pytest.mark.parametrize("kept", [0.0, -1.0, 11.0, math.nan])
def test_a_checkpoint_with_another_norm_is_refused(kept: float) -> None:
    with pytest.raises(ValueError, match="clip norm"):
        adaptive().restore(kept)


def test_a_norm_goes_on_where_it_was() -> None:
    one, two = adaptive(), adaptive()
    one.saw({"a": 0.0})
    two.restore(one.norm)
    assert two.told() == one.told()
