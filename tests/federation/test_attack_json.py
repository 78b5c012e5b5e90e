"""JSON made to break its readers: each reader gives what it promises, or its own error; never another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import AuditError
from audit.rollback import _read_seq
from coordinator.checkpoints import parse_shapes
from coordinator.identities import _load
from coordinator.recorded import _last_event
from federation.asking import Answer
from federation.dsse import parse_envelope
from federation.enrolment import parse_bundle, parse_invitation, parse_request
from federation.errors import ConcordatError, WireError
from federation.json_text import parse_json
from federation.passport import Statement
from federation.receipts import Shown
from federation.release import parse_release_request
from federation.renewal import is_renewal_request
from federation.run import parse_signed_run
from federation.secure_aggregation.cohort import _parsed, adverts_of
from federation.statistics.normalization import read_normalization
from silo.dataset.readiness import parse_summaries
from silo.governance.bundle import BundleError, authors_of
from silo.governance.review import _app_name

DEEP = "[" * 100_000
TEXTS = [
    DEEP,
    '{"a":' * 100_000,
    "[" * 100_000 + "]" * 100_000,
    "9" * 5000,
    "-" + "9" * 5000,
    "1e99999",
    "NaN",
    "[Infinity]",
    '"\\ud800"',
    '{"\\udc00": 1}',
    '{"a": 1, "a": 2}',
    "\ufeff{}",
    "\ufeff\ufeff{}",
    "",
    "null",
    "[]",
    "{}",
    "1",
    '"text"',
    '{"error": {"a": "\\u001b[2J"}}',
    "{'a': 1}",
    '{"a": 1,}',
    "\x00",
    "\x1b[2J",
]
BYTES = [*(text.encode() for text in TEXTS), b"\xff\xfe{\x00}\x00", b"\x80", "{}".encode("utf-16"), b"\xed\xa0\x80"]


def at_path(read: Callable[[Path], object], tmp_path: Path) -> Callable[[bytes], object]:
    def reads(content: bytes) -> object:
        path = tmp_path / "content"
        path.write_bytes(content)
        return read(path)

    return reads


def of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode("utf-8", "replace"))


READERS: dict[str, Callable[[Path], Callable[[bytes], object]]] = {
    "an enrolment request": lambda _: parse_request,
    "an invitation": lambda _: parse_invitation,
    "an enrolment bundle": lambda _: parse_bundle,
    "a renewal request": lambda _: is_renewal_request,
    "an envelope": lambda _: lambda content: parse_envelope(content, 10**7),
    "a coordinator's refusal": lambda _: lambda content: Answer(400, content).reason,
    "receipts": lambda _: of_text(Shown.load),
    "secure aggregation": lambda _: of_text(_parsed),
    "a normalisation": lambda _: of_text(lambda text: read_normalization(text, 2)),
    "a model's shapes": lambda _: of_text(parse_shapes),
    "an earlier check": lambda _: parse_summaries,
    "who wrote an app": lambda _: lambda content: authors_of({"pyproject.toml": content}),
    "an app's name": lambda _: _app_name,
    "the newest certificates": lambda tmp: at_path(_load, tmp),
    "a run's newest event": lambda tmp: at_path(_last_event, tmp),
    "the witness's memory": lambda tmp: at_path(_read_seq, tmp),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", BYTES, ids=lambda content: ascii(content[:24]))
def test_each_reader_has_one_kind_of_error(reader: str, content: bytes, tmp_path: Path) -> None:
    read = READERS[reader](tmp_path)
    try:
        read(content)
    except (ConcordatError, AuditError) as error:
        message = str(error)
    else:
        return
    assert message


@pytest.mark.parametrize("name", ["run_id", "run_digest", "model", "signature", "operator"])
def test_a_release_request_with_a_lone_surrogate_is_refused(name: str) -> None:
    digest = "sha256:" + "0" * 64
    good = {"run_id": "run-1", "run_digest": digest, "model": digest, "signature": "AAAA", "operator": "pem"}
    assert parse_release_request(good).run == "run-1"
    with pytest.raises(WireError, match="release request"):
        parse_release_request({**good, name: "\ud800"})


@pytest.mark.parametrize("name", ["silo", "certificate", "mask_key", "share_key", "commitment", "signature"])
def test_an_advert_of_keys_with_a_lone_surrogate_is_refused(name: str) -> None:
    keys = {"mask_key": "09" * 32, "share_key": "08" * 32, "commitment": "07" * 32, "signature": "00"}
    good = {"silo": "hospital-a", "certificate": "pem", **keys}
    assert adverts_of(json.dumps([good]))[0].silo == "hospital-a"
    with pytest.raises(WireError, match="advert"):
        adverts_of(json.dumps([{**good, name: "\ud800"}]))


@pytest.mark.parametrize("content", [b"x = " + b"[" * 50_000, b"x = " + b"{a=" * 50_000])
def test_an_app_whose_project_file_is_nested_without_end_is_refused(content: bytes) -> None:
    for read in (lambda: authors_of({"pyproject.toml": content}), lambda: _app_name(content)):
        with pytest.raises(BundleError, match=r"pyproject\.toml cannot be read"):
            read()


@pytest.mark.parametrize("reader", [parse_request, parse_invitation, parse_bundle])
def test_a_byte_order_mark_changes_nothing(reader: Callable[[bytes], object]) -> None:
    with pytest.raises(ConcordatError) as plain:
        reader(b'{"format": "x"}')
    with pytest.raises(ConcordatError) as marked:
        reader(b'\xef\xbb\xbf{"format": "x"}')
    assert str(plain.value) == str(marked.value)


@pytest.mark.parametrize("content", BYTES, ids=lambda content: ascii(content[:24]))
def test_parse_json_raises_value_errors_alone(content: bytes) -> None:
    try:
        found = parse_json(content)
    except ValueError:
        return
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(), st.lists, max_leaves=6))
def test_what_json_can_say_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


@given(st.text(max_size=60))
def test_any_text_is_read_or_is_a_value_error(text: str) -> None:
    for content in (text, '{"a": ' + text + "}", f'"{text}"'):
        try:
            parse_json(content)
        except ValueError:
            continue


@pytest.mark.parametrize("name", ["run", "app_digest", "signature", "operator"])
@pytest.mark.parametrize("value", [None, 1, [], {}, "\ud800", True])
def test_a_signed_run_has_texts_in_its_fields(name: str, value: object) -> None:
    fields: dict[str, Any] = {"run": "a", "app_digest": "sha256:" + "0" * 64, "signature": "AA==", "operator": "x"}
    with pytest.raises(ConcordatError):
        parse_signed_run({**fields, name: value})


def test_a_statement_is_closed() -> None:
    with pytest.raises(ValueError, match="validation error"):
        Statement.model_validate_json(b"{}")
