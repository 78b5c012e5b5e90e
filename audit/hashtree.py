"""The tree of an open log: proofs about any of its sizes in O(log n) hashes and a fraction of a byte a leaf."""

from __future__ import annotations

from collections.abc import Callable

from audit.merkle import EMPTY_ROOT, Frontier, consistency_ranges, inclusion_ranges, node_hash, root_of

TILE = 8
"""Levels below this one are hashed anew from the stored leaf hashes, at most 255 hashes a node."""


class HashTree(Frontier):
    """A frontier that keeps every complete subtree of 256 leaves or more.

    `leaves(start, stop)` gives the stored hashes of those leaves, 32 bytes each.
    """

    def __init__(self, leaves: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._leaves = leaves
        self._levels: list[bytearray] = []

    def append(self, hash_of_leaf: bytes) -> None:
        """Add one leaf, given by its leaf hash."""
        size, node, level = self.size, hash_of_leaf, 0
        while size & 1:
            node, size, level = node_hash(self.peaks.pop(), node), size >> 1, level + 1
            if level >= TILE:
                if len(self._levels) == level - TILE:
                    self._levels.append(bytearray())
                self._levels[level - TILE] += node
        self.peaks.append(node)
        self.size += 1

    def root_at(self, size: int) -> bytes:
        """The root that the tree had with its first `size` leaves; ValueError beyond the present size."""
        if not 0 <= size <= self.size:
            raise ValueError(f"got the size {size}, expected one of 0..{self.size}")
        return self._root(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The audit path of leaf `index` in the tree of the first `size` leaves, nearest sibling first."""
        return [self._root(low, high) for low, high in inclusion_ranges(index, min(size, self.size))]

    def consistency(self, m: int, n: int) -> list[bytes]:
        """The proof that the tree of `m` leaves is a prefix of that of `n`."""
        return [self._root(low, high) for low, high in consistency_ranges(m, min(n, self.size))]

    def _root(self, low: int, high: int) -> bytes:
        """The root over leaves that RFC 6962 splits: `low` is a multiple of the largest power of two within."""
        nodes = []
        while low < high:
            level = (high - low).bit_length() - 1
            nodes.append(self._node(level, low >> level))
            low += 1 << level
        root = nodes.pop()
        while nodes:
            root = node_hash(nodes.pop(), root)
        return root

    def _node(self, level: int, index: int) -> bytes:
        if level >= TILE:
            return bytes(self._levels[level - TILE][32 * index : 32 * index + 32])
        stored = self._leaves(index << level, index + 1 << level)
        return root_of(stored[at : at + 32] for at in range(0, len(stored), 32))
