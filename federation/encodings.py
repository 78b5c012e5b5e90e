"""How an update is packed into fewer bytes, and unpacked from what an untrusted silo sent; pure.

What is packed is the difference between the trained weights and the round's model, float32. All little-endian, sizes
following from the number of values alone:

- float16: each value rounded to the nearest float16, beyond its range to its largest.
- int8: blocks of 4096 values share a scale, the block's largest magnitude over 127, float32; all scales come first,
  then a signed byte a value, rounded to the nearest. No randomness: packing again gives the same bytes.
- top_k: the values of the largest magnitudes, of equal ones those that come first: indices as uint32, rising, then
  values as float32.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from federation.errors import WireError
from federation.run import Updates
from federation.wire import Envelope, Packed, Weights

BLOCK = 4096
"""Values that share a scale with int8."""
_LARGEST_CODE = 127
_LARGEST_HALF = 65504.0


def packed_bytes(updates: Updates | None, size: int) -> int:
    """The bytes that an update of so many values has on its way."""
    if updates is None:
        return 4 * size
    match updates.encoding:
        case "float16":
            return 2 * size
        case "int8":
            return size + 4 * _blocks(size)
        case "top_k":
            return 8 * kept_values(updates, size)


def kept_values(updates: Updates, size: int) -> int:
    """How many values top_k sends: the share of all of them, rounded up."""
    return min(size, math.ceil((updates.share or 0.0) * size))


def pack(updates: Updates, difference: Weights) -> Packed:
    """Pack a difference of finite values."""
    match updates.encoding:
        case "float16":
            halves = np.clip(difference, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2")
            return halves.view(np.uint8)
        case "int8":
            return _quantized(difference)
        case "top_k":
            return _largest(difference, kept_values(updates, difference.size))


def unpack(updates: Updates, packed: Packed, size: int) -> Weights:
    """The difference of `size` values that was packed; raises WireError for what `pack` does not make."""
    expected = packed_bytes(updates, size)
    if packed.size != expected:
        raise WireError(f"got an update of {packed.size} bytes, expected {expected} as {updates.encoding}")
    match updates.encoding:
        case "float16":
            difference = packed.view("<f2").astype(np.float32)
        case "int8":
            difference = _dequantized(packed, size)
        case "top_k":
            difference = _scattered(packed, size)
    if not np.isfinite(difference).all():
        raise WireError("got an update with a value that is not finite")
    return difference


def received(updates: Updates | None, answer: Envelope, model: Weights) -> Weights:
    """The weights of a silo's answer, from the round's model where only the difference came; raises WireError."""
    if updates is None:
        if answer.weights is None:
            raise WireError("the answer has no weights")
        return answer.weights
    if answer.packed is None:
        raise WireError(f"the answer has no update as {updates.encoding}")
    return moved(model, unpack(updates, answer.packed, model.size))


def moved(model: Weights, difference: Weights) -> Weights:
    """The model with a difference added: the same bits at the silo that sent it and at the coordinator."""
    return np.add(model, difference, dtype=np.float32)


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _quantized(difference: Weights) -> Packed:
    scales = np.empty(_blocks(difference.size), dtype="<f4")
    codes = np.empty(difference.size, dtype=np.int8)
    for index in range(scales.size):
        part = difference[index * BLOCK : (index + 1) * BLOCK]
        scale = np.float32(np.abs(part).max() / np.float32(_LARGEST_CODE))
        scales[index] = scale
        steps = part.astype(np.float64) / float(scale) if scale > 0 else np.zeros(part.size)
        np.rint(np.clip(steps, -_LARGEST_CODE, _LARGEST_CODE), out=steps)
        codes[index * BLOCK : (index + 1) * BLOCK] = steps
    return np.concatenate([scales.view(np.uint8), codes.view(np.uint8)])


def _dequantized(packed: Packed, size: int) -> Weights:
    blocks = _blocks(size)
    scales = packed[: 4 * blocks].view("<f4")
    codes = packed[4 * blocks :].view(np.int8)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise WireError("got an int8 update with a scale that is not a number from 0")
    if codes.size and codes.min() < -_LARGEST_CODE:
        raise WireError(f"got an int8 update with a code below -{_LARGEST_CODE}")
    difference = codes.astype(np.float32)
    for index, scale in enumerate(scales):
        difference[index * BLOCK : (index + 1) * BLOCK] *= scale
    return difference


def _largest(difference: Weights, count: int) -> Packed:
    sizes = np.abs(difference)
    least = np.partition(sizes, sizes.size - count)[sizes.size - count]
    above = np.flatnonzero(sizes > least)
    as_large = np.flatnonzero(sizes == least)[: count - above.size]
    indices = np.sort(np.concatenate([above, as_large])).astype("<u4")
    return np.concatenate([indices.view(np.uint8), difference[indices].astype("<f4").view(np.uint8)])


def _scattered(packed: Packed, size: int) -> Weights:
    count = packed.size // 8
    indices: npt.NDArray[np.uint32] = packed[: 4 * count].view("<u4")
    if int(indices[-1]) >= size or (indices[1:] <= indices[:-1]).any():
        raise WireError(f"got a top_k update whose indices are not rising numbers below {size}")
    difference = np.zeros(size, dtype=np.float32)
    difference[indices] = packed[4 * count :].view("<f4")
    return difference
