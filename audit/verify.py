"""Verify a Concordat audit log from outside, with nothing but Python's standard library (3.9 or later).

Run it as `python verify.py PATH [--key VKEY] [--json]`, where PATH is a log's directory, or a bundle of several logs
(.zip). It needs no other file and no network. It re-hashes every entry, rebuilds the Merkle tree (RFC 6962), compares
its root with the signed one, and names the first entry that is wrong. docs/audit-format.md describes the format.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

SCHEMA, B64 = "concordat/audit/v1", "[A-Za-z0-9+/]"
MAX_ENTRY, MAX_PAYLOAD, MAX_NOTE, MAX_SIGNATURES = 256 * 1024, 1024 * 1024, 512 * 1024, 1024
MAX_BUNDLE, MAX_FILES, MAX_MEMBER = 8 * 1024**3, 100_000, 128  # of a member what the archive's directory says of it
MAX_COPIES, MAX_COPIED = 10_000, 256 * 1024**2


class VerificationFailure(Exception):  # noqa: N818  named by what was found
    """The log does not verify; `seq` is the first bad entry where one can be named."""

    seq: int | None = None


def fail(message: str, seq: int | None = None) -> NoReturn:
    """Raise VerificationFailure."""
    failure = VerificationFailure(message)
    failure.seq = seq
    raise failure


# Ed25519 (RFC 8032 section 5.1), strict. Points are (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z.
Point = tuple[int, int, int, int]
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
IDENTITY: Point = (0, 1, 1, 0)


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _decode_point(data: bytes) -> Point | None:
    sign, y = data[31] >> 7, int.from_bytes(data, "little") & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or x * x % P != square or (x == 0 and sign):
        return None
    x = x if x & 1 == sign else P - x
    return (x, y, 1, x * y % P)


def _encode_point(p: Point) -> bytes:
    z = pow(p[2], -1, P)
    return (p[1] * z % P | (p[0] * z % P & 1) << 255).to_bytes(32, "little")


def check_ed25519(public: bytes, message: bytes, signature: bytes) -> None:
    """Raise unless the signature is right; s >= L, odd encodings and keys of small order are refused."""
    a, s = _decode_point(public) if len(public) == 32 else None, int.from_bytes(signature[32:], "little")
    if a is None or len(signature) != 64 or s >= L:
        fail("the signature does not verify: it or the key is not a valid Ed25519 encoding")
    double = _add(a, a)
    if _encode_point(_add(_add(double, double), _add(double, double))) == _encode_point(IDENTITY):
        fail("the signature does not verify: the key is of small order, so that anyone could sign")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    base = _decode_point((4 * pow(5, -1, P) % P).to_bytes(32, "little")) or IDENTITY
    minus_a = (P - a[0], a[1], 1, P - a[3])
    table, total = (IDENTITY, base, minus_a, _add(base, minus_a)), IDENTITY
    for bit in range(252, -1, -1):  # total = s*B - k*A in one pass; it must be R
        total = _add(total, total)
        total = _add(total, table[(s >> bit & 1) | (k >> bit & 1) << 1])
    if _encode_point(total) != signature[:32]:
        fail("the signature does not verify: it is not over this text by this key")


# The verifier key and the signed checkpoint (C2SP signed-note and tlog-checkpoint).
def _base64(text: str) -> bytes:
    data = base64.b64decode(text) if re.fullmatch(f"({B64}{{4}})*({B64}{{2}}({B64}|=)=)?", text) else b""
    if base64.b64encode(data).decode() != text:
        fail(f"got {text[:60]!r}, expected base64 in its canonical spelling")
    return data


def parse_vkey(text: str) -> tuple[str, bytes, bytes]:
    """Read `<name>+<key id, 8 hex digits>+<base64 of 0x01 and public key>` as name, key id, public key."""
    match = re.fullmatch(r"([!-*,-~]{1,255})\+([0-9a-f]{8})\+(\S{44})", text)
    blob = _base64(match[3]) if match else b""
    key_id = hashlib.sha256(match[1].encode() + b"\n" + blob).hexdigest()[:8] if match else ""
    if not match or blob[0] != 1 or key_id != match[2]:
        fail(f"got {text[:120]!r}, expected a verifier key <name>+<key id>+<base64> with its right key id")
    return match[1], bytes.fromhex(match[2]), blob[1:]


def open_checkpoint(raw: bytes, name: str, key_id: bytes, public: bytes) -> tuple[int, bytes]:
    """Check the checkpoint's signature and return the tree size and the root hash that it signs."""
    text = raw.decode(errors="replace")
    body, blank, signatures = text.rpartition("\n\n")
    lines, signed = signatures.split("\n"), False
    if len(raw) > MAX_NOTE or not blank or lines.pop() or re.search("[\0-\t\v-\x1f\ufffd]", text):
        fail("the checkpoint is not a signed note: a text, an empty line, signature lines")
    for line in lines:
        match = re.fullmatch(r"— ([^\s+]{1,255}) (\S+)", line)
        blob = _base64(match[2]) if match else b""
        if not match or len(blob) < 5 or len(lines) > MAX_SIGNATURES:
            fail(f"the checkpoint has too many signature lines, or a malformed one {line[:120]!r}")
        if match[1] == name and blob[:4] == key_id:  # other keys' signatures are not ours to judge
            check_ed25519(public, body.encode() + b"\n", blob[4:])
            signed = True
    if not signed:
        fail(f"the checkpoint is not signed by {name} (key id {key_id.hex()})")
    match = re.fullmatch(rf"([^\n]+)\n({COUNT})\n({B64}{{43}}=)((?:\n[^\n]+)*)", body)  # last: extension lines
    if not match or match[1] != name:
        fail(f"the checkpoint's text is not the origin {name}, a tree size and a root hash")
    return int(match[2]), _base64(match[3])


class _Frontier:
    """The Merkle tree of RFC 6962 section 2.1, as the roots of its complete subtrees, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []

    def add(self, leaf_hash: bytes) -> None:
        size, node = self.size, leaf_hash
        while size & 1:
            node, size = hashlib.sha256(b"\x01" + self.peaks.pop() + node).digest(), size >> 1
        self.peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        root = self.peaks[-1] if self.peaks else hashlib.sha256(b"").digest()
        for peak in self.peaks[-2::-1]:
            root = hashlib.sha256(b"\x01" + peak + root).digest()
        return root


# Entries: the exact keys and what a value must look like; OPTIONAL ones may be null.
TEXT, DIGEST, COUNT = "(?s:.+)", "sha256:[0-9a-f]{64}", "0|[1-9][0-9]{0,14}"
TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9][.][0-9]{6}"  # newer Pythons read 24:00
PATTERNS = {"schema": SCHEMA, "seq": COUNT, "time": f"{TIME}Z", "actor": TEXT}
PATTERNS |= {"action": r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", "resource": TEXT, "decision": "allow|deny|record"}
PATTERNS |= {"rule": TEXT, "reason": TEXT, "policy": DIGEST, "run": TEXT, "round": COUNT, "payload_commitment": DIGEST}
OPTIONAL = {"rule", "reason", "policy", "run", "round", "payload_commitment"}
COMPILED = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}


def check_entry(line: bytes, seq: int) -> dict[str, object]:
    """Read one line of a segment, with its line feed, as entry `seq`, or raise naming it."""
    if len(line) > MAX_ENTRY + 1 or not line.endswith(b"\n"):
        fail(f"entry {seq} is cut short or longer than {MAX_ENTRY} bytes", seq)
    try:
        entry = json.loads(line[:-1].decode())
        canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        datetime.fromisoformat(entry["time"][:-1])
    except (ValueError, RecursionError, TypeError, LookupError) as error:
        fail(f"entry {seq} is not the JSON of an entry: {error}", seq)
    if canonical != line[:-1] or not isinstance(entry, dict) or not isinstance(entry.get("detail"), dict):
        fail(f"entry {seq} is not an object with a detail, in canonical form (RFC 8785)", seq)
    detail = entry.pop("detail")
    if entry.keys() != PATTERNS.keys():
        fail(f"entry {seq} does not have exactly the keys {', '.join(PATTERNS)}, detail", seq)
    for name, value in entry.items():
        kind = int if PATTERNS[name] is COUNT else str
        fits = type(value) is kind and COMPILED[name].fullmatch(str(value)) is not None
        if not fits and (value is not None or name not in OPTIONAL):
            fail(f"entry {seq} has {name} {repr(value)[:80]}, expected {kind.__name__} {PATTERNS[name]}", seq)
    for name, value in detail.items():
        fits = type(value) in {str, bool} or (type(value) is int and abs(value) < 2**53)
        if not fits or not re.fullmatch(r"[A-Za-z0-9_./:-]{1,128}", name):
            fail(f"entry {seq} has detail {name[:80]!r}: {repr(value)[:80]}, expected text, int or bool", seq)
    if entry["seq"] != seq:
        fail(f"entry {seq} is missing or moved: in its place is entry {entry['seq']}", seq)
    return {**entry, "detail": detail}


# The same once more as one pattern, ten times as fast. A line that it matches is an entry, save for the order of the
# names in its detail and the calendar, which are checked beside it; any other line is left to check_entry.
_CHARS = r'[^"\\\x00-\x1f]*(?:\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))[^"\\\x00-\x1f]*)*'
_TEXT, _NAME = f'"(?!"){_CHARS}"', '"[A-Za-z0-9_./:-]{1,128}"'
_PAIR = f'{_NAME}:(?:"{_CHARS}"|0|-?[1-9][0-9]{{0,14}}|true|false)'
_FIELDS = {"action": r'"([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)"', "actor": _TEXT, "decision": '"(allow|deny|record)"'}
_FIELDS |= {"detail": f"({{(?:{_PAIR}(?:,{_PAIR})*)?}})", "payload_commitment": f'(?:"({DIGEST})"|null)'}
_FIELDS |= {"policy": f'(?:"{DIGEST}"|null)', "reason": f"(?:{_TEXT}|null)", "resource": _TEXT}
_FIELDS |= {"round": f"(?:{COUNT}|null)", "rule": f"(?:{_TEXT}|null)", "run": f"(?:{_TEXT}|null)"}
_FIELDS |= {"schema": f'"{SCHEMA}"', "seq": f"({COUNT})", "time": f'"({TIME})Z"'}
FAST = re.compile("{" + ",".join(f'"{name}":{pattern}' for name, pattern in _FIELDS.items()) + "}\n")
FAST_NAME = re.compile(f"({_NAME}):")
Facts = tuple[str, str, str, "str | None", "dict[str, object] | None"]


def entry_facts(line: bytes, seq: int) -> Facts:
    """Check an entry like check_entry; return its time, decision, action, commitment and, of the log's own, detail."""
    try:
        match = FAST.fullmatch(line.decode()) if len(line) <= MAX_ENTRY + 1 else None
        if match is not None:
            action, decision, detail, commitment, number, time = match.groups()
            names = FAST_NAME.findall(detail) if detail != "{}" else []
            datetime.fromisoformat(time)
            if number == str(seq) and all(map(str.__lt__, names, names[1:])):
                return time + "Z", decision, action, commitment, json.loads(detail) if action[:4] == "log." else None
    except ValueError:
        pass
    entry = check_entry(line, seq)
    action, commitment, detail = str(entry["action"]), entry["payload_commitment"], entry["detail"]
    known = commitment if isinstance(commitment, str) else None
    own = detail if action[:4] == "log." and isinstance(detail, dict) else None
    return str(entry["time"]), str(entry["decision"]), action, known, own


def open_plain(path: Path) -> io.BufferedReader:
    """Open a plain file: a hostile directory's link, pipe or device could lead elsewhere or make us wait for ever."""
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    file = open(os.open(path, os.O_RDONLY | flags), "rb")  # noqa: PTH123, SIM115  a descriptor, given to the caller
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        fail(f"{path} is not a plain file")
    return file


def read_plain(path: Path, limit: int) -> bytes:
    """The content of a plain file; failure where it is longer than the limit."""
    with open_plain(path) as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else fail(f"{path} is larger than {limit} bytes")


def segment_starts(folder: Path) -> list[tuple[int, bool]]:
    """The first number of each segment, and whether its entries are there; those of an early one may be purged."""
    names = {path.name for path in (folder / "segments").iterdir()}
    starts = sorted(int(name[:12]) for name in names if re.fullmatch(r"[0-9]{12}\.hashes", name))
    expected = {f"{start:012d}.{suffix}" for start in starts for suffix in ("jsonl", "hashes")}
    purged = {f"{start:012d}.jsonl" for start in starts[:-1]} - names
    if names | purged != expected or not starts:
        fail(f"segments/ is incomplete or holds a stranger: {', '.join(sorted(names ^ expected)[:3])}")
    return [(start, f"{start:012d}.jsonl" not in purged) for start in starts]


def read_segments(folder: Path, kind: str) -> Iterator[tuple[int, bytes]]:
    """Every line ("jsonl"; empty if purged) or 32-byte hash ("hashes") of all segments, with its segment's start."""
    starts, seq = segment_starts(folder), 0
    for index, (start, present) in enumerate(starts):
        if start != seq:
            fail(f"entry {seq} is missing: the next {kind} file in segments/ starts at {start}", seq)
        if kind == "jsonl" and not present:
            seq = starts[index + 1][0]
            yield from itertools.repeat((start, b""), seq - start)
            continue
        with open_plain(folder / "segments" / f"{start:012d}.{kind}") as file:
            while record := file.read(32) if kind == "hashes" else file.readline(MAX_ENTRY + 2):
                yield start, record
                seq += 1


def _has_payload(folder: Path, seq: int, commitment: object) -> bool:
    try:
        raw = read_plain(folder / "payloads" / f"{seq:012d}.json", MAX_PAYLOAD + 128)
    except FileNotFoundError:
        return False
    # The payload stands in its file in canonical form, so that its bytes are hashed as they are.
    match = re.fullmatch(rb'\{"payload":(\{.*\}),"salt":"([0-9a-f]{64})"\}\n', raw, re.DOTALL)
    digest = hashlib.sha256(bytes.fromhex(match[2].decode()) + match[1]).hexdigest() if match else ""
    if commitment != "sha256:" + digest:
        fail(f"the payload file of entry {seq} is not what the entry commits to: it was altered", seq)
    return True


@dataclasses.dataclass
class Report:
    """What a log holds. `key_source` is "given", or "directory": that shows consistency, not authorship."""

    origin: str
    size: int
    root: str
    key_source: str
    first_time: str | None = None
    last_time: str | None = None
    payloads: int = 0
    erased_payloads: int = 0
    unrecorded_erasures: int = 0
    left_out_payloads: int = 0
    purged: int = 0
    witnessed: int = 0
    decisions: dict[str, int] = dataclasses.field(default_factory=dict)


def walk(
    folder: Path, report: Report, *, payloads: bool = True, copies: dict[int, bytes] | None = None
) -> tuple[_Frontier, int, int, bool]:
    """Check the signed entries in one pass; return tree, segment and offset of their end, more beyond?"""
    tree, hashes, lines = _Frontier(), read_segments(folder, "hashes"), read_segments(folder, "jsonl")
    segment, offset, copies, absent = 0, 0, copies or {}, set()
    own: list[tuple[int, str, dict[str, object]]] = []  # what the log says of itself
    altered: int | None = None  # the first entry whose hash is not the one stored with it
    forked: int | None = None
    failure: VerificationFailure | None = None
    try:
        for seq, (start, line) in enumerate(itertools.islice(lines, report.size)):
            kept = next(hashes, (0, b""))[1]
            leaf_hash = hashlib.sha256(b"\0" + line[:-1]).digest() if line else kept  # purged: its hash is all there is
            if kept != leaf_hash and altered is None:
                altered = seq
            segment, offset = start, len(line) + (offset if start == segment else 0)
            if line:
                time, decision, action, commitment, detail = entry_facts(line, seq)
                report.last_time, report.first_time = time, report.first_time or time
                report.decisions[decision] = report.decisions.get(decision, 0) + 1
                if detail is not None:
                    own.append((seq, action, detail))
                if payloads and commitment is not None:
                    if _has_payload(folder, seq, commitment):
                        report.payloads += 1
                    else:
                        absent.add(seq)
            report.purged += not line
            tree.add(leaf_hash)
            if tree.size in copies and tree.root() != copies[tree.size] and forked is None:
                forked = tree.size
    except VerificationFailure as error:
        failure = error
    _judge(folder, report, tree, altered, failure)
    if forked is not None:
        fail(f"a witness cosigned another history of {forked} entries: the log's holder has signed two")
    report.witnessed, report.erased_payloads = max(copies, default=0), len(absent)
    report.unrecorded_erasures = _unrecorded(absent, own)
    purges = {detail.get("first") for _, action, detail in own if action == "log.purged"}
    for start, present in segment_starts(folder):
        if not present and start not in purges:
            fail(f"the entries from {start} on are missing, and no entry records that they were purged", start)
    return tree, segment, offset, next(lines, None) is not None or next(hashes, None) is not None


def _unrecorded(absent: set[int], own: list[tuple[int, str, dict[str, object]]]) -> int:
    """How many absent payloads no entry says were erased; entries name numbers and ranges, such as `4,7-9`."""
    left, ranges = sorted(absent), re.compile(r"(?:^|,)([0-9]{1,15})(?:-([0-9]{1,15}))?(?=,|\Z)")
    named = [0] * (len(left) + 1)  # at each absent one: ranges that begin there, less those that ended before it
    for seq, action, detail in own:
        for low, high in ranges.findall(str(detail.get("seqs", ""))) if action == "log.erased" else ():
            named[(begin := bisect.bisect_left(left, int(low)))] += 1
            named[max(begin, bisect.bisect_right(left, min(int(high or low), seq)))] -= 1
    return sum(not begun for begun in itertools.accumulate(named[:-1]))


def _judge(folder: Path, report: Report, tree: _Frontier, altered: int | None, failure: Exception | None) -> None:
    if altered is not None and (failure is None or altered < tree.size):
        stored = _Frontier()
        for _, kept in itertools.islice(read_segments(folder, "hashes"), report.size):
            stored.add(kept)
        if stored.size == report.size and stored.root().hex() == report.root:
            fail(f"entry {altered} was altered: its hash is not the stored one, which is as signed", altered)
    if failure is not None:
        raise failure
    if tree.size < report.size:
        fail(f"entry {tree.size} is missing: {report.size} are signed, {tree.size} are here", tree.size)
    if tree.root().hex() != report.root:
        known = "they agree with each other" if altered is None else f"they first differ at entry {altered}"
        fail(f"neither the entries nor the stored hashes have the signed root; {known}", altered)
    if altered is not None:
        fail(f"the entries are as signed, but the stored hash of entry {altered} was altered", altered)


class Given:
    """What was given to verify with: keys, and witnesses' copies, read before the logs, which may grow meanwhile."""

    def __init__(self, keys: Iterable[str] = (), paths: Iterable[str] = ()) -> None:
        self.keys, self.paths, self.found = list(keys), list(paths), dict[str, int]()  # found: copies, by log
        self._files: list[tuple[str, Path, bytes]] = []
        self._unused, left = set(self.paths), MAX_COPIED
        try:
            for given in self.paths:
                place = Path(given or fail("got an empty path of witnesses' copies, expected a file or a directory"))
                for path in sorted(itertools.islice(place.iterdir(), MAX_COPIES + 1)) if place.is_dir() else [place]:
                    raw = b"" if path.suffix == ".tmp" else read_plain(path, MAX_NOTE)  # .tmp: a witness is writing it
                    self._files.append((given, path, raw))
                    if (left := left - len(raw)) < 0 or len(self._files) > MAX_COPIES:
                        fail(f"{given}: got too many witnesses' copies, expected {MAX_COPIES}, {MAX_COPIED} bytes")
        except OSError as error:
            fail(f"cannot read the witness's copy {error.filename}: {error.strerror}")

    def roots(self, key: tuple[str, bytes, bytes], size: int, beside: Given) -> dict[int, bytes]:
        """The roots in the copies of a log of `size` entries, by their sizes; copies of other logs are left."""
        roots, self.found[key[0]] = {0: hashlib.sha256(b"").digest()}, 0
        for given, path, raw in self._files + beside._files:
            if raw.startswith(key[0].encode() + b"\n"):
                try:
                    seen, root = open_checkpoint(raw, *key)
                except VerificationFailure as failure:
                    fail(f"{path} is not a witness's copy of this log: {failure}")
                if seen > size:
                    fail(f"{path}, a witness's copy, has {seen} entries, the log {size}: it was cut or rolled back")
                if roots.setdefault(seen, root) != root:
                    fail(f"{path} and another copy are of two histories of {seen} entries, both signed by the log")
                self._unused.discard(given)
                self.found[key[0]] += given in self.paths
        return roots

    def require_used(self, names: Iterable[str]) -> None:
        """Raise unless every key and every path was used for a log of these names: else it had no effect."""
        known = set(names)
        for name in sorted({key.partition("+")[0] for key in self.keys}):
            choose_key(self.keys, name)
            if name not in known:
                fail(f"a key of {name} was given, but no log of that name was verified")
        for path in sorted(self._unused):
            fail(f"{path} was given for witnesses' copies, but holds none of a log that was verified")


def choose_key(keys: Sequence[str], name: str) -> str | None:
    """Of the keys that were given the one of this name; None where none were given, failure where it is missing."""
    named = {key for key in keys if key.partition("+")[0] == name}
    if len(named) > 1:
        fail(f"{len(named)} different keys of {name} were given, expected one")
    return named.pop() if named else fail(f"no key of {name} was given") if keys else None


def verify(directory: str | os.PathLike[str], vkey: str | None = None, *, copies: Sequence[str] = ()) -> Report:
    """Verify the whole log, by the key beside it where none is given, and against the witnesses' copies at paths."""
    return verify_all(Path(directory), Given([] if vkey is None else [vkey], copies))[0]


def verify_bundle(path: str | os.PathLike[str], keys: Sequence[str] = (), copies: Sequence[str] = ()) -> list[Report]:
    """Verify every log in a bundle as `verify` does. Where keys are given, each log needs its own."""
    return verify_all(Path(path), Given(keys, copies))


def verify_all(place: Path, given: Given) -> list[Report]:
    """Verify a log or a bundle, with all that was given."""
    reports = [check_log(place, given)] if os.path.isdir(place) else check_bundle(place, given)  # noqa: PTH112  never raises
    given.require_used(report.origin for report in reports)
    return reports


def check_log(folder: Path, given: Given, beside: Sequence[str] = ()) -> Report:
    """Verify one log; that all that was given was used is for `verify_all`. `beside` are paths of more copies."""
    try:
        raw = read_plain(folder / "checkpoint", MAX_NOTE)
        vkey = choose_key(given.keys, raw.partition(b"\n")[0].decode("latin-1"))
        if vkey is None or (folder / "log.vkey").exists():
            line = read_plain(folder / "log.vkey", 1024).decode("latin-1")
            if line[-1:] != "\n" or vkey not in {None, line[:-1]}:
                fail("log.vkey in the log's directory is damaged or is not the key that was given")
            vkey = line[:-1]
        key = parse_vkey(vkey)
        size, root = open_checkpoint(raw, *key)
        report, payloads = Report(key[0], size, root.hex(), "given" if given.keys else "directory"), folder / "payloads"
        beyond = walk(folder, report, copies=given.roots(key, size, Given((), beside)))[3]
        # A copy of a log may lack a directory that was empty.
        strays = (sum(1 for _ in os.scandir(payloads)) if payloads.is_dir() else 0) - report.payloads
        if (beyond or strays > 0) and not _signed_meanwhile(folder, raw):
            what = f"entry {size}" if beyond else "a file in payloads/"
            fail(f"{what} is not covered by the signature: start the log's writer once", size)
    except OSError as error:
        hint = f"; the log of this home is {folder}/audit" if os.path.exists(folder / "audit/checkpoint") else ""  # noqa: PTH110
        fail(f"cannot read {error.filename or folder}: {error.strerror}{hint}")
    return report


def _signed_meanwhile(folder: Path, checkpoint: bytes) -> bool:
    """Whether the checkpoint moved on: a writer that is at work signs what it wrote; it is given two seconds for it."""
    for _ in range(40):
        working = (folder / "lock").exists() and (folder / "lock").stat().st_size > 0
        if read_plain(folder / "checkpoint", MAX_NOTE) != checkpoint:
            return True
        if not working:
            break
        time.sleep(0.05)
    return False


class _Archive(io.BufferedReader):
    """An archive whose directory, which is read at once and into memory, cannot be larger than that of a bundle."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_FILES * MAX_MEMBER:
            fail(f"the archive has a directory of {size} bytes, expected at most {MAX_FILES * MAX_MEMBER}")
        return super().read(size)


# A bundle: the logs of several parties as logs/00, logs/01 and so on in one ZIP without compression.
UNSOUND = (zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, EOFError, RuntimeError, ValueError, OverflowError)
BUNDLED = r"bundle\.json|README\.txt|(logs/[0-9]{2,4})/(checkpoint|log\.vkey"
BUNDLED += r"|witnessed/[0-9]{4}|segments/[0-9]{12}\.(jsonl|hashes)|payloads/[0-9]{12}\.json)"


def unpack(path: Path, folder: Path) -> list[Path]:
    """Unpack a bundle into `folder` and return the directories of its logs; never more bytes than it has itself."""
    logs = set()
    with open_plain(path) as file, _Archive(file.raw) as whole, zipfile.ZipFile(whole) as archive:
        size, members = os.fstat(file.fileno()).st_size, archive.infolist()
        if size > MAX_BUNDLE or not len({member.filename for member in members}) == len(members) <= MAX_FILES:
            fail(f"{path} is larger than {MAX_BUNDLE} bytes, or holds more than {MAX_FILES} files or one of them twice")
        if sum(member.file_size for member in members) > size:
            fail(f"{path} says that it holds more bytes than it has: it is no bundle")
        for member in members:
            match = re.fullmatch(BUNDLED, member.filename)
            packed = member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size
            if not match or packed or member.flag_bits & 1:
                fail(f"{path} holds {member.filename[:80]!r}, which belongs to no bundle, or is packed")
            for needed in ("payloads", "segments", "witnessed") if match[1] else ():
                logs.add(folder / match[1])
                (folder / match[1] / needed).mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, (folder / member.filename).open("xb") as out:
                shutil.copyfileobj(source, out, 1024 * 1024)
    return sorted(logs) if logs else fail(f"{path} holds no log")


def check_bundle(path: Path, given: Given) -> list[Report]:
    """Verify every log in a bundle; that all that was given was used is for `verify_all`."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            reports = []
            for folder in unpack(path, Path(scratch)):
                report = check_log(folder, given, [str(folder / "witnessed")])
                # Whoever makes a bundle may leave payloads out: that says nothing about the log.
                report.left_out_payloads, report.unrecorded_erasures = report.unrecorded_erasures, 0
                report.erased_payloads -= report.left_out_payloads
                reports.append(report)
    except UNSOUND as error:
        fail(f"{path} is not a sound archive: {error}")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror or error}")
    if len({report.origin for report in reports}) != len(reports):
        fail(f"{path} holds two logs of one party")
    return reports


def visible(text: str, kept: str = "") -> str:
    """Write out what could steer a terminal, but for the characters that are kept."""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def as_fields(report: Report, given: Given) -> dict[str, object]:
    """The report for machines; where copies were given, with how many of them are of this log."""
    return {**vars(report), **({"copies": given.found[report.origin]} if given.paths else {})}


def describe(report: Report, given: Given) -> str:
    """The report, and whether copies that were given were compared, as a few readable lines."""
    own = "consistent, but the key is from the log's own directory: to show who wrote it, give --key"
    erased, lost = f"{report.erased_payloads} erased", report.unrecorded_erasures
    erased += f", {lost} of them without an entry that says so" if lost else ""
    erased += f", {report.left_out_payloads} not in this bundle" if report.left_out_payloads else ""
    erased += f"; {report.purged} entries purged, their hashes kept" if report.purged else ""
    seen = f"witnesses: their copies agree, the latest has {report.witnessed} entries\n" if report.witnessed else ""
    if given.paths and not given.found[report.origin]:
        seen += "witnesses: NONE of the copies that were given is of this log\n"
    return (
        f"verified: {report.origin}, {report.size} entries, {report.first_time} to {report.last_time}\n"
        f"decisions: {', '.join(f'{n} {name}' for name, n in report.decisions.items()) or 'none'}\n"
        f"payloads: {report.payloads} present, {erased}\n{seen}root: {report.root}\n"
        f"signature: {'by the key that was given' if report.key_source == 'given' else own}"
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description="Verify a Concordat audit log, or a bundle of several.")
    parser.add_argument("path", metavar="PATH", help="a log's directory (checkpoint, log.vkey, ...) or a bundle (.zip)")
    parser.add_argument("--key", metavar="VKEY", action="append", help="a verifier key, from a source that you trust")
    parser.add_argument("--witness", metavar="PATH", action="append", help="a witness's copy, or a directory of them")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, one object for each log")
    options = parser.parse_args()
    try:
        given = Given(options.key or [], options.witness or [])
        reports = verify_all(Path(options.path or fail("got an empty path, expected a log or a bundle")), given)
    except VerificationFailure as failure:
        if options.json:
            print(json.dumps({"verified": False, "seq": failure.seq, "error": str(failure)}))
        sys.exit(1 if options.json else f"FAILED: {visible(str(failure))}")
    for report in reports:
        fields = {"verified": True, **as_fields(report, given)}
        print(json.dumps(fields) if options.json else visible(describe(report, given), "\n"))


if __name__ == "__main__":
    _main()
