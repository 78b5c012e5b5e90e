from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import verify as verifier
from audit.entry import Event, encode_entry
from audit.errors import AuditEventError
from audit.keys import vkey_of
from audit.log import AuditLog, utc_now
from audit.merkle import leaf_hash, root_of
from audit.note import Checkpoint, sign_note
from audit.verify import VerificationFailure, check_ed25519, check_entry, verify

SEGMENT = "segments/000000000000.jsonl"
HASHES = "segments/000000000000.hashes"
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

# RFC 8032 section 7.1, tests 1 to 3: public key, message, signature.
RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


def failure_of(directory: Path, vkey: str | None = None) -> VerificationFailure:
    with pytest.raises(VerificationFailure) as caught:
        verify(directory, vkey)
    return caught.value


# Ed25519


@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032(public: str, message: str, signature: str):
    check_ed25519(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))
    with pytest.raises(VerificationFailure, match="not over this text"):
        check_ed25519(bytes.fromhex(public), bytes.fromhex(message) + b"\0", bytes.fromhex(signature))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 511))
@settings(max_examples=60)
def test_it_agrees_with_cryptography(seed: bytes, message: bytes, bit: int):
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    check_ed25519(public, message, signature)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerificationFailure):
        check_ed25519(public, message, bytes(flipped))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(bytes(flipped), message)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
@settings(max_examples=60)
def test_random_keys_and_signatures_are_refused_as_cryptography_does(public: bytes, signature: bytes):
    with pytest.raises(VerificationFailure):
        check_ed25519(public, b"message", signature)
    with pytest.raises((InvalidSignature, ValueError)):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, b"message")


def test_malleable_and_degenerate_signatures_are_refused():
    public, message, signature = (bytes.fromhex(text) for text in RFC_8032[1])
    s = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    with pytest.raises(VerificationFailure, match="not a valid Ed25519 encoding"):
        check_ed25519(public, message, signature[:32] + s.to_bytes(32, "little"))
    for wrong in (signature[:63], signature + b"\0", b""):
        with pytest.raises(VerificationFailure):
            check_ed25519(public, message, wrong)
    # The identity as public key, with R the identity and s = 0, satisfies the equation for every message.
    identity = (1).to_bytes(32, "little")
    with pytest.raises(VerificationFailure, match="small order"):
        check_ed25519(identity, message, identity + bytes(32))
    # y = p + 1 is the identity in a second, forbidden spelling; x = 0 with a sign is a third.
    for spelling in ((2**255 - 18).to_bytes(32, "little"), (1 | 1 << 255).to_bytes(32, "little"), b"short"):
        with pytest.raises(VerificationFailure, match="not a valid Ed25519 encoding"):
            check_ed25519(spelling, message, identity + bytes(32))


# Which entry is named


def edit(directory: Path, name: str, old: bytes, new: bytes) -> None:
    data = (directory / name).read_bytes()
    assert data.count(old) == 1
    (directory / name).write_bytes(data.replace(old, new))


def test_a_clean_edit_names_the_altered_entry(tmp_path: Path, build, vkey: str):
    build(tmp_path, 7)
    edit(tmp_path, SEGMENT, b'"n":4', b'"n":8')
    for key in (vkey, None):
        failure = failure_of(tmp_path, key)
        assert (failure.seq, str(failure)[:19]) == (4, "entry 4 was altered")


def test_the_first_of_two_altered_entries_is_named(tmp_path: Path, build):
    build(tmp_path, 7)
    edit(tmp_path, SEGMENT, b'"n":2', b'"n":8')
    edit(tmp_path, SEGMENT, b'"seq":5', b'"seq":6')
    assert failure_of(tmp_path).seq == 2
    edit(tmp_path, SEGMENT, b'"n":1', b'"n": ')
    assert failure_of(tmp_path).seq == 1


def test_an_edit_with_a_matching_hash_is_known_not_to_be_signed(tmp_path: Path, build):
    build(tmp_path, 5)
    edit(tmp_path, SEGMENT, b'"n":3', b'"n":8')
    lines = (tmp_path / SEGMENT).read_bytes().splitlines()
    (tmp_path / HASHES).write_bytes(b"".join(leaf_hash(line) for line in lines))
    failure = failure_of(tmp_path)
    assert failure.seq is None
    assert "neither the entries nor the stored hashes" in str(failure)
    assert "agree with each other" in str(failure)
    edit(tmp_path, SEGMENT, b'"n":2', b'"n":8')
    failure = failure_of(tmp_path)
    assert (failure.seq, "first differ at entry 2" in str(failure)) == (2, True)


def test_an_altered_hash_is_told_from_an_altered_entry(tmp_path: Path, build):
    build(tmp_path, 5)
    hashes = (tmp_path / HASHES).read_bytes()
    (tmp_path / HASHES).write_bytes(hashes[:96] + bytes(32) + hashes[128:])
    failure = failure_of(tmp_path)
    assert (failure.seq, "stored hash of entry 3 was altered" in str(failure)) == (3, True)
    (tmp_path / HASHES).write_bytes(hashes[:128])
    assert failure_of(tmp_path).seq == 4
    (tmp_path / HASHES).write_bytes(hashes + bytes(32))
    assert failure_of(tmp_path).seq == 5


def test_missing_and_surplus_entries_are_named(tmp_path: Path, build, open_log):
    build(tmp_path, 4)
    old, hashes = (tmp_path / "checkpoint").read_bytes(), (tmp_path / HASHES).read_bytes()
    lines = (tmp_path / SEGMENT).read_bytes().splitlines(keepends=True)
    for gone, seq in ((3, 3), (0, 0), (1, 1)):
        (tmp_path / SEGMENT).write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
        failure = failure_of(tmp_path)
        assert (failure.seq, "missing" in str(failure)) == (seq, True)
    (tmp_path / SEGMENT).write_bytes(b"".join(lines))
    build(tmp_path, 2)
    (tmp_path / "checkpoint").write_bytes(old)
    failure = failure_of(tmp_path)
    assert (failure.seq, str(failure)) == (
        4, "entry 4 is not covered by the signature: start the log's writer once",
    )  # fmt: skip
    (tmp_path / HASHES).write_bytes(hashes)
    assert failure_of(tmp_path).seq == 4
    open_log(tmp_path).close()
    assert verify(tmp_path).size == 7


def test_a_writer_at_work_signs_what_it_wrote_and_one_that_ended_does_not(
    tmp_path: Path, build, monkeypatch: pytest.MonkeyPatch
):
    build(tmp_path, 4)
    checkpoint, waits = tmp_path / "checkpoint", []
    old = checkpoint.read_bytes()
    build(tmp_path, 2)
    new = checkpoint.read_bytes()
    checkpoint.write_bytes(old)
    (tmp_path / "lock").write_text("4711\n")
    monkeypatch.setattr("audit.verify.time.sleep", waits.append)
    assert failure_of(tmp_path).seq == 4
    assert 1 < sum(waits) < 3

    def sign(seconds: float) -> None:
        checkpoint.write_bytes(new)

    monkeypatch.setattr("audit.verify.time.sleep", sign)
    assert verify(tmp_path).size == 4
    assert verify(tmp_path).size == 6


def test_payload_files_are_held_to_their_commitments(tmp_path: Path, build):
    build(tmp_path, 4)
    payloads = tmp_path / "payloads"
    first, second = sorted(payloads.iterdir())
    swapped = first.read_bytes()
    first.write_bytes(second.read_bytes())
    failure = failure_of(tmp_path)
    assert (failure.seq, "payload file of entry 1" in str(failure)) == (1, True)
    first.write_bytes(swapped.replace(b"}\n", b" }\n"))
    assert failure_of(tmp_path).seq == 1
    first.write_bytes(swapped)
    (payloads / "000000000000.json").write_bytes(swapped)
    assert "a file in payloads/" in str(failure_of(tmp_path))
    (payloads / "000000000000.json").unlink()
    (payloads / "notes.txt").write_bytes(b"")
    assert "a file in payloads/" in str(failure_of(tmp_path))


def test_a_foreign_key_is_refused(tmp_path: Path, build, origin: str, vkey: str):
    build(tmp_path, 2)
    other = vkey_of(origin, Ed25519PrivateKey.generate().public_key())
    assert "not the key that was given" in str(failure_of(tmp_path, other))
    (tmp_path / "log.vkey").unlink()
    assert "is not signed by" in str(failure_of(tmp_path, other))
    assert verify(tmp_path, vkey).key_source == "given"
    assert "cannot read" in str(failure_of(tmp_path))


def test_links_pipes_and_directories_are_refused(tmp_path: Path, build):
    build(tmp_path / "log", 2)
    payload = tmp_path / "log/payloads/000000000001.json"
    saved = payload.read_bytes()
    payload.unlink()
    os.mkfifo(payload)
    assert "not a plain file" in str(failure_of(tmp_path / "log"))
    payload.unlink()
    (tmp_path / "elsewhere").write_bytes(saved)
    payload.symlink_to(tmp_path / "elsewhere")
    assert "cannot read" in str(failure_of(tmp_path / "log"))
    payload.unlink()
    payload.mkdir()
    assert "cannot read" in str(failure_of(tmp_path / "log"))
    payload.rmdir()
    (tmp_path / "log/segments/stranger").write_bytes(b"")
    assert "holds a stranger: stranger" in str(failure_of(tmp_path / "log"))
    assert "cannot read" in str(failure_of(tmp_path / "absent"))


# What a dishonest holder of the key could sign

GOOD = encode_entry(Event("gate", "run.admit", "run-1"), seq=0, time=utc_now(), commitment=None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"round":null', '"round":1.0'),
        ('"round":null', '"round":1e2'),
        ('"round":null', '"round":NaN'),
        ('"round":null', '"round":-1'),
        ('"round":null', '"round":true'),
        ('"round":null', '"round":9007199254740993'),
        ('"round":null', '"round":' + "9" * 5000),
        ('"round":null', '"round":null,"round":null'),
        ('"round":null', '"round" :null'),
        ('"round":null', '"rouns":null'),
        ('"round":null,', ""),
        ('"rule":null', '"rule":""'),
        ('"detail":{}', '"detail":{"x":0.5}'),
        ('"detail":{}', '"detail":{"x":null}'),
        ('"detail":{}', '"detail":{"x":{}}'),
        ('"detail":{}', '"detail":{"b":1,"a":1}'),
        ('"detail":{}', '"detail":{"é":1}'),
        ('"detail":{}', '"detail":[]'),
        ('"detail":{}', '"detail":' + "[" * 30000 + "]" * 30000),
        ('"actor":"gate"', '"actor":"g\\u0061te"'),
        ('"actor":"gate"', '"actor":"\\ud800"'),
        ('"actor":"gate"', '"actor":"a\\/b"'),
        ('"decision":"record"', '"decision":"maybe"'),
        ("concordat/audit/v1", "concordat/audit/v2"),
        ("T", "t"),
        ("Z", "+00:00"),
        ('"time":"2', '"time":"٢'),
        ('"seq":0', '"seq":1'),
        ('"seq":0', '"seq":"0"'),
        ('{"action', '\ufeff{"action'),
    ],
)
def test_signed_entries_that_break_the_format_are_refused(tmp_path: Path, sign_lines, old: str, new: str):
    text = GOOD.decode()
    assert old in text
    sign_lines(tmp_path, [text.replace(old, new, 1).encode()])
    assert failure_of(tmp_path).seq == 0


@pytest.mark.parametrize("line", [b"[]\n", b'"x"\n', b"null\n", b"{}\n", b"\n", b"\xff\n", b"7\n", b'{"time":7}\n'])
def test_signed_lines_that_are_no_entries_are_refused(tmp_path: Path, sign_lines, line: bytes):
    sign_lines(tmp_path, [line])
    assert failure_of(tmp_path).seq == 0


def test_impossible_times_and_oversized_entries_are_refused(tmp_path: Path, sign_lines):
    impossible = GOOD[: GOOD.index(b'"time":"') + 8] + b"2026-02-30T00:00:00.000000Z" + b'"}\n'
    sign_lines(tmp_path / "time", [impossible])
    assert "day is out of range" in str(failure_of(tmp_path / "time"))
    sign_lines(tmp_path / "size", [GOOD.replace(b"gate", b"x" * verifier.MAX_ENTRY)])
    assert "longer than" in str(failure_of(tmp_path / "size"))


def test_several_segments_are_read_in_order(tmp_path: Path, build, vkey: str, key, origin: str):
    build(tmp_path, 6)
    segments = tmp_path / "segments"
    lines = (tmp_path / SEGMENT).read_bytes().splitlines(keepends=True)
    hashes = (tmp_path / HASHES).read_bytes()
    for start, end in ((0, 4), (4, 6)):
        (segments / f"{start:012d}.jsonl").write_bytes(b"".join(lines[start:end]))
        (segments / f"{start:012d}.hashes").write_bytes(hashes[32 * start : 32 * end])
    assert verify(tmp_path, vkey).size == 6
    with AuditLog.open(tmp_path, origin=origin, key=key) as log:
        assert log.append(Event("gate", "after", "m")) == [6]
    assert len((segments / "000000000004.jsonl").read_bytes().splitlines()) == 3
    assert verify(tmp_path, vkey).size == 7
    (segments / "000000000004.jsonl").rename(segments / "000000000005.jsonl")
    (segments / "000000000004.hashes").rename(segments / "000000000005.hashes")
    assert failure_of(tmp_path, vkey).seq == 4
    (segments / "000000000005.hashes").unlink()
    assert "incomplete" in str(failure_of(tmp_path, vkey))


# The fast way to check an entry


def fast(line: bytes, seq: int) -> bool:
    """Whether the one pattern alone takes a line for an entry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifier, "check_entry", lambda line, seq: verifier.fail("left to check_entry", seq))
        try:
            verifier.entry_facts(line, seq)
        except VerificationFailure:
            return False
    return True


texts = st.text(min_size=1, max_size=12)
details = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_./:-]{1,12}", fullmatch=True),
    st.text(max_size=12) | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans(),
    max_size=5,
)


@given(st.data())
def test_the_fast_way_takes_every_entry_that_the_writer_writes(data: st.DataObject):
    try:
        event = Event(
            data.draw(texts),
            "log.rotated",
            data.draw(texts),
            reason=data.draw(st.none() | texts),
            rule=data.draw(st.none() | texts),
            round=data.draw(st.none() | st.integers(0, 99)),
            detail=data.draw(details),
        )
    except AuditEventError:
        return
    line = encode_entry(event, seq=7, time=datetime.now(UTC), commitment=None)
    time, decision, action, commitment, detail = verifier.entry_facts(line, 7)
    read = check_entry(line, 7)
    assert (time, decision, action, commitment, detail) == (
        read["time"], read["decision"], read["action"], None, read["detail"],
    )  # fmt: skip
    if all(type(value) is not int or abs(value) < 10**15 for value in event.detail.values()):
        assert fast(line, 7)


SPECIAL = {"reason": 'né "\\\n', "actor": "g", "action": "log.x", "resource": "r"}
FAST_LINES = [
    encode_entry(Event(**SPECIAL, detail=detail), seq=7, time=datetime(2026, 2, 28, tzinfo=UTC), commitment=None)
    for detail in ({}, {"a": 1, "b.c": "x", "d": True, "e": -5})
]
WORDS = '" \\ \\u000b \\u0008 \\u001F \\ud800 , : { } null 0 -0 - + 1.0 1e3 30 29 31 24 60 "a":1, ,"a":1 "z":2, true ""'
PIECES = [*WORDS.encode().split(), b" ", b"\n", b"\x7f", b"\x01", b"\xed\xa0\x80", b"\xc3"]


@settings(max_examples=1500)
@given(st.data())
def test_what_the_fast_way_takes_is_an_entry(data: st.DataObject):
    """Lines changed at any place, with what JSON and its canonical form are sensitive to."""
    line = data.draw(st.sampled_from(FAST_LINES))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(line)))
        piece = data.draw(st.sampled_from(PIECES) | st.binary(min_size=1, max_size=2))
        line = line[:at] + piece + line[at + data.draw(st.integers(0, 2)) :]
    if fast(line, 7):
        check_entry(line, 7)


# Fuzzing: one error only


@pytest.fixture(scope="module")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = Ed25519PrivateKey.generate()
    directory = tmp_path_factory.mktemp("fuzz") / "log"
    with AuditLog.open(directory, origin="a/log", key=key) as log:
        for n in range(3):
            log.append(Event("gate", "run.admit", "r", detail={"n": n}, payload={"x": 0.5} if n == 1 else None))
    return directory


FILES = [SEGMENT, HASHES, "checkpoint", "log.vkey", "payloads/000000000001.json"]


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_to_any_file_is_one_kind_of_failure(small_log: Path, data: st.DataObject):
    name = data.draw(st.sampled_from(FILES))
    original = (small_log / name).read_bytes()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 40)))
    piece = data.draw(st.binary(max_size=40) | st.sampled_from([b"\n", b'"', b"{", b"}", b"[" * 5000, b"1" * 5000]))
    changed = original[:start] + piece + original[end:]
    if changed == original:
        return
    (small_log / name).write_bytes(changed)
    try:
        with pytest.raises(VerificationFailure):
            verify(small_log)
    finally:
        (small_log / name).write_bytes(original)


@given(st.binary() | st.text().map(str.encode), st.integers(0, 5))
def test_any_line_is_an_entry_or_one_kind_of_failure(line: bytes, seq: int):
    with pytest.raises(VerificationFailure) as caught:
        check_entry(line + b"\n", seq)
    assert caught.value.seq == seq


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_value_in_any_field_is_an_entry_or_one_kind_of_failure(data: st.DataObject):
    entry = json.loads(GOOD)
    for name in data.draw(st.lists(st.sampled_from(sorted(entry)), min_size=1, max_size=3)):
        entry[name] = data.draw(values)
    try:
        line = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return
    try:
        read = check_entry(line, 0)
    except VerificationFailure:
        return
    assert read == json.loads(line)


# A log that is being written to


def test_a_log_that_grows_meanwhile_verifies(tmp_path: Path, build, open_log, monkeypatch: pytest.MonkeyPatch):
    build(tmp_path, 3)
    walk = verifier.walk

    def slow_walk(folder: Path, report: verifier.Report, **options: Any):
        if "copies" in options:  # the verifier's own walk, and not the one of the writer that opens the log
            with open_log(tmp_path) as log:
                log.append(Event("gate", "round.egress", "m", payload={"x": 1}))
        return walk(folder, report, **options)

    monkeypatch.setattr(verifier, "walk", slow_walk)
    assert verify(tmp_path).size == 3


# The lone file


def run_alone(tmp_path: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    alone = tmp_path / "alone"
    alone.mkdir(exist_ok=True)
    shutil.copy(verifier.__file__, alone / "verify.py")
    command = [sys.executable, "-I", "-S", "verify.py", *arguments]
    return subprocess.run(command, cwd=alone, env={}, capture_output=True, text=True, check=False)


def test_it_runs_alone_without_any_package(tmp_path: Path, build, vkey: str, origin: str):
    log = build(tmp_path / "log", 4)
    given_key = run_alone(tmp_path, log, "--key", vkey)
    assert (given_key.returncode, given_key.stderr) == (0, "")
    assert "by the key that was given" in given_key.stdout
    own = run_alone(tmp_path, log)
    assert own.returncode == 0
    assert "the key is from the log's own directory: to show who wrote it, give --key" in own.stdout
    report = json.loads(run_alone(tmp_path, log, "--json").stdout)
    lines = (log / SEGMENT).read_bytes().splitlines()
    assert report == {
        "verified": True,
        "origin": origin,
        "size": 4,
        "root": root_of(leaf_hash(line) for line in lines).hex(),
        "key_source": "directory",
        "first_time": "2026-11-01T08:00:00.001000Z",
        "last_time": "2026-11-01T08:00:00.004000Z",
        "payloads": 2,
        "erased_payloads": 0,
        "unrecorded_erasures": 0,
        "left_out_payloads": 0,
        "purged": 0,
        "witnessed": 0,
        "decisions": {"allow": 4},
    }
    edit(log, SEGMENT, b'"n":2', b'"n":7')
    failed = run_alone(tmp_path, log)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("FAILED: entry 2 was altered")
    as_json = run_alone(tmp_path, log, "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["seq"]) == (1, 2)
    assert run_alone(tmp_path).returncode == 2


def test_the_file_is_short_and_imports_only_the_standard_library():
    source = Path(verifier.__file__).read_text()
    assert len(source.splitlines()) <= 600
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= sys.stdlib_module_names | {"__future__"}
    assert not imported & {"importlib", "socket", "subprocess", "urllib", "http"}


def test_memory_does_not_grow_with_the_log(tmp_path: Path, sign_lines):
    import tracemalloc

    def peak(count: int) -> int:
        lines = [GOOD.replace(b'"seq":0', b'"seq":%d' % seq) for seq in range(count)]
        directory = sign_lines(tmp_path / str(count), lines)
        del lines
        tracemalloc.start()
        try:
            assert verify(directory).size == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(4000) < peak(500) + 100_000


def test_an_empty_log_verifies(tmp_path: Path, sign_lines, origin: str, key):
    sign_lines(tmp_path, [])
    report = verify(tmp_path)
    assert (report.size, report.first_time, report.decisions) == (0, None, {})
    (tmp_path / "checkpoint").write_text(sign_note(Checkpoint(origin, 0, bytes(32)).text, origin, key))
    assert "neither" in str(failure_of(tmp_path))
