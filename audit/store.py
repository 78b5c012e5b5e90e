"""Files that are durable when a call returns, and that notice when someone else touches them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from audit.errors import AuditLocked, AuditTampered


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Create a directory with mode 0700 and its missing parents, durably; an existing one stays as it is."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


def create_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write a new file and sync it; FileExistsError where the name is taken. The directory is not synced."""
    _write_and_sync(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), data)


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Replace a file atomically and durably: a reader sees the old or the new content, whole."""
    temporary = path.with_name(path.name + ".tmp")
    # What lies there is left over, or somebody put it there: its owner and its other names are not to be ours. A link
    # was put there, and is an error.
    if not temporary.is_symlink():
        temporary.unlink(missing_ok=True)
    _write_and_sync(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), data)
    temporary.replace(path)
    sync_directory(path.parent)


def _write_and_sync(fd: int, data: bytes) -> None:
    try:
        _write_at_once(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_at_once(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    if written != len(data):
        raise OSError(f"wrote {written} of {len(data)} bytes: the disk or a size limit is full")


class AppendFile:
    """A file that this process alone appends to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        self.size = os.fstat(self._fd).st_size

    def check(self) -> None:
        """Raise AuditTampered unless the open file is still the one of that name, and of the size we left."""
        held = os.fstat(self._fd)
        try:
            named = self.path.lstat()
        except FileNotFoundError as error:
            raise AuditTampered(f"{self.path} was unlinked or renamed while the log is open") from error
        if (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino):
            raise AuditTampered(f"{self.path} was replaced while the log is open")
        if held.st_size != self.size:
            raise AuditTampered(
                f"{self.path} has {held.st_size} bytes, expected {self.size}: someone truncated or wrote it"
            )

    def append(self, data: bytes) -> None:
        """Write with one call; OSError where not all was taken."""
        _write_at_once(self._fd, data)
        self.size += len(data)

    def cut(self, size: int) -> None:
        """Give the file back the size that it had, durably."""
        os.ftruncate(self._fd, size)
        self.size = size
        os.fsync(self._fd)

    def sync(self) -> None:
        """Make what was written durable."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class DirectoryLock:
    """The exclusive right to write to a directory, by flock(2) on its file `lock`, which holds our pid."""

    def __init__(self, directory: Path) -> None:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
        except BlockingIOError as error:
            text = os.read(fd, 32).strip()
            os.close(fd)
            pid = int(text) if text.isdigit() else None
            raise AuditLocked(
                f"process {pid or 'unknown'} writes to {directory}: stop it, or use another directory", pid
            ) from error
        except OSError:
            os.close(fd)
            raise
        self._fd, self._pid = fd, os.getpid()

    def release(self) -> None:
        """Let others write. The file stays, empty, since unlinking it would let two writers in."""
        try:
            if os.getpid() == self._pid:  # and not in a forked child, whose parent still holds the lock
                os.ftruncate(self._fd, 0)
        finally:
            os.close(self._fd)
