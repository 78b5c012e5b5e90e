from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import verify
from audit.errors import VerificationError
from audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The test data of Certificate Transparency's reference implementation.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
NODE_2_3 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
NODE_4_7 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
NODE_4_5 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
NODE_6_7 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 writes it down."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def hashes_of(count: int) -> list[bytes]:
    return [leaf_hash(str(n).encode()) for n in range(count)]


def test_reference_roots():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [root_of(HASHES[: n + 1]).hex() for n in range(8)] == ROOTS


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 8, [LEAF_1, NODE_2_3, NODE_4_7]),
        (5, 8, [LEAF_4, NODE_6_7, ROOTS[3]]),
        (2, 3, [ROOTS[1]]),
        (0, 1, []),
    ],
)
def test_reference_inclusion_proofs(index: int, size: int, path: list[str]):
    proof = inclusion_proof(HASHES[:size], index)
    assert [item.hex() for item in proof] == path
    verify_inclusion(HASHES[index], index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(
    ("m", "n", "path"),
    [
        (1, 8, [LEAF_1, NODE_2_3, NODE_4_7]),
        (6, 8, [NODE_4_5, NODE_6_7, ROOTS[3]]),
        (2, 5, [NODE_2_3, LEAF_4]),
        (8, 8, []),
    ],
)
def test_reference_consistency_proofs(m: int, n: int, path: list[str]):
    proof = consistency_proof(HASHES[:n], m)
    assert [item.hex() for item in proof] == path
    verify_consistency(m, n, bytes.fromhex(ROOTS[m - 1]), bytes.fromhex(ROOTS[n - 1]), proof)


@given(st.integers(0, 130))
def test_both_frontiers_agree_with_the_definition(size: int):
    hashes, ours, theirs = hashes_of(size), Frontier(), verify._Frontier()
    for item in hashes:
        ours.append(item)
        theirs.add(item)
    assert ours.root() == theirs.root() == naive_root(hashes)
    assert ours.peaks == theirs.peaks
    assert Frontier(ours.size, ours.peaks).root() == ours.root()


def test_a_copied_frontier_is_independent():
    tree = Frontier()
    tree.append(HASHES[0])
    copy = tree.copy()
    copy.append(HASHES[1])
    assert (tree.size, tree.root(), copy.root().hex()) == (1, HASHES[0], ROOTS[1])
    with pytest.raises(ValueError, match="expected 2"):
        Frontier(3, [HASHES[0]])


@given(st.data())
def test_inclusion_proofs_hold_and_only_for_their_leaf(data: st.DataObject):
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    hashes = hashes_of(size)
    proof, root = inclusion_proof(hashes, index), naive_root(hashes)
    verify_inclusion(hashes[index], index, size, proof, root)
    with pytest.raises(VerificationError):
        verify_inclusion(leaf_hash(b"another"), index, size, proof, root)
    with pytest.raises(VerificationError):
        verify_inclusion(hashes[index], index, size, proof, leaf_hash(b"another root"))
    with pytest.raises(VerificationError):
        verify_inclusion(hashes[index], index, size, [*proof, root], root)
    for cut in range(len(proof)):
        with pytest.raises(VerificationError):
            verify_inclusion(hashes[index], index, size, proof[:cut] + proof[cut + 1 :], root)
    for other in set(range(size)) - {index}:
        with pytest.raises(VerificationError):
            verify_inclusion(hashes[index], other, size, proof, root)


@given(st.data())
def test_consistency_proofs_hold_and_only_for_a_prefix(data: st.DataObject):
    n = data.draw(st.integers(1, 70))
    m = data.draw(st.integers(1, n))
    hashes = hashes_of(n)
    proof, old, new = consistency_proof(hashes, m), naive_root(hashes[:m]), naive_root(hashes)
    verify_consistency(m, n, old, new, proof)
    forked = naive_root([*hashes[: m - 1], leaf_hash(b"another history")])
    with pytest.raises(VerificationError):
        verify_consistency(m, n, forked, new, proof)
    with pytest.raises(VerificationError):
        verify_consistency(m, n, old, leaf_hash(b"another"), proof)
    with pytest.raises(VerificationError):
        verify_consistency(m, n, old, new, [*proof, new])
    for cut in range(len(proof)):
        with pytest.raises(VerificationError):
            verify_consistency(m, n, old, new, proof[:cut] + proof[cut + 1 :])


@given(
    st.integers(-2, 100),
    st.integers(-2, 100),
    st.lists(st.binary(max_size=40), max_size=70),
    st.binary(max_size=33),
)
def test_malformed_proofs_raise_one_error_only(a: int, b: int, proof: list[bytes], other: bytes):
    root = node_hash(b"", b"")
    with pytest.raises(VerificationError):
        verify_inclusion(other, a, b, proof, root)
    with pytest.raises(VerificationError):
        verify_consistency(a, b, other, root, proof)


def test_proofs_of_what_is_not_there_are_refused():
    with pytest.raises(ValueError, match="expected one of"):
        inclusion_proof(HASHES, 8)
    for m in (0, 9):
        with pytest.raises(ValueError, match="expected one of"):
            consistency_proof(HASHES, m)
    with pytest.raises(VerificationError, match="expected 0 <"):
        verify_consistency(0, 8, EMPTY_ROOT, bytes.fromhex(ROOTS[7]), [])
