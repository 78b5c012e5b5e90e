"""The one reader of app bundles: what an operator submits, what reviewers are shown and what a trainer runs.

A bundle is a zip file of text files and of nothing else. Its bytes have one meaning: entries follow one another
without gaps, the directory at the end repeats what they say of themselves, and no two names can be mistaken.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from federation.app_names import check_names
from federation.app_text import check_text
from federation.errors import BundleError
from federation.limits import LIMITS

NOT_A_ZIP = "the app is not a zip file, as a Flower App Bundle is"
ADVICE = "build it with flwr build"

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_UTF8_NAMES, _DEFLATE_EFFORT = 1 << 11, 3 << 1


@dataclass(frozen=True)
class _Entry:
    """What the directory of a zip file says of one entry."""

    name: str
    head: tuple[int, ...]
    """Flags, method, time, date, checksum, packed size and size, as the entry's own head has to repeat them."""
    offset: int
    mode: int

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, by its name."""
        return self.name.endswith("/")


def read_bundle(bundle: bytes | bytearray | memoryview) -> dict[str, bytes]:
    """The files of a bundle by their path, in the order of paths; raises BundleError for any other than plain text."""
    content = bytes(bundle)
    entries = list(_directory(content))
    size = sum(entry.head[6] for entry in entries)
    if size > LIMITS.app_unpacked:
        raise BundleError(f"the app unpacks to more than {LIMITS.app_unpacked} bytes")
    check_names([entry.name for entry in entries])
    source = sum(entry.head[6] for entry in entries if entry.name.endswith(".py"))
    if source > LIMITS.app_source:
        raise BundleError(f"the app has {source} bytes of Python, expected at most {LIMITS.app_source}")
    found = {}
    end = 0
    for entry in entries:
        data, end = _data(content, entry, end)
        if not entry.is_directory:
            check_text(entry.name, data)
            found[entry.name] = data
    if end != _directory_at(content)[1]:
        raise BundleError(f"{NOT_A_ZIP}: it holds bytes that belong to no file", advice=ADVICE)
    return dict(sorted(found.items()))


def _directory_at(content: bytes) -> tuple[int, int]:
    """How many entries a zip file has, and the offset of its directory; raises BundleError for trailing bytes too."""
    if len(content) < _END.size:
        raise BundleError(NOT_A_ZIP)
    mark, disk, start_disk, here, total, size, offset, comment = _END.unpack(content[-_END.size :])
    plain = (mark, disk, start_disk, comment) == (b"PK\5\6", 0, 0, 0) and here == total
    if not plain or offset + size != len(content) - _END.size:
        raise BundleError(NOT_A_ZIP, advice=f"a zip file with a comment or other additions is refused: {ADVICE}")
    return total, offset


def _directory(content: bytes) -> Iterator[_Entry]:
    """What the directory says of each entry; raises BundleError."""
    total, place = _directory_at(content)
    if total > LIMITS.app_files:
        raise BundleError(f"the app has {total} files, expected at most {LIMITS.app_files}")
    last = len(content) - _END.size
    for _ in range(total):
        if place + _CENTRAL.size > last:
            raise BundleError(NOT_A_ZIP)
        mark, _, _, *head, name, extra, comment, disk, _, mode, offset = _CENTRAL.unpack_from(content, place)
        start, place = place + _CENTRAL.size, place + _CENTRAL.size + name
        if mark != b"PK\1\2" or disk or place > last:
            raise BundleError(NOT_A_ZIP)
        if extra or comment:
            raise BundleError(f"{NOT_A_ZIP}: it says more of a file than its name and size", advice=ADVICE)
        yield _Entry(content[start:place].decode("latin-1"), tuple(head), offset, mode >> 16)
    if place != last:
        raise BundleError(NOT_A_ZIP)


def _data(content: bytes, entry: _Entry, expected: int) -> tuple[bytes, int]:
    """What an entry holds, which begins at the expected offset, and the offset of its end; raises BundleError."""
    if entry.offset != expected or expected + _LOCAL.size > len(content):
        raise BundleError(f"{NOT_A_ZIP}: it holds bytes that belong to no file", advice=ADVICE)
    mark, _, *head, name, extra = _LOCAL.unpack_from(content, expected)
    start = expected + _LOCAL.size + name
    same = (tuple(head), content[start - name : start].decode("latin-1")) == (entry.head, entry.name)
    if mark != b"PK\3\4" or not same or extra:
        raise BundleError(f"{NOT_A_ZIP}: what it says twice of {entry.name!a} differs", advice=ADVICE)
    flags, method, _, _, checksum, packed_size, size = entry.head
    if flags & ~(_UTF8_NAMES | _DEFLATE_EFFORT):
        raise BundleError(f"{NOT_A_ZIP}: {entry.name!a} is encrypted, or its size follows it", advice=ADVICE)
    if stat.S_IFMT(entry.mode) not in (0, stat.S_IFDIR if entry.is_directory else stat.S_IFREG):
        raise BundleError(f"{entry.name!a} is a link or a device, expected a file", advice="put the file itself there")
    packed = content[start : start + packed_size]
    data = _unpacked(entry.name, method, packed, size)
    if zlib.crc32(data) != checksum or (entry.is_directory and data):
        raise BundleError(NOT_A_ZIP)
    return data, start + packed_size


def _unpacked(name: str, method: int, packed: bytes, size: int) -> bytes:
    """As many bytes as were announced, out of no more and no fewer than are there; raises BundleError."""
    data = packed
    if method == _DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(packed, size + 1)
        except zlib.error:
            raise BundleError(NOT_A_ZIP) from None
        if not inflater.eof or inflater.unused_data:
            raise BundleError(f"{NOT_A_ZIP}: {name!a} is of another size than it says")
    elif method != _STORED:
        raise BundleError(f"{name!a} is packed by method {method}, expected 0 or 8 (deflate)", advice=ADVICE)
    if len(data) != size:
        raise BundleError(f"{NOT_A_ZIP}: {name!a} is of another size than it says")
    return data
