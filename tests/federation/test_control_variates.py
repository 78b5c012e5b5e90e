"""The texts and vectors by which SCAFFOLD's control variates are spoken of."""

from __future__ import annotations

import numpy as np
import pytest

from federation.control_variates import control_change, folded_round, folded_text, joined, parted
from federation.errors import WireError


def floats(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def test_a_change_by_hand() -> None:
    """x = 1, y = -1, K = 4, eta = 0.25: (1 + 1) / 1 - c, with c = 0.5."""
    assert control_change(floats(1), floats(0.5), floats(-1), 4, 0.25).tolist() == [1.5]


def test_a_change_is_the_same_over_many_blocks() -> None:
    draw = np.random.default_rng(1).normal(size=(3, 40_001)).astype(np.float32)
    found = control_change(*draw, 7, 0.01)
    x, c, y = draw.astype(np.float64)
    np.testing.assert_array_equal(found, ((x - y) * (1 / (7 * 0.01)) - c).astype(np.float32))


def test_a_change_beyond_float32_is_infinite() -> None:
    assert np.isinf(control_change(floats(3e38), floats(0), floats(-3e38), 1, 1e-6)).all()


def test_two_vectors_go_round_as_one() -> None:
    one, two = parted(joined(floats(1, 2), floats(3, 4)), 2)
    assert (one.tolist(), two.tolist()) == ([1, 2], [3, 4])
    for size in (0, 1, 2, 3, 5):
        with pytest.raises(WireError, match=f"got {size} values, expected 4"):
            parted(np.zeros(size, dtype=np.float32), 2)


def test_the_rounds_of_silos_go_round_as_text() -> None:
    assert folded_text({}) == ""
    text = folded_text({"b": 12, "a-1": 3})
    assert text == "a-1:3,b:12"
    assert [folded_round(text, name) for name in ("a-1", "b", "c")] == [3, 12, 0]


@pytest.mark.parametrize(
    "text", ["a", "a:", "a:0", "a:-1", "a:01", "a:1,", "a:1,a:2", "A:1", "a:1000000", " a:1", "a:1\n"]
)
def test_a_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="among the silos folded in"):
        folded_round(text, "b")
