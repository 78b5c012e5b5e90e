"""Space kept back, so that a full disk's refusal can itself be recorded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

RESERVE_BYTES = 256 * 1024
OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """A file of allocated blocks beside the log, given up when the disk is full."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserve"

    @property
    def held(self) -> bool:
        """Whether the space is there."""
        return self._path.exists()

    def hold(self) -> None:
        """Allocate the space if it is not held; OSError where there is none."""
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            self.release()
            raise
        finally:
            os.close(fd)

    def release(self) -> None:
        """Give the space back to the disk."""
        self._path.unlink(missing_ok=True)
