"""The size limits of everything this package reads or writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds, in bytes where nothing else is said. verify.py repeats those that it needs."""

    entry: int = 64 * 1024
    payload: int = 1024 * 1024
    payload_depth: int = 32  # levels of nesting
    note: int = 128 * 1024
    note_signatures: int = 64  # lines; C2SP signed-note asks for at least 16
    name: int = 255  # characters
    tree_size: int = 10**15 - 1  # leaves; below 2**53, so that JSON holds every sequence number exactly
    proof: int = 64  # hashes
    key_file: int = 16 * 1024


LIMITS = Limits()
