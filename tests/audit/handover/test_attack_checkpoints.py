"""Hostile checkpoints, payloads and reports: verify.py, the package and the page's own program judge the same."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import note, verify
from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.merkle import leaf_hash, root_of
from audit.report import evidence, page
from audit.snapshot import take_all

from .conftest import HOSTILE, RUN, key_of, write_logs
from .test_report_browser import program, show

KEY = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
NAME = "fed.h/a"
VERIFIER = note.verifier_key(NAME, KEY.public_key())
ROOT = base64.b64encode(b"r" * 32).decode()
TEXT = f"{NAME}\n5\n{ROOT}\n"


def junk(size: int) -> str:
    return base64.b64encode(b"x" * size).decode()


def signed(text: str, *lines: str) -> str:
    own = base64.b64encode(VERIFIER.key_id + KEY.sign(text.encode("utf-8", "surrogatepass"))).decode()
    return "".join(f"{line}\n" for line in (text, f"— {NAME} {own}", *lines))


GOOD = {
    "plain": signed(TEXT),
    "lines that extend it": signed(TEXT + "a line\na\x85b\u2028\n"),
    "another's signature of one byte": signed(TEXT, f"— other {junk(5)}"),
    "a name with a byte order mark": signed(TEXT, f"— o\ufeffr {junk(70)}"),
    "a name of 255 characters beyond the basic plane": signed(TEXT, f"— {'😀' * 255} {junk(70)}"),
    "the most signatures": signed(TEXT, *(f"— o{number} {junk(5)}" for number in range(1023))),
    "the largest size": signed(TEXT.replace("\n5\n", "\n999999999999999\n")),
}
BAD = {
    "another's signature of no byte": signed(TEXT, f"— other {junk(4)}"),
    "a name with a next line": signed(TEXT, f"— o\x85r {junk(70)}"),
    "a name with a no-break space": signed(TEXT, f"— o\xa0r {junk(70)}"),
    "a name of 256 characters": signed(TEXT, f"— {'😀' * 256} {junk(70)}"),
    "too many signatures": signed(TEXT, *(f"— o{number} {junk(5)}" for number in range(1024))),
    "more bytes than a note has": signed(TEXT + "é" * (LIMITS.note // 2) + "\n"),
    "a root of 31 bytes": signed(f"{NAME}\n5\n{junk(31)}\n"),
    "a root of other letters": signed(f"{NAME}\n5\n{'é' * 43}=\n"),
    "a size of other digits": signed(TEXT.replace("\n5\n", "\n\u0665\n")),
    "half a character": signed(TEXT + "\ud800\n"),
    "a byte order mark": "\ufeff" + signed(TEXT),
    "carriage returns": signed(TEXT).replace("\n", "\r\n"),
    "no signature": TEXT + "\n",
}
CASES = {**GOOD, **BAD}


@pytest.mark.parametrize("name", CASES)
def test_both_readers_of_the_package_judge_a_checkpoint_alike(name: str) -> None:
    raw, outcomes = CASES[name].encode("utf-8", "surrogatepass"), []
    for read in (
        lambda: verify.open_checkpoint(raw, NAME, VERIFIER.key_id, VERIFIER.public),
        lambda: note.open_checkpoint(raw, VERIFIER),
    ):
        try:
            read()
            outcomes.append(True)
        except (verify.VerificationFailure, VerificationError):
            outcomes.append(False)
    assert outcomes == [name in GOOD] * 2


SMALL_ORDER = {  # the last two are second spellings
    "of order 1": (1).to_bytes(32, "little"),
    "of order 2": (2**255 - 20).to_bytes(32, "little"),
    "of order 4": bytes(32),
    "of order 8": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    "of order 8, another": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    "of order 1, as p + 1": (2**255 - 18).to_bytes(32, "little"),
    "of order 4, as p": (2**255 - 19).to_bytes(32, "little"),
}


@pytest.mark.parametrize("sign", [0, 1 << 7])
@pytest.mark.parametrize("public", SMALL_ORDER.values(), ids=SMALL_ORDER)
def test_no_reader_of_the_package_takes_a_key_with_which_anyone_signs(public: bytes, sign: int) -> None:
    """With R the identity and s = 0 the equation holds for every text, or for every eighth at least."""
    key = note.VerifierKey(NAME, public[:31] + bytes([public[31] | sign]))
    identity = (1).to_bytes(32, "little")
    for size in range(40):
        text = f"{NAME}\n{size}\n{ROOT}\n"
        raw = f"{text}\n— {NAME} {base64.b64encode(key.key_id + identity + bytes(32)).decode()}\n".encode()
        with pytest.raises(verify.VerificationFailure):
            verify.open_checkpoint(raw, *verify.parse_vkey(str(key)))
    with pytest.raises(VerificationError, match="of small order"):
        note.parse_vkey(str(key))


@pytest.mark.federation
def test_the_page_judges_a_checkpoint_as_they_do(browser, tmp_path: Path) -> None:
    body = f"""const key = parseVkey({json.dumps(str(VERIFIER))}); return cases.map((note) => {{
      try {{ openCheckpoint(note, key); return true; }}
      catch (error) {{ return error instanceof Failure ? false : String(error); }} }});"""
    found = program(browser, tmp_path, body, list(CASES.values()))
    assert dict(zip(CASES, found, strict=True)) == {name: name in GOOD for name in CASES}  # type: ignore[call-overload]


def with_payload(folder: Path, payload: str) -> list[str]:
    """The logs of a run, in one of which its owner wrote a payload by hand: hashes and signatures are right."""
    parties = write_logs(folder)
    north = next(party for party in parties if party.name == "north")
    (segment,) = (north.directory / "segments").glob("*.jsonl")
    lines = segment.read_text().splitlines()
    content, salt = payload.encode("utf-8", "surrogatepass"), "ab" * 32
    fields = json.loads(lines[-1]) | {
        "seq": len(lines),
        "run": RUN,
        "payload_commitment": "sha256:" + hashlib.sha256(bytes.fromhex(salt) + content).hexdigest(),
    }
    lines.append(json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    hashes = [leaf_hash(line.encode()) for line in lines]
    segment.write_text("".join(f"{line}\n" for line in lines))
    segment.with_suffix(".hashes").write_bytes(b"".join(hashes))
    file = north.directory / "payloads" / f"{len(lines) - 1:012d}.json"
    file.write_bytes(b'{"payload":%b,"salt":"%b"}\n' % (content, salt.encode()))
    origin = north.vkey.partition("+")[0]
    text = note.Checkpoint(origin, len(lines), root_of(hashes)).text
    (north.directory / "checkpoint").write_text(note.sign_note(text, origin, key_of("north")))
    return [str(party.directory) for party in parties]


PAYLOADS = {
    "deep": '{"a":' + "[" * 20_000 + "]" * 20_000 + "}",
    "a level too many": '{"a":' + "[" * 32 + "]" * 32 + "}",
    "no JSON": "{x}",
    "no number": '{"metrics":{"auc":NaN}}',
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_payload_that_the_page_cannot_read_makes_no_report(payload: str, tmp_path: Path) -> None:
    snapshots = take_all(with_payload(tmp_path, payload))
    with pytest.raises(VerificationError, match=r"by 'spiffe://heart\.example/silo/north' is not JSON of at most"):
        evidence.collect(snapshots, RUN, payloads=True)
    assert page.check(page.build(evidence.collect(snapshots, RUN)))


@pytest.mark.federation
def test_the_deepest_payload_is_shown(browser, tmp_path: Path) -> None:
    directories = with_payload(tmp_path / "logs", '{"a":' + "[" * 31 + "]" * 31 + ',"b":1e999,"c":' + "9" * 5000 + "}")
    data = page.build(evidence.collect(take_all(directories), RUN, payloads=True))
    assert page.check(data)
    assert show(browser, tmp_path, data)[0] == "verified"


def changed(collected: dict[str, Any]) -> list[dict[str, Any]]:
    """Evidence whose entries are as signed, in another form than reports have."""
    found = []
    for field, values in {
        "payloads": ("", 0, True, [], None),
        "witnessed": ("", {}, None),
        "hashes": ("\n", "=", "x"),
        "entries": (None, {}, ""),
    }.items():
        for value in values:
            one = copy.deepcopy(collected)
            one["logs"][0][field] = one["logs"][0][field] + value if field == "hashes" else value
            found.append(one)
    for payload in (*PAYLOADS.values(), '{"a":"\ufffd"}'):
        one = copy.deepcopy(collected)
        seq = next(iter(one["logs"][1]["payloads"]))
        one["logs"][1]["payloads"][seq] = f'{{"payload":{payload},"salt":"{"ab" * 32}"}}\n'
        found.append(one)
    return found


@pytest.mark.federation
def test_the_page_refuses_the_forms_of_evidence_that_the_package_refuses(
    directories: list[str], browser, tmp_path: Path
) -> None:
    cases = changed(evidence.collect(take_all(directories), RUN, payloads=True))
    only = evidence.collect(take_all(directories), RUN, payloads=True, only_run=True)
    longer = copy.deepcopy(only)
    longer["logs"][0]["proved"][0].append("more")
    for one in (*cases, longer):
        with pytest.raises(VerificationError):
            evidence.verify(evidence.decode(evidence.encode(one)))
    body = """return cases.map((text) => { try { verifyEvidence(text); return true; }
      catch (error) { return error instanceof Failure ? false : String(error); } });"""
    texts = [evidence.encode(one).decode() for one in (*cases, longer, only)]
    assert program(browser, tmp_path, body, texts) == [False] * (len(texts) - 1) + [True]


@pytest.mark.federation
def test_nothing_hidden_in_an_entry_stays_hidden_on_the_page(browser, tmp_path: Path) -> None:
    hidden = "\u061c\u00ad\u180e\u2060\u2064\ufff9\u3164\u2800\ue000\U000e0041\u034f\u115f\ufe00"
    parties = write_logs(tmp_path / "logs", hostile=HOSTILE + hidden)
    data = page.build(evidence.collect(take_all([str(party.directory) for party in parties]), RUN))
    verdict, text = show(browser, tmp_path, data)
    assert verdict == "verified"
    assert not set(hidden) & set(text)
    assert "\\u061c" in text


@pytest.mark.federation
def test_hundreds_of_thousands_of_entries_are_counted_and_drawn(browser, tmp_path: Path, monkeypatch) -> None:
    """A function that is called with as many arguments has no room on the stack."""
    before = page.script
    monkeypatch.setattr(page, "script", lambda *_: before("sha2.js", "ed25519.js", "verify.js", "facts.js", "chart.js"))
    body = """const time = "2026-11-01T08:00:00.000000Z";
      const common = {run: "r", time, round: null, policy: null, detail: {}};
      const entry = (seq) => ({...common, seq, action: "round.x", decision: "record"});
      const log = {origin: "fed/silo/a", payloads: new Map(), witnesses: [{size: 200001}]};
      log.entries = Array.from({length: 200000}, (_, seq) => entry(seq));
      const facts = factsOf({run: "r", logs: [log]});
      const points = Array.from({length: 200000}, (_, round) => [round, round % 7]);
      const chart = lineChart("norm", new Map([["a", points]]), {fromZero: false, decimals: 1});
      return [facts.checks.find((check) => check.title === "Witnesses").state, chart !== null];"""
    assert program(browser, tmp_path, body, []) == ["good", True]
