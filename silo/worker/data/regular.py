"""Which files a source may be: regular ones alone, as whatever else a path leads to may never end, or is no data."""

from __future__ import annotations

import stat
from pathlib import Path

from silo.worker.errors import DataError

_KERNEL = (Path("/proc"), Path("/sys"))
"""What looks like files there is the kernel's own, such as the environment of a process."""


def require_regular(path: Path, *, pipe: bool = False) -> None:
    """Raise DataError for what is there and is no regular file, before it is opened; what is missing is told later.

    With `pipe` a named pipe may be there, too: for a reader that opens its file once, under the gate's deadline.
    """
    try:
        mode, real = path.stat().st_mode, path.resolve()
    except (OSError, RuntimeError, ValueError):
        return
    fits = stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode))
    if not fits or any(real.is_relative_to(place) for place in _KERNEL):
        raise DataError(f"{path.name}: got something that is no regular file, expected the file of the data source")


def require_regular_in(path: Path) -> None:
    """The same of a file, or of every file in a directory; raises DataError."""
    if not path.is_dir():
        require_regular(path)
        return
    for one in sorted(path.rglob("*")):
        if not one.is_dir():
            require_regular(one)
