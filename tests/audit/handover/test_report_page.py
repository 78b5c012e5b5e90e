from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from audit.cli import app
from audit.errors import AuditError, VerificationError
from audit.query import SelectionError
from audit.report import evidence, page
from audit.snapshot import take_all

from .conftest import HOSTILE, OTHER, RUN, write_logs

run = CliRunner().invoke


@pytest.fixture
def collected(directories: list[str]) -> dict:
    return evidence.collect(take_all(directories), RUN, payloads=True)


def test_the_same_logs_give_the_same_page(directories: list[str], collected: dict):
    assert page.build(evidence.collect(take_all(directories[::-1]), RUN, payloads=True)) == page.build(collected)


def test_the_page_holds_whole_logs_and_verifies_outside_a_browser(collected: dict):
    logs = page.check(page.build(collected))
    assert [(log.key.name.rpartition("/")[2], log.entries, log.complete) for log in logs] == [
        ("hub", 10, True),
        ("north", 13, True),
        ("south", 10, True),
    ]


def test_only_the_runs_entries_are_embedded_on_request(directories: list[str]):
    chosen = evidence.collect(take_all(directories), RUN, only_run=True)
    assert not any(OTHER in json.dumps(log) for log in chosen["logs"])
    assert all(not log.complete for log in page.check(page.build(chosen)))


def test_payloads_are_left_out_unless_asked_for(directories: list[str]):
    assert all(log["payloads"] == {} for log in evidence.collect(take_all(directories), RUN)["logs"])


def test_an_erased_payload_is_left_out(directories: list[str]):
    erased = sorted(Path(directories[1], "payloads").iterdir())[0]
    erased.unlink()
    north = evidence.collect(take_all(directories), RUN, payloads=True)["logs"][1]
    assert str(int(erased.stem)) not in north["payloads"]


def test_a_run_that_no_log_knows_is_an_error(directories: list[str]):
    with pytest.raises(SelectionError, match="none of the logs has an entry of run heart-8"):
        evidence.collect(take_all(directories), "heart-8")


def test_the_policy_of_the_page_allows_its_script_and_style_alone(collected: dict):
    text = page.build(collected).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_the_page_refers_to_nothing_outside_itself(collected: dict):
    text = page.build(collected).decode()
    shell = text.partition('<script type="application/json"')[0] + page.script()
    assert not re.search(r"\b(?:src|href|action)=|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", shell)
    assert set(re.findall(r"https?://[^\s\"']+", shell)) == {"http://www.w3.org/2000/svg"}


def test_data_is_never_made_markup():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", page.script())


def test_hostile_text_ends_no_element(tmp_path: Path):
    parties = write_logs(tmp_path, hostile=HOSTILE)
    data = page.build(evidence.collect(take_all([party.directory for party in parties]), RUN))
    embedded = data.partition(b'id="evidence">')[2].partition(b"</script>")[0]
    assert b"<" not in embedded
    entries = [json.loads(line) for log in json.loads(embedded)["logs"] for line in log["entries"]]
    assert sum(entry["reason"] == f"admitted {HOSTILE}" for entry in entries) == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('\\"rows\\":120', '\\"rows\\":12', "do not have the signed root"),
        ("heart.example/silo/north\\n13\\n", "heart.example/silo/north\\n14\\n", "does not verify"),
        ('"run":"heart-7f3a21"', '"run":"heart-7f3a22"', "no log in the evidence has an entry of run"),
        ('\\"loss\\":0.7', '\\"loss\\":0.1', "is not what the entry commits to"),
        ('fail("the signature does not', 'void ("the signature does not', "not the one this version builds"),
        ('id="evidence">', 'id="evidence" >', "holds no evidence"),
    ],
)  # fmt: skip
def test_a_changed_page_is_refused_outside_the_browser(collected: dict, old: str, new: str, words: str):
    text = page.build(collected).decode()
    assert old in text
    with pytest.raises(VerificationError, match=words):
        page.check(text.replace(old, new, 1).encode())


def test_keys_from_elsewhere_are_demanded_of_every_log(collected: dict, parties: list):
    data = page.build(collected)
    page.check(data, [party.vkey for party in parties])
    with pytest.raises(VerificationError, match="a key that was not given"):
        page.check(data, [parties[0].vkey])


def test_anything_else_is_no_report_and_no_traceback(collected: dict):
    for damage in (
        {},
        {"schema": evidence.SCHEMA},
        {"schema": evidence.SCHEMA, "run": RUN, "logs": [1]},
        {"schema": evidence.SCHEMA, "run": RUN, "logs": [{}]},
        {**collected, "logs": [{**collected["logs"][0], "payloads": {"99": "x"}}]},
        {**collected, "logs": [{**collected["logs"][0], "entries": [None]}]},
        {**collected, "logs": collected["logs"] * 2},
        {**collected, "run": ["heart"]},
    ):
        with pytest.raises(AuditError):
            page.check(page.build(damage))
    for data in (b"", b"\xff" * 100, b'<script type="application/json" id="evidence">{</script>'):
        with pytest.raises(AuditError):
            page.check(data)


def test_the_command_writes_a_page_that_verify_accepts(directories: list[str], parties: list, tmp_path: Path):
    out = str(tmp_path / "report.html")
    result = run(app, ["report", *directories, "--run", RUN, "--out", out])
    assert (result.exit_code, "33 entries of 3 logs" in result.stdout) == (0, True)
    keys = [word for party in parties for word in ("--key", party.vkey)]
    result = run(app, ["verify", out, *keys])
    assert (result.exit_code, result.stdout.count("by the key that was given")) == (0, 3)


def test_a_log_that_does_not_verify_gives_no_page(directories: list[str], tmp_path: Path):
    segment = Path(directories[1], "segments/000000000000.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"rows":120', b'"rows":999'))
    result = run(app, ["report", *directories, "--run", RUN, "--out", str(tmp_path / "report.html")])
    assert (result.exit_code, (tmp_path / "report.html").exists()) == (1, False)
    assert "entry 3 was altered" in result.stderr


NAMES = st.sampled_from(
    ["schema", "run", "logs", "vkey", "checkpoint", "entries", "hashes", "witnessed", "proved", "payloads"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(name=NAMES, value=ANYTHING)
def test_whatever_stands_in_the_evidence_only_one_kind_of_error_comes_out(collected: dict, name: str, value: object):
    top = {**collected, name: value}
    inner = {**collected, "logs": [{**collected["logs"][1], name: value}, *collected["logs"][2:]]}
    for damaged in (top, inner):
        with contextlib.suppress(AuditError):
            evidence.verify(damaged)
