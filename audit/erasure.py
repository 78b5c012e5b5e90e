"""Removing content from a log without breaking a proof: recorded first, then done, and done again after a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from audit.entry import Event, parse_time
from audit.errors import RetentionError
from audit.limits import LIMITS
from audit.log import AuditLog
from audit.recover import payload_path
from audit.retention import Rule, due_payloads, entries_cutoff, format_ranges, parse_rules, too_young_by
from audit.segments import Sealed, seal_of, segment_path
from audit.store import replace_file, sync_directory
from audit.verify import check_entry, segment_starts

ERASED, PURGED, RULES = "log.erased", "log.purged", "log.retention"
_BOUND = "retention.policy"
_AT_ONCE = 500
"""Payloads whose erasure one entry records."""


@dataclass(frozen=True)
class Due:
    """What has been kept for its maximum: payloads by their entries' numbers, and segments from the oldest on."""

    payloads: tuple[int, ...]
    segments: tuple[Sealed, ...]


def rules_of(log: AuditLog) -> tuple[Rule, ...]:
    """The rules that were set for a log; none where none were."""
    try:
        with (log.folder / "retention").open("rb") as file:
            return parse_rules(file.read(LIMITS.retention + 1))
    except FileNotFoundError:
        return ()


def set_rules(log: AuditLog, texts: list[str], actor: str) -> tuple[Rule, ...]:
    """Set the rules and record them; raises RetentionError."""
    data = "".join(f"{text}\n" for text in texts).encode()
    rules = parse_rules(data)
    log.append(Event(actor, RULES, log.origin, detail={f"rule.{n}": rule.text for n, rule in enumerate(rules)}))
    replace_file(log.folder / "retention", data, mode=0o644)
    return rules


def bound_of(folder: Path) -> Rule | None:
    """What the policy that was active last says of all payloads of the log in a folder; None where nothing."""
    try:
        with (folder / _BOUND).open("rb") as file:
            return next(iter(parse_rules(file.read(LIMITS.retention + 1))), None)
    except FileNotFoundError:
        return None


def set_bound(log: AuditLog, text: str | None, actor: str, policy: str) -> None:
    """Keep what a policy, by its digest, says of all payloads, and record it where it changed; RetentionError."""
    data = b"" if text is None else f"{Rule.parse(text).text}\n".encode()
    path = log.folder / _BOUND
    if data != (path.read_bytes() if path.exists() else b""):
        log.append(Event(actor, RULES, log.origin, policy=policy, detail={"policy": text or "nothing"}))
        replace_file(path, data, mode=0o644)


def oldest_overdue(folder: Path, now: datetime) -> datetime | None:
    """When the oldest payload was recorded, where that is longer ago than the policy's maximum; the log may be open."""
    bound = bound_of(folder)
    if bound is None or bound.maximum is None:
        return None
    found = min((int(path.stem) for path in (folder / "payloads").glob("*.json") if path.stem.isdigit()), default=None)
    start = max((start for start, present in segment_starts(folder) if present and start <= (found or 0)), default=None)
    if found is None or start is None:
        return None
    with segment_path(folder, start, "jsonl").open("rb") as file:
        line = next(islice(file, found - start, None), b"")
    time = parse_time(str(json.loads(line)["time"])) if line.endswith(b"\n") else now
    return time if time <= bound.maximum.before(now) else None


def find_due(log: AuditLog, now: datetime) -> Due:
    """What is due at a time by the log's rules and by the policy that was active last."""
    rules, bound, payloads, segments = rules_of(log), bound_of(log.folder), [], []
    cutoff = entries_cutoff(rules, now, bound)
    starts = [start for start, present in segment_starts(log.folder) if present]
    for start, stop in zip(starts, [*starts[1:], log.size], strict=True):
        due = due_payloads(_entries(log, start, stop), rules, now, bound)
        payloads += [seq for seq in due if payload_path(log.folder, seq).exists()]
        aged = cutoff is not None and start != starts[-1] and _last_time(log, start, stop) <= cutoff
        cutoff = cutoff if aged else None  # from the oldest on, without a gap, and never the live one
        if aged:
            segments.append(seal_of(log.folder, start, stop))
    return Due(tuple(payloads), tuple(segments))


def apply(log: AuditLog, due: Due, actor: str) -> None:
    """Erase the payloads and purge the segments that are due, each recorded before it is gone."""
    reason = "kept for the maximum of its rule"
    for at in range(0, len(due.payloads), _AT_ONCE):
        _erase(log, list(due.payloads[at : at + _AT_ONCE]), actor, reason)
    for segment in due.segments:
        _purge(log, segment, actor, reason)


def erase(log: AuditLog, seq: int, actor: str, reason: str, now: datetime, *, despite_minimum: bool = False) -> None:
    """Erase one payload; raises RetentionError where there is none, or where it has not been kept long enough."""
    try:
        entry = check_entry(log.publication_of(seq).entry + b"\n", seq)
    except LookupError as error:
        raise RetentionError(str(error)) from None
    if entry["payload_commitment"] is None:
        raise RetentionError(f"entry {seq} has no payload: what stands in an entry itself cannot be erased")
    if not payload_path(log.folder, seq).exists():
        raise RetentionError(f"the payload of entry {seq} is not there any more")
    bound = bound_of(log.folder)
    younger = too_young_by(entry, rules_of(log), now, bound)
    if younger is not None and not despite_minimum:
        whose = "the policy" if younger is bound else f"the rule {younger.text}"
        raise RetentionError(
            f"the payload of entry {seq} has not been kept for the minimum of {whose}; where a duty to erase "
            "prevails, say so with --despite-minimum, which is recorded"
        )
    _erase(log, [seq], actor, reason, despite_minimum=despite_minimum)


def _erase(log: AuditLog, seqs: list[int], actor: str, reason: str, *, despite_minimum: bool = False) -> None:
    detail: dict[str, str | int | bool] = {"seqs": format_ranges(seqs), "payloads": len(seqs)}
    if despite_minimum:
        detail["despite_minimum"] = True
    log.append(Event(actor, ERASED, log.origin, reason=reason, detail=detail))
    for seq in seqs:
        payload_path(log.folder, seq).unlink(missing_ok=True)
    sync_directory(log.folder / "payloads")


def _purge(log: AuditLog, segment: Sealed, actor: str, reason: str) -> None:
    detail: dict[str, str | int | bool] = {"first": segment.start, "entries": segment.entries, "sha256": segment.sha256}
    # What the segment says of those purged before it is said again: without it the log would not verify.
    before = [
        Event(actor, PURGED, str(entry["resource"]), reason=reason, detail=entry["detail"])  # type: ignore[arg-type]
        for entry in _entries(log, segment.start, segment.start + segment.entries)
        if entry["action"] == PURGED
    ]
    now = Event(actor, PURGED, f"segments/{segment.start:012d}.jsonl", reason=reason, detail=detail)
    log.append(*before, now)
    for seq in range(segment.start, segment.start + segment.entries):
        payload_path(log.folder, seq).unlink(missing_ok=True)
    sync_directory(log.folder / "payloads")
    segment_path(log.folder, segment.start, "jsonl").unlink()
    sync_directory(log.folder / "segments")


def _entries(log: AuditLog, start: int, stop: int) -> Iterator[dict[str, object]]:
    with segment_path(log.folder, start, "jsonl").open("rb") as file:
        for line in islice(file, stop - start):
            yield json.loads(line)


def _last_time(log: AuditLog, start: int, stop: int) -> datetime:
    *_, last = _entries(log, start, stop)
    return parse_time(str(last["time"]))
