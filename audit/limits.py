"""The size limits of everything this package reads or writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds, in bytes where nothing else is said. verify.py repeats those that it needs."""

    entry: int = 256 * 1024  # one that names 1,000 members, some of them twice, with the longest names
    payload: int = 1024 * 1024
    payload_depth: int = 32  # levels of nesting
    note: int = 512 * 1024
    note_signatures: int = 1024  # lines: the log's own and one of each other member; C2SP asks for at least 16
    name: int = 255  # characters
    tree_size: int = 10**15 - 1  # leaves; below 2**53, so that JSON holds every sequence number exactly
    proof: int = 64  # hashes
    statement_proofs: int = 1024  # older sizes of one log: each member may hold another
    gossip: int = 4 * 1024 * 1024  # what one message says of logs, in characters
    gossip_items: int = 2000  # logs or lines
    retention: int = 16 * 1024  # the rules of one log
    proof_file: int = 1024 * 1024
    key_file: int = 16 * 1024
    report: int = 256 * 1024 * 1024
    report_entries: int = 20_000  # of one log; a longer one is embedded as the run's entries with their proofs
    report_witnesses: int = 8  # of one log: a page verifies each signature in the reader's browser
    bundle: int = 8 * 1024 * 1024 * 1024
    bundle_files: int = 100_000
    export_file: int = 8 * 1024 * 1024 * 1024
    cursor: int = 64 * 1024


LIMITS = Limits()
