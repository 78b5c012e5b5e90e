"""App bundles: unpacked within bounds, imported without their words getting out."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.limits import LIMITS, MIB
from silo.worker.app import load_builder, unpack
from silo.worker.errors import AppError


def _bundle(*entries: tuple[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    directory = tmp_path / "outer" / "app"
    directory.mkdir(parents=True)
    return directory


def _outside(app: Path) -> list[str]:
    return sorted(
        str(path.relative_to(app.parents[1])) for path in app.parents[1].rglob("*") if app not in path.parents
    )


def test_a_bundle_is_unpacked(app: Path) -> None:
    unpack(_bundle(("model.py", "x = 1\n"), ("pkg/", ""), ("pkg/deep/part.py", "y = 'é'\n"), ("empty.md", "")), app)
    found = {str(path.relative_to(app)): path.read_bytes() for path in app.rglob("*") if path.is_file()}
    assert found == {"model.py": b"x = 1\n", "pkg/deep/part.py": "y = 'é'\n".encode(), "empty.md": b""}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_flwr_build_packs_and_what_is_stored_is_read(app: Path, method: int) -> None:
    unpack(memoryview(_bundle(("model.py", "x = 1\n" * 5000), method=method)), app)
    assert (app / "model.py").read_text() == "x = 1\n" * 5000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused(app: Path, method: int) -> None:
    with pytest.raises(AppError, match="flwr build"):
        unpack(_bundle(("model.py", "x = 1\n"), method=method), app)


@pytest.mark.parametrize(
    "name", ["../evil.py", "a/../../evil.py", "/etc/evil.py", "..", "a/..", "..\\evil.py", "C:\\evil.py"]
)
def test_a_name_that_reaches_outside_is_refused(app: Path, name: str) -> None:
    with pytest.raises(AppError, match="reaches outside its own directory"):
        unpack(_bundle((name, "x")), app)
    assert _outside(app) == ["outer", "outer/app"]


def test_a_link_is_refused(app: Path) -> None:
    link = zipfile.ZipInfo("link.py")
    link.external_attr = 0o120777 << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(link, str(app.parent))
    with pytest.raises(AppError, match="a link or a device"):
        unpack(out.getvalue(), app)
    assert _outside(app) == ["outer", "outer/app"]


def test_too_many_files_are_refused(app: Path) -> None:
    entries = [(f"f{n}.py", "") for n in range(LIMITS.app_files + 1)]
    with pytest.raises(AppError, match=f"has {LIMITS.app_files + 1} files"):
        unpack(_bundle(*entries), app)
    assert list(app.iterdir()) == []
    unpack(_bundle(*entries[:-1]), app)
    assert len(list(app.iterdir())) == LIMITS.app_files


def test_what_unpacks_to_too_much_is_refused_before_anything_is_written(app: Path) -> None:
    half = b"\0" * (LIMITS.app_unpacked // 2)
    bomb = _bundle(("a.md", half), ("b.md", half), ("c.md", "x"))
    assert len(bomb) < MIB
    with pytest.raises(AppError, match="unpacks to more than"):
        unpack(bomb, app)
    assert list(app.iterdir()) == []


def _peak_kib() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize("said", [1, 10_000])
def test_a_bomb_that_lies_about_its_size_is_not_inflated(app: Path, said: int) -> None:
    size = 200 * MIB
    bomb = bytearray(_bundle(("model.md", b"\0" * size)))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = bomb.index(signature) + offset
        assert struct.unpack_from("<I", bomb, start) == (size,)
        struct.pack_into("<I", bomb, start, said)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = _peak_kib()
    with pytest.raises(AppError):
        unpack(bytes(bomb), app)
    assert _peak_kib() - before < 32 * 1024


@pytest.mark.parametrize("place", ["start", "middle", "end", "checksum"])
def test_a_damaged_bundle_is_refused(app: Path, place: str) -> None:
    bundle = bytearray(_bundle(("model.py", "".join(f"x = {n}\n" for n in range(500)))))
    where = {"start": 32, "middle": 45, "end": len(bundle) - 8, "checksum": bundle.index(b"PK\x01\x02") + 16}[place]
    bundle[where : where + 4] = b"\xff\x5a\xa5\xff"
    with pytest.raises(AppError, match="not a zip file"):
        unpack(bytes(bundle), app)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 17])
def test_what_is_no_zip_is_refused(app: Path, content: bytes) -> None:
    with pytest.raises(AppError, match="not a zip file"):
        unpack(content, app)


@pytest.mark.parametrize(
    "entries",
    [
        [("a.md", "x"), ("a.md/b.md", "x")],  # a file and a directory of one name
        [("n" * 300 + ".md", "x")],
    ],
)
def test_names_that_no_directory_holds_are_refused(app: Path, entries: list[tuple[str, str]]) -> None:
    with pytest.raises(AppError):
        unpack(_bundle(*entries), app)


def test_an_encrypted_bundle_is_refused(app: Path) -> None:
    bundle = bytearray(_bundle(("model.py", "x")))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        bundle[bundle.index(signature) + offset] |= 1
    with pytest.raises(AppError):
        unpack(bytes(bundle), app)


# -- import


@pytest.fixture
def clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.usefixtures("clean_imports")
def test_the_builder_is_found_in_the_app_and_its_own_modules(app: Path) -> None:
    (app / "parts_of_app").mkdir()
    (app / "parts_of_app" / "net.py").write_text("def build(features): return ('net', features)\n")
    (app / "model_of_app.py").write_text("from parts_of_app.net import build as build_model\n")
    assert load_builder(app, "model_of_app:build_model")(5) == ("net", 5)
    assert load_builder(app, "parts_of_app.net:build")(6) == ("net", 6)


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize(
    ("code", "entry", "said"),
    [
        ("import torch_of_app", "model_of_app:build", "the app needs module torch_of_app, which is not here"),
        ("", "another_of_app:build", "the app needs module another_of_app, which is not here"),
        ("x = 1", "model_of_app:build", "the app's model_of_app has no function build"),
        ("build = 5", "model_of_app:build", "the app's model_of_app has no function build"),
        ("raise ValueError('SECRET')", "model_of_app:build", "importing the app's model_of_app raised ValueError"),
        ("def f(: SECRET", "model_of_app:build", "importing the app's model_of_app raised SyntaxError"),
        ("from os import SECRET", "model_of_app:build", "importing the app's model_of_app raised ImportError"),
        ("1 / 0  # SECRET", "model_of_app:build", "importing the app's model_of_app raised ZeroDivisionError"),
    ],
)
def test_what_an_app_lacks_is_named_and_what_it_says_is_not(app: Path, code: str, entry: str, said: str) -> None:
    (app / "model_of_app.py").write_text(code + "\n")
    with pytest.raises(AppError) as raised:
        load_builder(app, entry)
    assert str(raised.value) == said
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__


def test_an_exception_the_app_made_up_is_not_named(app: Path) -> None:
    """A type's name is text the app chooses while it runs; it could hold data."""
    (app / "model_of_app.py").write_text("raise type('row_63_1_145', (Exception,), {})\n")
    with pytest.raises(AppError) as raised:
        load_builder(app, "model_of_app:build")
    assert str(raised.value) == "importing the app's model_of_app raised an exception of its own"


def test_a_module_whose_name_was_made_up_is_not_named(app: Path) -> None:
    (app / "model_of_app.py").write_text("__import__('row_' + str(63) + '_1_145')\n")
    with pytest.raises(AppError) as raised:
        load_builder(app, "model_of_app:build")
    assert str(raised.value) == "the app needs a module, which is not here"
