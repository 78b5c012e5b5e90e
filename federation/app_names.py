"""The names in an app bundle: each is one file's alone, and what Python imports by it is that file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from federation.errors import BundleError

SUFFIXES = (".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl", ".txt", ".csv", ".tsv")
"""The endings of the files that a bundle may hold, all of them text."""
WITHOUT_SUFFIX = frozenset({"LICENSE", "NOTICE", "CONTENT", ".gitignore", ".editorconfig"})
"""Text files without an ending; flwr build adds `.info/CONTENT`, its list of files."""
PATH_LENGTH, PART_LENGTH = 400, 100
_PART = re.compile(r"\.?[A-Za-z0-9_][A-Za-z0-9_.+@=,() -]*")

OURS = frozenset(
    {"audit", "concordat", "console", "coordinator", "demo", "examples", "federation", "policies", "silo", "simulation"}
)
"""The kit's own packages."""
INSTALLED = frozenset(
    {
        *("sitecustomize", "usercustomize", "setuptools", "pip", "pkg_resources", "distutils"),
        *(
            "tensorflow",
            "keras",
            "numpy",
            "pandas",
            "pyarrow",
            "flwr",
            "scipy",
            "sklearn",
            "h5py",
            "ml_dtypes",
            "google",
        ),
        *("absl", "cryptography", "pydantic", "ruamel", "sqlalchemy", "dp_accounting", "rfc8785", "httpx", "certifi"),
    }
)
"""What comes with the kit; of everything else that is installed the trainer finds out when it imports the app."""


def check_names(names: Sequence[str]) -> None:
    """Raise BundleError unless every name is plain, of a text file or directory, and like no other one."""
    files = [name for name in names if not name.endswith("/")]
    for name in names:
        _check_name(name)
    for name in files:
        path = PurePosixPath(name)
        if path.suffix not in SUFFIXES and path.name not in WITHOUT_SUFFIX:
            allowed = " ".join(SUFFIXES)
            raise BundleError(f"the app holds {name!a}, expected text files alone: {allowed}", advice="leave it out")
    _check_alike(names, files)
    _check_modules([PurePosixPath(name) for name in files if name.endswith(".py")])


def _check_name(name: str) -> None:
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
        raise BundleError("the app holds a file name that reaches outside its own directory")
    if len(name) > PATH_LENGTH or not all(len(part) <= PART_LENGTH and _PART.fullmatch(part) for part in parts):
        shown = ascii(name[:PATH_LENGTH])
        raise BundleError(
            f"the app holds a file named {shown}, expected letters A to Z, digits, spaces and _ . - + @ = , ( )",
            advice=f"rename it; a name has at most {PART_LENGTH} characters, a path {PATH_LENGTH}",
        )
    if "__pycache__" in parts:
        raise BundleError(f"the app holds {name!a}: compiled code is not what reviewers read", advice="leave it out")


def _check_alike(names: Sequence[str], files: Sequence[str]) -> None:
    """No name twice, no two that differ by case alone, and no file that is a directory too."""
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise BundleError(
            f"the app holds {twice!a} twice: reviewers could be shown another file than the one that runs"
        )
    spelt: dict[str, str] = {}
    places = {place for name in names for place in _directories(name)}
    for path in (*files, *sorted(places)):
        other = spelt.setdefault(path.casefold(), path)
        if other != path:
            raise BundleError(f"the app holds {other!a} and {path!a}, which differ by case alone", advice="rename one")
    for name in files:
        if name in places:
            raise BundleError(f"the app holds {name!a} as a file and as a directory", advice="rename one")
        if name.endswith(".py") and name.removesuffix(".py") in places:
            shown = f"{name!a} and the directory {name.removesuffix('.py')!a}"
            raise BundleError(f"the app holds {shown}: Python imports one of them", advice="rename one")


def _check_modules(modules: Sequence[PurePosixPath]) -> None:
    """No module of the app takes the place of one that is there without it."""
    for path in modules:
        name = path.parts[0].removesuffix(".py")
        if name in sys.stdlib_module_names or name in OURS or name in INSTALLED:
            raise BundleError(
                f"the app holds {str(path)!a}, which would stand in for Python's or the kit's own {name}",
                advice="rename the module",
            )
        if any(part.startswith(".") for part in path.parts):
            raise BundleError(f"the app holds {str(path)!a}, a hidden Python file", advice="rename it")


def _directories(name: str) -> Iterator[str]:
    """The directories of a name, itself too if it is one."""
    parts = name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])
