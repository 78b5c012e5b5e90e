"""Entries on their way into the log: encoded, numbered and hashed, not written yet."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from audit.entry import SALT_BYTES, Event, commit, encode_entry
from audit.merkle import Frontier, leaf_hash


class Batch:
    """What one write puts into the log; `tree` and `last_time` are those that it leads to."""

    def __init__(self, tree: Frontier, last_time: datetime | None) -> None:
        self.tree, self.last_time = Frontier(tree.size, tree.peaks), last_time
        self.first_time: datetime | None = None
        self.lines: list[bytes] = []
        self.hashes: list[bytes] = []
        self.payloads: dict[int, bytes] = {}

    def add(self, events: Sequence[Event], times: Sequence[datetime]) -> list[int]:
        """Add the events, all or none, and return their numbers; AuditEventError where one does not fit."""
        lines, payloads, last = [], {}, self.last_time
        for seq, (event, time) in enumerate(zip(events, times, strict=True), self.tree.size):
            commitment = None
            if event.canonical_payload is not None:
                commitment, payloads[seq] = commit(event.canonical_payload, secrets.token_bytes(SALT_BYTES))
            went_back = 0
            if last is not None and time.tzinfo is not None:
                went_back = max(0, (last - time) // timedelta(microseconds=1))
            lines.append(encode_entry(event, seq=seq, time=time, commitment=commitment, clock_went_back_us=went_back))
            last = time
        numbers = list(range(self.tree.size, self.tree.size + len(lines)))
        if not self.lines and times:
            self.first_time = times[0]
        for line in lines:
            self.hashes.append(leaf_hash(line[:-1]))
            self.tree.append(self.hashes[-1])
        self.lines += lines
        self.payloads |= payloads
        self.last_time = last
        return numbers
