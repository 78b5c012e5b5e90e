"""An app's modules are imported from the text that was reviewed, whatever else is beside it or installed here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib import _bootstrap_external, util  # type: ignore[attr-defined]
from pathlib import Path

import pytest

from silo.worker.app import load_builder
from silo.worker.errors import AppError

SHOWN = "def build(features):\n    return 'reviewed'\n"
HIDDEN = "def build(features):\n    return 'SOMETHING ELSE'\n"


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    path, modules, finders = list(sys.path), set(sys.modules), list(sys.meta_path)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def _compiled(source: str, out: Path, shown: str) -> None:
    """A compiled file that claims to be of the shown text, and is never checked against it."""
    code = compile(source, "model.py", "exec")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(_bootstrap_external._code_to_hash_pyc(code, util.source_hash(shown.encode()), checked=False))


def test_compiled_code_beside_the_text_is_not_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "inner_of_app", tmp_path / "pkg_of_app"):
        place.mkdir(exist_ok=True)
        (place / "model_of_app.py").write_text(SHOWN)
        _compiled(HIDDEN, place / "__pycache__" / f"model_of_app.{sys.implementation.cache_tag}.pyc", SHOWN)
    (tmp_path / "pkg_of_app" / "__init__.py").write_text("")
    for entry in ("model_of_app", "inner_of_app.model_of_app", "pkg_of_app.model_of_app"):
        assert load_builder(tmp_path, f"{entry}:build")(1) == "reviewed"
    assert importlib.reload(sys.modules["pkg_of_app.model_of_app"]).build(1) == "reviewed"


def test_a_module_without_its_text_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model_of_app.py").write_text("import pkg_of_app.hidden\n")
    (tmp_path / "pkg_of_app").mkdir()
    (tmp_path / "pkg_of_app" / "seen.py").write_text("")
    _compiled(HIDDEN, tmp_path / "pkg_of_app" / "hidden.pyc", HIDDEN)
    (tmp_path / "pkg_of_app" / "hidden.so").write_bytes(b"\x7fELF")
    with pytest.raises(AppError, match=r"needs module pkg_of_app\.hidden, which is not here"):
        load_builder(tmp_path, "model_of_app:build")
    _compiled(HIDDEN, tmp_path / "only_of_app.pyc", HIDDEN)
    with pytest.raises(AppError, match="needs module only_of_app"):
        load_builder(tmp_path, "only_of_app:build")


def test_importing_compiles_nothing_into_the_apps_directory(tmp_path: Path) -> None:
    (tmp_path / "model_of_app.py").write_text("import other_of_app\n" + SHOWN)
    (tmp_path / "other_of_app.py").write_text("")
    load_builder(tmp_path, "model_of_app:build")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model_of_app.py", "other_of_app.py"]


def test_a_declared_encoding_changes_nothing(tmp_path: Path) -> None:
    """The bundle's reader refuses it; the importer would read UTF-8 all the same."""
    (tmp_path / "model_of_app.py").write_text("# coding: utf-7\n" + SHOWN + "# +AAo-build = None\n")
    assert load_builder(tmp_path, "model_of_app:build")(1) == "reviewed"


@pytest.mark.parametrize(
    "entry", ["os:system", "subprocess:Popen", "keras:Sequential", "silo.worker.app:unpack", "builtins:eval"]
)
def test_what_is_called_is_the_apps(tmp_path: Path, entry: str) -> None:
    (tmp_path / "model_of_app.py").write_text("import os, subprocess\n" + SHOWN)
    with pytest.raises(AppError, match="needs module"):
        load_builder(tmp_path, entry)


@pytest.mark.parametrize("name", ["pytest", "hypothesis", "flwr"])
def test_an_app_takes_no_installed_modules_place(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(SHOWN)
    with pytest.raises(AppError, match=f"the app's {name} would stand in for an installed module"):
        load_builder(tmp_path, f"{name}:build")


def test_python_s_own_modules_stay_python_s(tmp_path: Path) -> None:
    (tmp_path / "model_of_app.py").write_text("import colorsys\ndef build(n): return colorsys.__file__\n")
    (tmp_path / "colorsys.py").write_text("")
    assert not str(load_builder(tmp_path, "model_of_app:build")(1)).startswith(str(tmp_path))
    assert str(tmp_path) not in sys.path


def test_what_another_app_imported_before_is_not_this_apps(tmp_path: Path) -> None:
    for place, text in ((tmp_path / "a", SHOWN), (tmp_path / "b", HIDDEN)):
        place.mkdir()
        (place / "model_of_app.py").write_text(text)
    assert load_builder(tmp_path / "a", "model_of_app:build")(1) == "reviewed"
    assert load_builder(tmp_path / "b", "model_of_app:build")(1) == "SOMETHING ELSE"


def test_python_itself_would_have_run_the_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the attack is one: Python's own importer takes the compiled file's word."""
    (tmp_path / "plain_of_app.py").write_text(SHOWN)
    _compiled(HIDDEN, tmp_path / "__pycache__" / f"plain_of_app.{sys.implementation.cache_tag}.pyc", SHOWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("plain_of_app").build(1) == "SOMETHING ELSE"
