"""Audit paths of many leaves of one tree that grows no more."""

from __future__ import annotations

from audit.errors import VerificationError
from audit.merkle import EMPTY_ROOT, node_hash

_SIZE = 32  # bytes of a hash


class AuditPaths:
    """All levels of a Merkle tree, from which each audit path is read in O(log n).

    A level holds the hashes of pairs of the level below; an odd one out moves up unchanged, which gives the tree of
    RFC 6962 section 2.1. It takes 64 bytes a leaf; a log that grows has its paths from audit.hashtree.
    """

    def __init__(self, leaf_hashes: bytearray) -> None:
        self.size, self._levels = len(leaf_hashes) // _SIZE, [leaf_hashes]
        while len(self._levels[-1]) > _SIZE:
            below, above = self._levels[-1], bytearray()
            paired = len(below) // (2 * _SIZE) * 2 * _SIZE
            for at in range(0, paired, 2 * _SIZE):
                above += node_hash(bytes(below[at : at + _SIZE]), bytes(below[at + _SIZE : at + 2 * _SIZE]))
            self._levels.append(above + below[paired:])

    @property
    def root(self) -> bytes:
        """The Merkle tree hash over all leaves."""
        return bytes(self._levels[-1]) if self.size else EMPTY_ROOT

    def of(self, index: int) -> list[bytes]:
        """The audit path of leaf `index`, nearest sibling first (RFC 6962 section 2.1.1)."""
        if not 0 <= index < self.size:
            raise VerificationError(f"got entry {index}, expected one of 0..{self.size - 1}")
        path = []
        for level in self._levels[:-1]:
            at = (index ^ 1) * _SIZE
            if at < len(level):
                path.append(bytes(level[at : at + _SIZE]))
            index >>= 1
        return path
