"""Merkle trees over SHA-256 as RFC 6962 section 2.1 defines them: roots, inclusion and consistency proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from audit.errors import VerificationError
from audit.limits import LIMITS

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf: SHA-256 over 0x00 and its bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256 over 0x01 and the hashes of its children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A growing tree, kept as the roots of its complete subtrees, largest first.

    There is one for each bit that is set in the size, so that appending and the root take O(log n) steps.
    """

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError(f"got {len(self.peaks)} peaks, expected {size.bit_count()} for size {size}")

    def copy(self) -> Frontier:
        """An independent tree with the same leaves."""
        return Frontier(self.size, self.peaks)

    def append(self, hash_of_leaf: bytes) -> None:
        """Add one leaf, given by its leaf hash."""
        size, node = self.size, hash_of_leaf
        while size & 1:
            node = node_hash(self.peaks.pop(), node)
            size >>= 1
        self.peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The Merkle tree hash over all leaves."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            root = node_hash(peak, root)
        return root


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    """The Merkle tree hash over the given leaf hashes."""
    tree = Frontier()
    for item in leaf_hashes:
        tree.append(item)
    return tree.root()


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The leaf ranges whose roots are the audit path of leaf `index` (RFC 6962 section 2.1.1), nearest first."""
    if not 0 <= index < size:
        raise ValueError(f"got leaf {index}, expected one of 0..{size - 1}")
    path, low, high = [], 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low = middle
    return path[::-1]


def consistency_ranges(m: int, n: int) -> list[tuple[int, int]]:
    """The leaf ranges whose roots prove that `m` leaves are a prefix of `n` (RFC 6962 section 2.1.2)."""
    if not 0 < m <= n:
        raise ValueError(f"got the size {m}, expected one of 1..{n}")
    proof, low, high, whole = [], 0, n, True
    while m - low != high - low:
        middle = low + _split(high - low)
        if m <= middle:
            proof.append((middle, high))
            high = middle
        else:
            proof.append((low, middle))
            low, whole = middle, False
    if not whole:
        proof.append((low, high))
    return proof[::-1]


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index`, nearest sibling first."""
    return [root_of(leaf_hashes[low:high]) for low, high in inclusion_ranges(index, len(leaf_hashes))]


def consistency_proof(leaf_hashes: Sequence[bytes], m: int) -> list[bytes]:
    """The proof that the first `m` leaves are a prefix of all."""
    return [root_of(leaf_hashes[low:high]) for low, high in consistency_ranges(m, len(leaf_hashes))]


def verify_inclusion(hash_of_leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise VerificationError unless the leaf is number `index` of the tree (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size <= LIMITS.tree_size:
        raise VerificationError(f"got leaf {index} of {size}, expected an index below the size")
    _check_hashes([hash_of_leaf, root, *_bounded(proof)])
    position, last, node = index, size - 1, hash_of_leaf
    for sibling in proof:
        if last == 0:
            raise VerificationError(f"the inclusion proof has {len(proof)} hashes, more than leaf {index} needs")
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or node != root:
        raise VerificationError(f"the inclusion proof does not lead from leaf {index} to the root of size {size}")


def verify_consistency(m: int, n: int, root_m: bytes, root_n: bytes, proof: Sequence[bytes]) -> None:
    """Raise VerificationError unless tree `m` is a prefix of tree `n` (RFC 9162 section 2.1.4.2).

    Every tree extends the empty one, which needs no proof: a size of 0 is refused here, the caller decides.
    """
    if not 0 < m <= n <= LIMITS.tree_size:
        raise VerificationError(f"got the sizes {m} and {n}, expected 0 < {m} <= {n}")
    _check_hashes([root_m, root_n, *_bounded(proof)])
    if m == n:
        if proof or root_m != root_n:
            raise VerificationError(f"two trees of size {m} are consistent only with one root and no proof")
        return
    path = [root_m, *proof] if m & (m - 1) == 0 else list(proof)
    position, last = m - 1, n - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    if not path:
        raise VerificationError(f"the consistency proof from {m} to {n} is empty")
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise VerificationError(f"the consistency proof from {m} to {n} has too many hashes")
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or old != root_m or new != root_n:
        raise VerificationError(f"the tree of size {n} does not extend the tree of size {m} by this proof")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _bounded(proof: Sequence[bytes]) -> Sequence[bytes]:
    if len(proof) > LIMITS.proof:
        raise VerificationError(f"got a proof of {len(proof)} hashes, expected at most {LIMITS.proof}")
    return proof


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for item in hashes:
        if len(item) != 32:
            raise VerificationError(f"got a hash of {len(item)} bytes, expected 32")
