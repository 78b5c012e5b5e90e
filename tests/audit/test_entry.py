from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import Event, commit, encode_entry, format_time, parse_time
from audit.errors import AuditEventError
from audit.limits import LIMITS
from audit.verify import check_entry

NOW = datetime(2026, 11, 1, 8, 0, 0, 5, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
details = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_./:-]{1,20}", fullmatch=True),
    texts | st.integers(1 - 2**53, 2**53 - 1) | st.booleans(),
    max_size=5,
)
events = st.builds(
    Event,
    actor=texts,
    action=st.from_regex(r"[a-z]{1,8}(\.[a-z_]{1,8})?", fullmatch=True),
    resource=texts,
    decision=st.sampled_from(["allow", "deny", "record"]),
    rule=st.none() | texts,
    reason=st.none() | texts,
    policy=st.none() | st.just(DIGEST),
    run=st.none() | texts,
    round=st.none() | st.integers(0, 10**6),
    detail=details,
)


def event(**fields: Any) -> Event:
    return Event(**({"actor": "gate", "action": "run.admit", "resource": "run-1"} | fields))


@given(events, st.integers(0, 10**9))
def test_every_entry_is_rfc_8785_and_reads_back_as_itself(it: Event, seq: int):
    line = encode_entry(it, seq=seq, time=NOW, commitment=None)
    entry = check_entry(line, seq)
    assert rfc8785.dumps(json.loads(line)) + b"\n" == line
    for name in ("actor", "action", "resource", "decision", "rule", "reason", "policy", "run", "round"):
        assert entry[name] == getattr(it, name)
    assert entry["detail"] == dict(it.detail)
    assert (entry["time"], entry["schema"]) == ("2026-11-01T08:00:00.000005Z", "concordat/audit/v1")


@pytest.mark.parametrize(
    "fields",
    [
        {"actor": ""},
        {"actor": None},
        {"actor": "lone \ud800 surrogate"},
        {"action": "Run Admit"},
        {"resource": 7},
        {"decision": "maybe"},
        {"reason": ""},
        {"policy": "md5:00"},
        {"round": -1},
        {"round": True},
        {"round": 1.0},
        {"round": 2**53},
        {"detail": {"loss": 0.5}},
        {"detail": {"x": None}},
        {"detail": {"x": [1]}},
        {"detail": {"naïve": 1}},
        {"detail": {7: "x"}},
        {"detail": {"n": 2**53}},
        {"detail": {"clock_went_back_us": 1}},
        {"detail": "flat"},
        {"reason": "x" * LIMITS.entry},
        {"payload": {"x": float("nan")}},
        {"payload": {"x": 2**53}},
        {"payload": {"x": object()}},
        {"payload": {7: "x"}},
        {"payload": {"x": "\ud800"}},
        {"payload": {"x": "y" * LIMITS.payload}},
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_made(fields: dict[str, Any]):
    with pytest.raises(AuditEventError):
        event(**fields)


def test_a_payload_nested_too_deep_is_refused():
    nested: Any = {}
    for _ in range(LIMITS.payload_depth):
        nested = {"deeper": nested}
    with pytest.raises(AuditEventError, match="nested deeper"):
        event(payload=nested)


def test_an_event_does_not_change_with_what_it_was_made_from():
    detail, payload = {"n": 1}, {"losses": [0.5]}
    it = event(detail=detail, payload=payload)
    detail["n"] = 2
    payload["losses"].append(0.25)
    assert dict(it.detail) == {"n": 1}
    assert it.canonical_payload == b'{"losses":[0.5]}'


def test_the_commitment_is_over_salt_and_canonical_payload():
    it = event(payload={"b": 1e21, "a": (1.0, "é")})
    assert it.canonical_payload == '{"a":[1,"é"],"b":1e+21}'.encode()
    commitment, file = commit(it.canonical_payload, b"\x01" * 32)
    assert commitment == "sha256:" + hashlib.sha256(b"\x01" * 32 + it.canonical_payload).hexdigest()
    assert file == b'{"payload":' + it.canonical_payload + b',"salt":"' + b"01" * 32 + b'"}\n'
    assert rfc8785.dumps(json.loads(file)) + b"\n" == file


def test_times_are_utc_with_microseconds():
    cet = timezone(timedelta(hours=1))
    assert format_time(datetime(2026, 11, 1, 9, tzinfo=cet)) == "2026-11-01T08:00:00.000000Z"
    assert parse_time(format_time(NOW)) == NOW
    with pytest.raises(AuditEventError, match="without a zone"):
        format_time(datetime(2026, 11, 1, 9))  # noqa: DTZ001
