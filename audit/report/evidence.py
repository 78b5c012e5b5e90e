"""What a report embeds: the entries of several logs about one run, with all that is needed to verify them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

from audit.cosignature import cosigned_at, cosigner_id
from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.merkle import leaf_hash, root_of, verify_inclusion
from audit.note import Checkpoint, Note, VerifierKey, decode_base64, open_checkpoint, parse_note, parse_vkey
from audit.paths import AuditPaths
from audit.query import SelectionError
from audit.snapshot import Entry, Snapshot
from audit.verify import VerificationFailure, check_entry

Signature = tuple[str, bytes, bytes]
SCHEMA = "concordat/audit-report/v1"
_PAYLOAD = re.compile(rb'\{"payload":(\{.*\}),"salt":"([0-9a-f]{64})"\}\n', re.DOTALL)


@dataclass(frozen=True)
class Verified:
    """One log of a report: its key, its signed tree, how many entries are here and whether these are all."""

    key: VerifierKey
    checkpoint: Checkpoint
    entries: int
    complete: bool


def collect(
    snapshots: Sequence[Snapshot], run: str, *, payloads: bool = False, only_run: bool = False
) -> dict[str, Any]:
    """The evidence about `run` from verified logs, as JSON values; the same logs give the same evidence.

    A log is embedded whole, so that a reader sees that nothing about the run was left out; with `only_run`, or
    where it is longer than `LIMITS.report_entries` or was purged in part, its entries about the run and those of its
    start are, each with an inclusion proof. `payloads` adds the payloads of the run's entries that were not erased:
    a copy in a report can no longer be erased by its owner. SelectionError where no log has an entry of the run.
    """
    logs, found = [], False
    keys = [parse_vkey(snapshot.vkey) for snapshot in snapshots]
    for snapshot in sorted(snapshots, key=lambda item: item.origin):
        whole = not only_run and snapshot.size <= LIMITS.report_entries
        entries, paths = _read(snapshot, run, whole=whole)
        whole = whole and len(entries) == snapshot.size  # and nothing of it was purged
        of_run = [entry for entry in entries if entry.fields["run"] == run]
        found = found or bool(of_run)
        log: dict[str, Any] = {"vkey": snapshot.vkey, "checkpoint": _own_note(snapshot), "payloads": {}}
        if whole:
            log["entries"] = [entry.line.decode() for entry in entries]
            log["hashes"] = "".join(_b64(leaf_hash(entry.line)) for entry in entries)
            log["witnessed"] = _witnessed(snapshot, keys, [leaf_hash(entry.line) for entry in entries])
        else:
            log["proved"] = [_proved(entry, paths) for entry in _with_start(entries, run)]
        for entry in of_run if payloads else ():
            raw = snapshot.payload(entry.seq) if entry.fields["payload_commitment"] else None
            if raw is not None:
                _check_payload(raw, entry.fields)
                log["payloads"][str(entry.seq)] = raw.decode()
        logs.append(log)
    if not found:
        raise SelectionError(f"none of the logs has an entry of run {run}: list runs with `query --action 'run.*'`")
    return {"schema": SCHEMA, "run": run, "logs": logs}


def encode(evidence: Mapping[str, Any]) -> bytes:
    """The evidence as it stands in a page: JSON in ASCII that ends no element of HTML."""
    text = json.dumps(evidence, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").encode()


def decode(data: bytes) -> dict[str, Any]:
    """The evidence of a page, with nothing verified; VerificationError where it is none."""
    try:
        evidence = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VerificationError("the evidence is not JSON") from error
    if not isinstance(evidence, dict) or evidence.get("schema") != SCHEMA:
        raise VerificationError(f"the evidence is not of schema {SCHEMA}")
    return evidence


def verify(evidence: Mapping[str, Any], keys: Sequence[str] = ()) -> list[Verified]:
    """Raise VerificationError unless every log in the evidence verifies, by `keys` where any are given."""
    try:
        witnesses = [parse_vkey(log["vkey"]) for log in evidence["logs"]]
        logs = [_verify_log(log, keys, witnesses) for log in evidence["logs"]]
        run, origins = evidence["run"], [log.key.name for log in logs]
        if len(set(origins)) != len(origins):
            raise VerificationError("one party's log is in the evidence twice")
        lines = [line for log in evidence["logs"] for line in _lines(log)]
        if not any(json.loads(line)["run"] == run for line in lines):
            raise VerificationError(f"no log in the evidence has an entry of run {str(run)[:100]!r}")
    except VerificationFailure as failure:
        raise VerificationError(str(failure)) from None
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise VerificationError(f"the evidence is damaged: {type(error).__name__} {str(error)[:100]}") from error
    return logs


def _verify_log(log: Mapping[str, Any], keys: Sequence[str], witnesses: Sequence[VerifierKey]) -> Verified:
    key = parse_vkey(log["vkey"])
    if keys and log["vkey"] not in keys:
        raise VerificationError(f"the log of {key.name} is signed with a key that was not given: {log['vkey'][:200]}")
    checkpoint, complete = open_checkpoint(log["checkpoint"].encode(), key), "entries" in log
    fields = {}
    if complete:
        for seq, line in enumerate(log["entries"]):
            fields[str(seq)] = check_entry(line.encode() + b"\n", seq)
        hashes = [leaf_hash(line.encode()) for line in log["entries"]]
        stored = [_b64(item) for item in hashes]
        if len(hashes) != checkpoint.size or root_of(hashes) != checkpoint.root or "".join(stored) != log["hashes"]:
            raise VerificationError(f"the entries of {key.name} do not have the signed root")
        if not isinstance(log["witnessed"], list):
            raise VerificationError(f"the evidence on {key.name} is damaged: it has no list of witnesses' signatures")
        root_at = _roots(hashes)
        for note in log["witnessed"]:
            _check_witness(note.encode(), key, witnesses, root_at)
    else:
        last = -1
        for seq, line, path in log["proved"]:
            if type(seq) is not int or seq <= last:
                raise VerificationError(f"the entries of {key.name} are out of order")
            last = seq
            hashed = leaf_hash(line.encode())
            verify_inclusion(hashed, seq, checkpoint.size, [decode_base64(item) for item in path], checkpoint.root)
            fields[str(seq)] = check_entry(line.encode() + b"\n", seq)
    for seq_text, raw in log["payloads"].items():
        _check_payload(raw.encode(), fields[seq_text])
    return Verified(key, checkpoint, len(fields), complete)


def _witnessed(snapshot: Snapshot, keys: Sequence[VerifierKey], hashes: Sequence[bytes]) -> list[str]:
    """The latest checkpoint of the log that each other party of the report cosigned, with these two signatures.

    All are verified here. Where there are many, the newest are kept: the page verifies them again, and takes longer.
    """
    own, latest, root_at = parse_vkey(snapshot.vkey), dict[str, tuple[int, str]](), _roots(hashes)
    for data in snapshot.witnessed:
        checkpoint, note = open_checkpoint(data, own), parse_note(data)
        size = checkpoint.size
        if size > snapshot.size:
            raise VerificationError(f"{own.name} has {snapshot.size} entries, a witness saw {size}: it was set back")
        lines = dict[tuple[str, bytes], list[Signature]]()
        for item in note.signatures:
            lines.setdefault(item[:2], []).append(item)
        for witness in keys:
            given = lines.get((witness.name, cosigner_id(witness)), ())
            if witness == own or size < latest.get(witness.name, (0, ""))[0]:
                continue
            # Anyone may have put a line there in the witness's name; such a line says nothing.
            line = next((item for item in given if _is_cosignature(note.text, item, witness)), None)
            if line is not None:
                if root_at(size) != checkpoint.root:
                    raise VerificationError(f"{witness.name} cosigned another history of {own.name}: it has signed two")
                kept = [lines[own.name, own.key_id][0], line]
                text = note.text + "\n" + "".join(f"— {name} {_b64(key_id + blob)}\n" for name, key_id, blob in kept)
                latest[witness.name] = (size, text)
    newest = sorted(latest, key=lambda name: (-latest[name][0], name))[: LIMITS.report_witnesses]
    return [latest[name][1] for name in sorted(newest)]


def _is_cosignature(text: str, line: Signature, witness: VerifierKey) -> bool:
    try:
        return cosigned_at(Note(text, (line,)), witness) >= 0
    except VerificationError:
        return False


def _roots(hashes: Sequence[bytes]) -> Callable[[int], bytes]:
    """The root over the first so many leaves, each computed once; empty where there are fewer leaves."""
    return cache(lambda size: root_of(hashes[:size]) if size <= len(hashes) else b"")


def _check_witness(
    note: bytes, key: VerifierKey, witnesses: Sequence[VerifierKey], root_at: Callable[[int], bytes]
) -> None:
    checkpoint, signatures = open_checkpoint(note, key), parse_note(note).signatures
    name, key_id, _ = signatures[-1]
    known = [item for item in witnesses if item.name == name and item != key and cosigner_id(item) == key_id]
    if len(signatures) != 2 or signatures[0][:2] != (key.name, key.key_id) or not known:
        raise VerificationError(f"the checkpoint of {key.name} is not cosigned by one party of the report")
    cosigned_at(parse_note(note), known[0])
    if root_at(checkpoint.size) != checkpoint.root:
        raise VerificationError(f"{known[0].name} cosigned another history of {key.name}: it has signed two")


def _lines(log: Mapping[str, Any]) -> list[str]:
    return list(log["entries"]) if "entries" in log else [line for _, line, _ in log["proved"]]


def _check_payload(raw: bytes, fields: Mapping[str, Any]) -> None:
    match = _PAYLOAD.fullmatch(raw) if len(raw) <= LIMITS.payload + 128 else None
    digest = hashlib.sha256(bytes.fromhex(match[2].decode()) + match[1]).hexdigest() if match else ""
    if fields["payload_commitment"] != f"sha256:{digest}":
        raise VerificationError(f"the payload of entry {fields['seq']} is not what the entry commits to")
    try:  # what the page could not read would keep it from showing anything
        content = json.loads(match[1].decode(), parse_constant=_no_number, parse_int=float) if match else None
        shallow = _is_within(content, LIMITS.payload_depth)
    except (ValueError, RecursionError):
        shallow = False
    if not shallow:
        raise VerificationError(
            f"the payload of entry {fields['seq']} by {fields['actor'][:100]!r} is not JSON of at most "
            f"{LIMITS.payload_depth} levels, as no writer of this product makes it: leave the payloads out"
        )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"got {name}, expected a number")


def _is_within(value: object, levels: int) -> bool:
    """Whether lists and objects are nested no deeper than so many levels."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_within(item, levels - 1) for item in inner)


def _read(snapshot: Snapshot, run: str, *, whole: bool) -> tuple[list[Entry], AuditPaths]:
    """The log's audit paths and, of its entries, all or those that concern the run."""
    entries: list[Entry] = []

    def keep(entry: Entry) -> None:
        if whole or _concerns(entry, run):
            entries.append(entry)

    return entries, snapshot.paths(keep)


def _concerns(entry: Entry, run: str) -> bool:
    """Whether an entry is of the run, or may tell how its party started and stood meanwhile."""
    return entry.fields["run"] in {run, None} and entry.fields["action"] != "connection.refused"


def _with_start(entries: Sequence[Entry], run: str) -> list[Entry]:
    """Of the entries that concern a run: the run's, and the others from its party's last start before on."""
    of_run = [entry.seq for entry in entries if entry.fields["run"] == run]
    if not of_run:
        return []
    starts = [e.seq for e in entries if e.fields["action"].endswith(".start") and e.seq < of_run[0]]
    begin = starts[-1] if starts else of_run[0]
    return [entry for entry in entries if begin <= entry.seq <= of_run[-1]]


def _proved(entry: Entry, paths: AuditPaths) -> list[Any]:
    return [entry.seq, entry.line.decode(), [_b64(item) for item in paths.of(entry.seq)]]


def _own_note(snapshot: Snapshot) -> str:
    """The checkpoint with the log's own signature alone, so that every byte of it is verified by its reader."""
    note, key = parse_note(snapshot.note), parse_vkey(snapshot.vkey)
    own = [item for item in note.signatures if (item[0], item[1]) == (key.name, key.key_id)]
    return note.text + "\n" + "".join(f"— {name} {_b64(key_id + signature)}\n" for name, key_id, signature in own)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
