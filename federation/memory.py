"""Memory of processes that move models: freed blocks are kept for the next round, not given back to the kernel."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_THRESHOLD = 32 * 1024 * 1024  # glibc refuses a larger one
_KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Have the C library reuse large blocks (mallopt, glibc only).

    By default each buffer of a model is mapped anew and its pages are zeroed again on every round, which costs as much
    as the copies themselves.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        # A thread's own arena is given back whenever it is empty; the one of the process is kept.
        mallopt(_M_ARENA_MAX, 1)
