from __future__ import annotations

import hashlib

import pytest

from audit.errors import VerificationError
from audit.merkle import EMPTY_ROOT, inclusion_proof, root_of, verify_inclusion
from audit.paths import AuditPaths


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100])
def test_each_path_is_the_one_of_rfc_6962(size: int):
    leaves = [hashlib.sha256(b"%d" % n).digest() for n in range(size)]
    paths = AuditPaths(bytearray(b"".join(leaves)))
    assert paths.root == root_of(leaves)
    for index, leaf in enumerate(leaves):
        assert paths.of(index) == inclusion_proof(leaves, index)
        verify_inclusion(leaf, index, size, paths.of(index), paths.root)


def test_there_is_no_path_outside_the_tree():
    assert AuditPaths(bytearray()).root == EMPTY_ROOT
    for index in (-1, 3):
        with pytest.raises(VerificationError, match=r"expected one of 0\.\.2"):
            AuditPaths(bytearray(96)).of(index)
