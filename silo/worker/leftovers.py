"""Removes what a run left in scratch space, in whatever way its app made it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def remove_trainers(scratch: Path) -> None:
    """Remove the directories of trainers that ended."""
    for left_over in scratch.glob("trainer-*"):
        remove_tree(left_over)


def remove_tree(top: Path) -> None:
    """Remove a directory with all that is in it; what cannot be removed stays.

    An app makes directories as deep as it likes, and without the right to read them. So none is entered from the one
    before it: each is moved up first.
    """
    with contextlib.suppress(OSError), _opened(top) as root:
        waiting = _emptied(root, root)
        while waiting:
            name = waiting.pop()
            with contextlib.suppress(OSError):
                with _opened(name, root) as found:
                    waiting += _emptied(found, root)
                os.rmdir(name, dir_fd=root)
    with contextlib.suppress(OSError):
        top.rmdir()


def _emptied(found: int, root: int) -> list[str]:
    """Remove a directory's files, and move its directories to `root`; returns their names there."""
    with os.scandir(found) as entries:
        every = list(entries)
    moved = []
    for entry in every:
        with contextlib.suppress(OSError):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=found)
                continue
            name = entry.name
            if found != root:
                name = secrets.token_hex(16)
                with _opened(entry.name, found):
                    pass  # to be moved, a directory must be writable itself
                os.rename(entry.name, name, src_dir_fd=found, dst_dir_fd=root)
            moved.append(name)
    return moved


@contextlib.contextmanager
def _opened(path: str | Path, within: int | None = None) -> Iterator[int]:
    """A descriptor of a directory, and of no link to one, whose owner may do everything in it from here on."""
    reached = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    try:
        directory = Path(f"/proc/self/fd/{reached}")
        with contextlib.suppress(OSError):
            directory.chmod(0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(reached)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
