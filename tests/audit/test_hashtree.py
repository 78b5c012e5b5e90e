from __future__ import annotations

import hashlib

import pytest

from audit.hashtree import HashTree
from audit.merkle import consistency_proof, inclusion_proof, root_of, verify_consistency, verify_inclusion

LEAVES = [hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(1400)]


def grown(size: int) -> HashTree:
    tree = HashTree(lambda start, stop: b"".join(LEAVES[start:stop]))
    for leaf in LEAVES[:size]:
        tree.append(leaf)
    return tree


@pytest.mark.parametrize("size", [1, 2, 7, 255, 256, 257, 511, 512, 700, 1024, 1025, 1400])
def test_it_proves_what_the_definition_proves(size: int) -> None:
    tree = grown(size)
    assert tree.root() == root_of(LEAVES[:size])
    for other in sorted({1, 2, size // 3 + 1, size // 2 + 1, max(1, size - 1), size} & set(range(1, size + 1))):
        assert tree.root_at(other) == root_of(LEAVES[:other])
        assert tree.consistency(other, size) == consistency_proof(LEAVES[:size], other)
        assert tree.inclusion(other - 1, size) == inclusion_proof(LEAVES[:size], other - 1)


def test_a_larger_tree_still_proves_its_past() -> None:
    tree = grown(1400)
    for old, new in ((3, 300), (256, 512), (257, 1399), (1024, 1400)):
        verify_consistency(old, new, tree.root_at(old), tree.root_at(new), tree.consistency(old, new))
        verify_inclusion(LEAVES[old - 1], old - 1, new, tree.inclusion(old - 1, new), tree.root_at(new))


def test_it_keeps_less_than_a_byte_a_leaf() -> None:
    tree = grown(1400)
    assert sum(map(len, tree._levels)) < len(LEAVES)


@pytest.mark.parametrize("size", [-1, 8])
def test_a_size_it_never_had_has_no_root(size: int) -> None:
    with pytest.raises(ValueError, match="got the size"):
        grown(7).root_at(size)
