"""Bundles that show a reviewer one thing and could run another: the one reader refuses each of them."""

from __future__ import annotations

import io
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest

from federation.app_bundle import read_bundle
from federation.errors import BundleError
from federation.operator import build_app

EXAMPLES = Path(__file__).parents[2] / "examples"

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


@pytest.mark.parametrize("name", ["net.py", "a.toml", "LICENSE"])
@pytest.mark.parametrize(
    ("gap", "line"),
    [
        ("x = 1" + " " * 201 + "; import os\n", 1),
        ("x = 1;" + "\t" * 100_000 + "import os\n", 1),
        ("\nx = '" + "\u3000" * 201 + "'; import os\n", 2),
        ("x = 1\n" + "\n" * 101 + "import os\n", 1),
        ("x = 1\n" + " \t\r\n" * 100_000 + "import os\n", 1),
    ],
)
def test_nothing_is_pushed_out_of_sight(name: str, gap: str, line: int) -> None:
    said = refused(bundle((name, gap.encode())))
    assert f"in a row at line {line}, so that what follows is out of sight" in said


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("x = 1" + (" " * 199 + ";") * 20 + " import os\n", 1),
        ("x = 1;" + "\t" * 30 + "import os\n", 1),
        ("x = 1\n" + ("\n" * 99 + " " * 199 + "#\n") * 50 + "import os\n", 102),
        ("x = 1\n" + (" " * 150 + "#\n") * 101 + "import os\n", 102),
    ],
)
def test_gaps_that_are_each_short_push_nothing_out_of_sight_together(code: str, line: int) -> None:
    assert f"at line {line}, so that what follows is out of sight" in refused(bundle(("net.py", code.encode())))


@pytest.mark.parametrize("unseen", ["\ufe0f", ".\ufe0f", "☀\ufe0f\ufe0f", "\ufffc", "\U00016fe4", "\U0001d159"])
def test_no_sign_that_shows_nothing_is_in_a_string(unseen: str) -> None:
    assert "that is not seen" in refused(bundle(("net.py", f"x = '{unseen}'\n".encode())))
    seen = "x = '☀\ufe0f 1\ufe0f\u20e3'\n".encode()
    assert read_bundle(bundle(("net.py", seen)))["net.py"] == seen


def test_what_is_far_away_and_in_sight_is_read() -> None:
    text = "x = 1\n" + "\n" * 100 + "def f():\n" + " " * 200 + "return 1\n# " + "-" * 5000 + "\n"
    assert read_bundle(bundle(("net.py", text.encode())))["net.py"] == text.encode()


@pytest.mark.parametrize("hidden", ["# \u202e\n", "# \x0c\n", "é = 1\n"])
def test_an_app_that_every_silo_would_refuse_is_refused_where_it_is_written(tmp_path: Path, hidden: str) -> None:
    app = tmp_path / "app"
    shutil.copytree(EXAMPLES / "heart" / "app", app, ignore=shutil.ignore_patterns("__pycache__"))
    with (app / "model.py").open("a", encoding="utf-8") as model:
        model.write(hidden)
    with pytest.raises(BundleError, match=r"'model\.py'"):
        build_app(app)
