"""Imports an app's modules from their text alone: nothing that was compiled before, and nothing installed instead."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from silo.worker.errors import AppError


class _FromText(SourceFileLoader):
    """Compiles a file's text each time; compiled code beside it is neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """The code of a module, from its text."""
        text = Path(self.path).read_text(encoding="utf-8")
        return compile(text, self.path, "exec", dont_inherit=True)


class _AppFinder(MetaPathFinder):
    """Finds the modules whose first name is one of the app's, in the app's directory and nowhere else."""

    def __init__(self, directory: Path, names: frozenset[str]) -> None:
        self._directory = directory
        self.names = names

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """How to load a module of the app; None for any other. Raises ModuleNotFoundError for one it has not."""
        parts = fullname.split(".")
        if parts[0] not in self.names:
            return None
        place = self._directory.joinpath(*parts)
        package, module = place / "__init__.py", place.with_name(f"{parts[-1]}.py")
        if package.is_file():
            loader, inside = _FromText(fullname, str(package)), [str(place)]
            return spec_from_file_location(fullname, package, loader=loader, submodule_search_locations=inside)
        if module.is_file():
            return spec_from_file_location(fullname, module, loader=_FromText(fullname, str(module)))
        if not place.is_dir():
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [str(place)]
        return spec


def import_from(directory: Path) -> frozenset[str]:
    """Have the modules of an unpacked app imported from now on; returns their first names.

    Raises AppError where one is installed here too.
    """
    names = _names(directory)
    for name in sorted(names):
        if _installed(name):
            raise AppError(f"the app's {name} would stand in for an installed module of that name; rename it")
    # A module of another app that was imported before under one of these names is not this app's.
    for known in list(sys.modules):
        if known.partition(".")[0] in names:
            del sys.modules[known]
    sys.meta_path.insert(0, _AppFinder(directory, names))
    return names


def _names(directory: Path) -> frozenset[str]:
    """The first names of an app's modules; those of Python's own stay Python's."""
    modules = {path.stem for path in directory.glob("*.py")}
    packages = {path.name for path in directory.iterdir() if path.is_dir() and next(path.rglob("*.py"), None)}
    return frozenset(modules | packages) - sys.stdlib_module_names


def _installed(name: str) -> bool:
    """Whether Python finds a module among what is installed, in the environment or beside the interpreter."""
    roots = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    places = [place for place in sys.path if place and not roots.isdisjoint({*Path(place).resolve().parents})]
    spec = PathFinder.find_spec(name, places)
    return spec is not None and spec.origin is not None
