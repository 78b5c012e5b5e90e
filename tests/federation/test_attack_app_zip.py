"""Zip files with more than one meaning, or with more in them than a reader is shown."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.app_bundle import read_bundle
from federation.errors import BundleError
from federation.limits import LIMITS

from .test_attack_app_bundle import MODEL, bundle, refused


def test_nothing_is_before_between_or_after_the_files() -> None:
    plain = bundle()
    for other in (b"#!/bin/sh\n" + plain, plain + b"x", plain + plain, plain[:-2] + b"\x05\x00hello"):
        assert "zip file" in refused(other)
    end = plain.index(b"PK\1\2")
    assert "belong to no file" in refused(_moved(plain[:end] + b"hidden" + plain[end:], 6))


def test_a_comment_or_more_words_of_a_file_are_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(*MODEL)
        archive.comment = b"x"
    assert "zip file" in refused(out.getvalue())
    for field, value in (("extra", struct.pack("<2H", 0x7075, 0)), ("comment", b"x")):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            info = zipfile.ZipInfo("model.py")
            setattr(info, field, value)
            archive.writestr(info, MODEL[1])
        assert "zip file" in refused(out.getvalue())


@pytest.mark.parametrize(
    ("local", "central"), [(6, 8), (8, 10), (14, 16), (18, 20), (22, 24), (26, 28), (28, 30), (30, 46)]
)
def test_the_two_heads_of_a_file_agree(local: int, central: int) -> None:
    content = bundle()
    for start, offset in ((0, local), (content.index(b"PK\1\2"), central)):
        changed = bytearray(content)
        changed[start + offset] ^= 1
        assert "zip file" in refused(bytes(changed))


def test_encrypted_files_links_and_sizes_that_follow_are_refused() -> None:
    content = bundle()
    for flag in (1, 8, 64):
        changed = bytearray(content)
        changed[6] |= flag
        changed[content.index(b"PK\1\2") + 8] |= flag
        assert "encrypted" in refused(bytes(changed))
    for mode in (0o120777, 0o020666, 0o010666, 0o140777):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            info = zipfile.ZipInfo("model.py")
            info.external_attr = mode << 16
            archive.writestr(info, "x")
        assert "link or a device" in refused(out.getvalue())


def test_bytes_behind_a_packed_file_are_refused() -> None:
    """The packed file ends early; what follows is part of no file that is shown."""
    content, hidden = b"x = 1\n", b"hidden"
    deflated = zlib.compressobj(wbits=-15)
    packed = deflated.compress(content) + deflated.flush() + hidden
    assert "another size" in refused(_of_one_file("model.py", packed, content, len(content)))
    assert "another size" in refused(_of_one_file("model.py", packed[: -len(hidden)], content, len(content) + 1))


def test_too_much_is_refused_before_it_is_unpacked() -> None:
    half = b" " * (LIMITS.app_unpacked // 2)
    assert "unpacks to more" in refused(bundle(("a.md", half), ("b.md", half)))
    assert "bytes of Python" in refused(bundle(("a.py", b" " * LIMITS.app_source)))
    assert "files, expected at most" in refused(bundle(*((f"{n}.md", b"") for n in range(LIMITS.app_files))))


@given(st.integers(0, len(bundle()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_shown(place: int, change: int) -> None:
    """Whatever byte of a bundle is changed: it is refused, or what is read differs only as a zip reader sees it too."""
    changed = bytearray(bundle())
    changed[place] ^= change
    try:
        found = read_bundle(bytes(changed))
    except BundleError:
        return
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        assert found == {name: archive.read(name) for name in archive.namelist()}


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_sentence(content: bytes) -> None:
    assert "not a zip file" in refused(content)


def _moved(content: bytes, by: int) -> bytes:
    """A zip file whose directory begins later, and says so."""
    changed = bytearray(content)
    (offset,) = struct.unpack_from("<L", changed, len(changed) - 6)
    struct.pack_into("<L", changed, len(changed) - 6, offset + by)
    return bytes(changed)


def _of_one_file(name: str, packed: bytes, content: bytes, size: int) -> bytes:
    said = (0, 8, 0, 33, zlib.crc32(content), len(packed), size)
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, *said, len(name), 0) + name.encode() + packed
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *said, len(name), 0, 0, 0, 0, 0, 0) + name.encode()
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(head), 0)
    return head + central + end
