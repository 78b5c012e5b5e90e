"""The page in a real browser: it verifies what it shows, and what it does not verify it does not show."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.entry import Event
from audit.errors import AuditError
from audit.log import AuditLog
from audit.note import sign_note
from audit.report import evidence, page
from audit.snapshot import take_all
from audit.verify import VerificationFailure, check_ed25519

from .conftest import HOSTILE, RUN, countersigned, key_of, last_json, write_logs

pytestmark = pytest.mark.federation

# RFC 8032 section 7.1: public key, message, signature. TEST 1, 2, 3 and SHA(abc).
RFC8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.fixture
def collected(directories: list[str]) -> dict:
    return evidence.collect(take_all(directories), RUN, payloads=True)


def show(browser: Callable[[Path], str], folder: Path, data: bytes) -> tuple[str, str]:
    """Verdict and visible text of a page."""
    path = folder / "report.html"
    path.write_bytes(data)
    document = browser(path)
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", document.partition("<body>")[2], flags=re.S)
    return re.search(r'data-verdict="(\w+)"', document)[1], html.unescape(re.sub(r"<[^>]+>", "\n", body))


def test_a_good_page_is_green_and_tells_the_run(browser, collected: dict, tmp_path: Path):
    verdict, text = show(browser, tmp_path, page.build(collected))
    assert verdict == "verified"
    for words in (
        "33 entries of 3 signed logs",
        "olga of the federation",
        "for the purpose HMB on the dataset heart",
        "north (DE) and south (FR) admitted it",
        "over 240 rows in all",
        "In all 6 cases the model a silo received is the one",
        "no rule allows it",
        "epsilon_micro 412000",
        "auc on each silo's own validation rows",
        "Every log was countersigned by another party after its last entry about the run",
    ):
        assert words in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('\\"rows\\":120', '\\"rows\\":121', "First bad entry: number 3 of heart.example/silo/north"),
        ("heart.example/silo/north\\n13\\n", "heart.example/silo/north\\n12\\n", "Log heart.example/silo/north"),
        ('\\"loss\\":0.7', '\\"loss\\":0.6', "First bad entry: number 5 of heart.example/silo/north"),
    ],
)
def test_one_changed_byte_is_red_and_nothing_is_shown(browser, collected: dict, tmp_path: Path, old, new, where):
    text = page.build(collected).decode()
    assert old in text
    verdict, visible = show(browser, tmp_path, text.replace(old, new, 1).encode())
    assert verdict == "failed"
    assert "Not verified" in visible
    assert where in visible
    assert "olga" not in visible


def test_a_changed_program_does_not_run(browser, collected: dict, tmp_path: Path):
    changed = page.build(collected).replace(
        b'setAttribute("data-verdict", "failed")', b'setAttribute("data-verdict", "passed")'
    )
    verdict, visible = show(browser, tmp_path, changed)
    assert verdict == "unchecked"
    assert "Not verified yet" in visible


def test_hostile_text_is_shown_as_text(browser, tmp_path: Path):
    parties = write_logs(tmp_path / "logs", hostile=HOSTILE)
    data = page.build(evidence.collect(take_all([party.directory for party in parties]), RUN))
    path = tmp_path / "report.html"
    path.write_bytes(data)
    document = browser(path)
    assert 'data-verdict="verified"' in document
    assert "<img" not in document
    assert "admitted &lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in document
    assert "\\u202e=cmd" in document.partition("<body>")[2]


def test_a_model_for_one_silo_alone_is_pointed_out(browser, tmp_path: Path):
    parties = write_logs(tmp_path / "logs", other_model=True)
    data = page.build(evidence.collect(take_all([party.directory for party in parties]), RUN, only_run=True))
    verdict, text = show(browser, tmp_path, data)
    assert verdict == "verified"
    assert "The logs contradict each other" in text
    assert "received another model than the coordinator recorded: round 2, south" in text
    assert "others about this run could have been left out" in text


def test_what_left_a_silo_without_its_admission_is_pointed_out(browser, tmp_path: Path):
    with AuditLog.open(tmp_path / "log", origin="heart.example/silo/east", key=key_of("east")) as log:
        log.append(Event("gate", "round.egress", "run/x", decision="allow", run="x", round=1))
    data = page.build(evidence.collect(take_all([tmp_path / "log"]), "x"))
    verdict, text = show(browser, tmp_path, data)
    assert verdict == "verified"
    assert "Something left before admission or after a refusal at east" in text
    assert "The logs contradict each other" in text


def test_a_models_release_is_the_silos_and_told_once(browser, tmp_path: Path):
    release = {"model": "sha256:00", "party": "olga", "silo": "east"}
    with AuditLog.open(tmp_path / "east", origin="heart.example/silo/east", key=key_of("east")) as log:
        log.append(Event("gate", "run.admit", "run/x", decision="allow", run="x", detail={"parties": "hub:DE"}))
        log.append(Event("gate", "round.egress", "run/x", decision="allow", run="x", round=1))
        log.append(Event("gate", "model.release", "run/x", decision="deny", run="x", detail=release))
        log.append(Event("gate", "model.release", "run/x", decision="allow", run="x", detail=release))
    with AuditLog.open(tmp_path / "hub", origin="heart.example/coordinator/hub", key=key_of("hub")) as log:
        log.append(Event("olga", "run.submit", "run/x", decision="allow", run="x"))
        log.append(Event("olga", "model.release", "run/x", decision="deny", run="x", detail=release))
        log.append(Event("olga", "model.release", "run/x", decision="allow", run="x", detail=release))
    data = page.build(evidence.collect(take_all([tmp_path / "hub", tmp_path / "east"]), "x"))
    _, text = show(browser, tmp_path, data)
    assert "Each release follows an admission by that silo" in text
    assert "contradict" not in text
    assert "1 request was refused" in text


def test_a_second_history_that_a_witness_signed_is_red(browser, collected: dict, parties: list, tmp_path: Path):
    north = next(party for party in parties if party.name == "north")
    other = f"{north.vkey.partition('+')[0]}\n5\n{base64.b64encode(b'x' * 32).decode()}\n"
    forged = countersigned(sign_note(other, north.vkey.partition("+")[0], key_of("north")), parties, "hub")
    logs = [{**log, "witnessed": [forged]} if log["vkey"] == north.vkey else log for log in collected["logs"]]
    data = page.build({**collected, "logs": logs})
    with pytest.raises(AuditError, match=r"cosigned another history of heart.example/silo/north"):
        page.check(data)
    verdict, text = show(browser, tmp_path, data)
    assert verdict == "failed"
    assert "heart.example/coordinator/hub signed another history of this log" in text


def program(browser, folder: Path, body: str, cases: object) -> object:
    """Run a program of ours after the page's own in the browser; it returns what `body` returns for the cases."""
    text = page.script("sha2.js", "ed25519.js", "verify.js")
    data = json.dumps(cases).replace("<", "\\u003c")
    path = folder / "harness.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><pre id="out"></pre><script>{text}\nconst cases = {data};\n'
        "const unhex = (text) => Uint8Array.from(text.match(/../g) || [], (pair) => parseInt(pair, 16));\n"
        f"document.getElementById('out').textContent = JSON.stringify((() => {{ {body} }})());</script>"
    )
    return last_json(browser(path))


def test_hashes_are_those_of_the_standard_library(browser, tmp_path: Path):
    cases = [
        hashlib.shake_128(bytes([n])).hexdigest(n) for n in (0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 255)
    ]
    cases += ["61" * 3000]
    found = program(
        browser, tmp_path, "return cases.map((c) => [hex(sha256(unhex(c))), hex(sha512(unhex(c)))]);", cases
    )
    data = [bytes.fromhex(case) for case in cases]
    assert found == [[hashlib.sha256(item).hexdigest(), hashlib.sha512(item).hexdigest()] for item in data]


def test_signatures_are_judged_as_the_one_file_verifier_judges_them(browser, tmp_path: Path):
    cases = list(RFC8032)
    good = len(cases)
    order = 2**252 + 27742317777372353535851937790883648493
    for public, message, signature in list(cases):
        s = int.from_bytes(bytes.fromhex(signature[64:]), "little")
        cases.append((public, message, signature[:64] + (s + order).to_bytes(32, "little").hex()))
        cases.append((public, message + "00", signature))
        cases.append((public, message, "00" + signature[2:]))
        cases.append((public[:-2] + "ff", message, signature))
        cases.append((public, message, signature[:-2]))
    for small in (
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "00" * 32,
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ):
        cases.append((small, "", "01" + "00" * 63))
    body = """return cases.map(([k, m, s]) => {
      try { verifyEd25519(unhex(k), unhex(m), unhex(s)); return true; }
      catch (error) { if (!(error instanceof Failure)) throw error; return false; } });"""

    def judge(case: tuple[str, str, str]) -> bool:
        try:
            check_ed25519(*(bytes.fromhex(part) for part in case))
        except VerificationFailure:
            return False
        return True

    found = program(browser, tmp_path, body, cases)
    assert found == [judge(case) for case in cases]
    assert found == [True] * good + [False] * (len(cases) - good)


def test_no_changed_byte_of_the_evidence_passes_in_either_verifier(browser, directories: list[str], tmp_path: Path):
    small = evidence.collect(take_all(directories[2:]), RUN, payloads=True, only_run=True)
    whole = evidence.collect(take_all(directories[::2]), RUN, payloads=True)
    assert [len(log["witnessed"]) for log in whole["logs"]] == [0, 1]
    cases = []
    for item in (small, whole):
        text = evidence.encode(item).decode()
        step = len(text) // 90
        for at in range(3, len(text), step):
            cases.append(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
    kept = [evidence.encode(small).decode(), evidence.encode(whole).decode()]
    body = """return cases.map((c) => {
      try { verifyEvidence(c); return true; }
      catch (error) { return error instanceof Failure ? false : String(error); } });"""

    def judge(case: str) -> bool:
        try:
            evidence.verify(evidence.decode(case.encode()))
        except AuditError:
            return False
        return True

    assert program(browser, tmp_path, body, kept + cases) == [True, True] + [False] * len(cases)
    assert [judge(case) for case in kept + cases] == [True, True] + [False] * len(cases)
