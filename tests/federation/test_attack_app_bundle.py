"""Bundles that show a reviewer one thing and could run another: the one reader refuses each of them."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.app_bundle import read_bundle
from federation.errors import BundleError
from federation.limits import LIMITS

PROJECT = ("pyproject.toml", b"[project]\nname = 'x'\n")
MODEL = ("model.py", b"def build_model(features):\n    return features\n")


def bundle(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in (PROJECT, MODEL, *entries):
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def refused(content: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(content)
    return str(caught.value)


def test_what_flower_bundles_is_read() -> None:
    entries = [
        *(("pkg/__init__.py", b""), ("pkg/net.py", "# größe 10 µm, 🙂\ns = 'Ä'\n".encode())),
        *(("data/norms.csv", b"0,1\r\n"), (".info/CONTENT", b"model.py,0,1\n"), ("LICENSE", b"MIT\n")),
        ("README.md", b"# x\n\ty\n"),
    ]
    assert read_bundle(bundle(*entries)) == dict(sorted((PROJECT, MODEL, *entries)))
    stored = bundle(("data/", b""), ("data/a.json", b"{}"), method=zipfile.ZIP_STORED)
    assert list(read_bundle(stored)) == ["data/a.json", "model.py", "pyproject.toml"]


# -- names


@pytest.mark.parametrize(
    "name",
    [
        *(
            "__pycache__/model.cpython-311.pyc",
            "model.pyc",
            "model.pyo",
            "model.so",
            "model.cpython-311-x86_64-linux-gnu.so",
        ),
        *("model.pyd", "x.pth", "more.zip", "more.egg", "more.whl", "m.pyw", "model.pyi", "w.h5", "w.npz", "w.pkl"),
        *("__pycache__/a.py", "pkg/__pycache__/a.md", "no_suffix", ".hidden.py", ".cfg/a.py"),
        *(
            "/etc/passwd.md",
            "../a.md",
            "a/../b.md",
            "a/./b.md",
            "a//b.md",
            "C:\\a.md",
            "C:a.md",
            "a\\b.md",
            "./a.md",
            ".",
            "//",
        ),
        *(
            "a\n.md",
            "a\x00.md",
            "a\x1b[2K.md",
            "m\u00f6del.md",
            "a\u202egpj.md",
            "\uff4dodel.md",
            "n" * 200 + ".md",
            " a.md",
        ),
        *("json.py", "json/__init__.py", "os.py", "sitecustomize.py", "usercustomize.py", "keras/__init__.py"),
        *(
            "tensorflow/x.py",
            "silo/worker.py",
            "federation.py",
            "numpy.py",
            "flwr/__init__.py",
            "google/x.py",
            "antigravity.py",
        ),
    ],
)
def test_no_name_reaches_outside_hides_or_takes_another_module_s_place(name: str) -> None:
    assert "app" in refused(bundle((name, b"")))


@pytest.mark.parametrize(
    "names",
    [
        ("a.md", "a.md"),
        ("README.md", "readme.md"),
        ("Pkg/a.py", "pkg/b.py"),
        ("net.py", "net/__init__.py"),
        ("net.py", "net/part.py"),
        ("net.py", "net/data.json"),
        ("pkg/net.py", "pkg/net/x.md"),
        ("a.md", "a.md/b.md"),
        ("a.md/", "a.md"),
    ],
)
def test_no_two_names_can_be_mistaken(names: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of zipfile, for a name that is there twice
        content = bundle(*((name, b"") for name in names))
    assert "the app holds" in refused(content)


# -- text


@pytest.mark.parametrize(
    "code",
    [
        *(b"# -*- coding: utf-7 -*-\n", b"#!/usr/bin/python\n# coding=rot13\n", b"# vim: set fileencoding=latin-1 :\n"),
        *(
            b"x = 1 # \rimport os\n",
            b"x = 1\r\r\n",
            b"if 1:\n\x0c    x = 1\n",
            b"x = 1\x00\n",
            b"\xef\xbb\xbfx = 1\n",
            b"x\x0b=1",
        ),
        *(b"\xff\xfex\x00", b"s = '\xe9'\n", b"\x1b[2Kx = 1\n", b"x = 1 \x7f\n"),
        "access = 'user\u202e \u2066# admin\u2069'\n".encode(),
        *(
            "x = 'a\u200bb'\n".encode(),
            "x = 1\u2028import os\n".encode(),
            "x = 'a\u0085b'\n".encode(),
            "x = '\u00ad'\n".encode(),
        ),
        *(
            "x = '\U000e0041'\n".encode(),
            "x = '\ufe01\ufe02'\n".encode(),
            "x\u3164 = 1\n".encode(),
            "x = '\u3164'\n".encode(),
        ),
        *(
            "\uff4f\uff53 = 1\n".encode(),
            "\u0430 = 1\n".encode(),
            "x = f'{\uff4f\uff53}'\n".encode(),
            "x\u00b7y = 1\n".encode(),
        ),
        *("x = rF'{\U0001d428.name}'\n".encode(), "x = 'é' + ('\n".encode(), "x = '\ue000'\n".encode()),
    ],
)
def test_a_python_file_is_what_it_looks_like(code: bytes) -> None:
    assert "'net.py'" in refused(bundle(("net.py", code)))


@pytest.mark.parametrize("name", ["a.md", "a.json", "a.csv", "pkg/a.yaml", "LICENSE"])
@pytest.mark.parametrize("text", ["a\u202eb", "a\rb", "\ufeffa", "a\x00", "\u2063"])
def test_other_text_hides_nothing_either(name: str, text: str) -> None:
    assert f"'{name}' holds a character in line 1" in refused(bundle((name, text.encode())))


def test_the_place_of_a_hidden_character_is_told() -> None:
    said = refused(bundle(("a.md", "one\ntwo \u200b\n".encode())))
    assert "line 2" in said
    assert "U+200B" in said


# -- the zip file


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
