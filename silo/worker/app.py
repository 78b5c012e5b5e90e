"""A Flower App Bundle: unpacked into scratch space and asked for its model builder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federation.app_bundle import read_bundle
from federation.errors import BundleError
from silo.worker.errors import AppError, kind_of
from silo.worker.importing import import_from


def unpack(bundle: bytes | bytearray | memoryview, directory: Path) -> None:
    """Unpack a bundle into an empty directory; raises AppError for one that reviewers could not have read whole."""
    try:
        files = read_bundle(bundle)
    except BundleError as error:
        raise AppError(str(error)) from None
    try:
        for name, content in files.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except OSError as error:
        raise AppError(f"the app cannot be unpacked: {error.strerror}") from None


def load_builder(directory: Path, entry_point: str) -> Callable[[int], Any]:
    """Import `module:function` from an unpacked app; raises AppError that names what is missing, and no more."""
    module_name, _, name = entry_point.partition(":")
    if module_name.partition(".")[0] not in import_from(directory):
        # Not Python's own os, for one: what runs is what reviewers were shown.
        raise AppError(f"the app needs module {module_name}, which is not here")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise AppError(f"the app needs {_named(error.name, module_name, directory)}, which is not here") from None
    except Exception as error:  # noqa: BLE001  submitted code may raise anything
        raise AppError(f"importing the app's {module_name} raised {kind_of(error)}") from None
    builder = getattr(module, name, None)
    if not callable(builder):
        raise AppError(f"the app's {module_name} has no function {name}")
    return builder  # type: ignore[no-any-return]


def _named(module: str | None, entry: str, directory: Path) -> str:
    """A module's name where the run or the app's own text has it; a name made up while it runs could hold data."""
    if module == entry:
        return f"module {module}"
    if module and any(module in path.read_text(errors="replace") for path in directory.rglob("*.py")):
        return f"module {module}"
    return "a module"
