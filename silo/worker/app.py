"""A Flower App Bundle: unpacked into scratch space and asked for its model builder."""

from __future__ import annotations

import importlib
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from federation.limits import LIMITS
from silo.worker.errors import AppError, kind_of


def unpack(bundle: bytes | bytearray | memoryview, directory: Path) -> None:
    """Unpack a bundle into an empty directory; raises AppError for one that is too large or reaches outside."""
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = archive.infolist()
            if len(entries) > LIMITS.app_files:
                raise AppError(f"the app has {len(entries)} files, expected at most {LIMITS.app_files}")
            if sum(entry.file_size for entry in entries) > LIMITS.app_unpacked:
                raise AppError(f"the app unpacks to more than {LIMITS.app_unpacked} bytes")
            for entry in entries:
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
                    raise AppError("the app holds a file name that reaches outside its own directory")
                if not entry.is_dir():
                    target = directory / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # Read by size: an entry that lies about its size is not inflated further than it says.
                    with archive.open(entry) as file:
                        target.write_bytes(file.read(entry.file_size))
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        EOFError,
        RuntimeError,
        OSError,
        ValueError,
    ):
        raise AppError("the app is not a zip file, as a Flower App Bundle is") from None


def load_builder(directory: Path, entry_point: str) -> Callable[[int], Any]:
    """Import `module:function` from an unpacked app; raises AppError that names what is missing, and no more."""
    module_name, _, name = entry_point.partition(":")
    sys.path.insert(0, str(directory))
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
