"""One table of hostile entries for both verifiers: what `verify.py` refuses, the page's own program refuses as well."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.entry import Event
from audit.errors import AuditEventError
from audit.verify import MAX_ENTRY, SCHEMA, VerificationFailure, check_entry, entry_facts

from .test_report_browser import program

ENTRY = {
    "schema": SCHEMA,
    "seq": 3,
    "time": "2026-11-01T08:00:00.000000Z",
    "actor": "gate",
    "action": "round.egress",
    "resource": "heart",
    "decision": "allow",
    "rule": None,
    "reason": None,
    "policy": None,
    "run": "run-1",
    "round": 2,
    "detail": {"n": 1},
    "payload_commitment": None,
}
PLAIN = json.dumps(ENTRY, sort_keys=True, separators=(",", ":"))


def entry(**fields: object) -> str:
    """The canonical line of an entry with these fields changed."""
    return json.dumps({**ENTRY, **fields}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def times(*texts: str) -> list[str]:
    return [entry(time=text) for text in texts]


GOOD = [
    PLAIN,
    *times("2024-02-29T23:59:59.999999Z", "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"),
    *(
        entry(actor=text)
        for text in ("\0", "\x7f", "\x80", "\ufeff", "\ufffd", "\ufffe", "\uffff", "\U0001ffff", "\u2028", " ")
    ),
    *(
        entry(detail={"a": value})
        for value in (0, -1, 2**53 - 1, 1 - 2**53, True, False, "", "x" * (MAX_ENTRY - 5_000))
    ),
    entry(detail={"__proto__": "x", "constructor": 1, "1": "a", "10": "b", "2": "c"}),
    entry(seq=3, round=0),
    entry(detail={}, run=None, round=None, rule="r", reason="é", policy="sha256:" + "0" * 64),
]
# fmt: off
HOSTILE = [
    # the calendar and the clock
    *times("2026-02-30T08:00:00.000000Z", "2026-02-29T08:00:00.000000Z", "2100-02-29T08:00:00.000000Z"),
    *times("2026-13-01T08:00:00.000000Z", "2026-00-01T08:00:00.000000Z", "2026-01-00T08:00:00.000000Z"),
    *times("2026-11-01T24:00:00.000000Z", "2026-11-01T25:00:00.000000Z", "2026-11-01T08:60:00.000000Z"),
    *times("2026-06-30T23:59:60.000000Z", "2016-12-31T23:59:60.000000Z", "0000-01-01T08:00:00.000000Z"),
    *times("2026-11-01T08:00:00.000000z", "2026-11-01t08:00:00.000000Z", "2026-11-01T08:00:00.000000"),
    *times("2026-11-01T08:00:00.000000+00:00", "2026-11-01T08:00:00.000000-00:00", "2026-11-01T08:00:00Z"),
    *times("2026-11-01T08:00:00.000Z", "2026-11-01T08:00:00.0000000Z", "2026-11-01 08:00:00.000000Z"),
    *times("2026-11-01T08:00:00,000000Z", "20261101T080000.000000Z", "2026-W44-7T08:00:00.000000Z", ""),
    *times("2026-305T08:00:00.000000Z", "+002026-11-01T08:00:00.000000Z", "-2026-11-01T08:00:00.000000Z"),
    *times("\uff12026-11-01T08:00:00.000000Z", "2026-11-01T08:00:00.000000Z ", "2026-11-01T08:00:00.000000Z\n", "now"),
    # numbers
    *(
        PLAIN.replace('"n":1', f'"n":{text}')
        for text in ("-0", "0.0", "1.0", "1e0", "1E3", "-0.0", "1e400", "01", "+1", "0x1")
    ),
    *(
        PLAIN.replace('"n":1', f'"n":{text}')
        for text in ("NaN", "Infinity", "-Infinity", "9007199254740992", "1" * 5000)
    ),
    *(PLAIN.replace('"n":1', f'"n":{text}') for text in ("-9007199254740992", "9007199254740993", "1_0", ".5", "null")),
    *(
        PLAIN.replace('"seq":3', f'"seq":{text}')
        for text in ("-0", "3.0", "3e0", "4", "-3", '"3"', "true", "null", "1" * 16)
    ),
    *(
        PLAIN.replace('"round":2', f'"round":{text}')
        for text in ("-1", "2.0", "-0", "1000000000000000", '"2"', "true", "[]")
    ),
    # names and structure
    PLAIN.replace('"n":1', '"n":1,"n":1'),
    PLAIN.replace('"n":1', '"n":2,"n":1'),
    PLAIN.replace('"actor":"gate"', '"actor":"gate","actor":"gate"'),
    PLAIN.replace('"n":1', '"n":1,"m":1'),
    PLAIN.replace('{"n":1}', '{"n": 1}'),
    *(entry(**{name: "x"}) for name in ("extra", "__proto__", "toString")),
    *(
        json.dumps({k: v
        for k, v in ENTRY.items() if k != name}, sort_keys=True, separators=(",", ":")) for name in ENTRY
    ),
    *(entry(detail=value) for value in (None, [], "x", 1, {"a": None}, {"a": []}, {"a": {}}, {"a": 0.5}, {"": 1})),
    *(entry(detail={name: 1}) for name in ("a b", "a\n", "é", "x" * 129, "a\0", "\ufeffa", "\ud7ff", "\U00010000")),
    *(entry(**{name: value}) for name in ENTRY for value in ("", [], {}, True, 1.5) if name != "detail"),
    *(entry(decision=value) for value in ("ALLOW", "permit", "allow\n", None)),
    *(entry(action=value) for value in ("Round", "a..b", ".a", "a.", "a b", "é", "a\n", None)),
    *(
        entry(**{name: "sha256:" + value})
        for name in ("policy", "payload_commitment") for value in ("0" * 63, "A" * 64, "0" * 65)
    ),
    entry(schema="concordat/audit/v2"),
    entry(schema=SCHEMA + "\n"),
    # spellings, sizes, depth
    "", " ", "null", "[]", "1", '"x"', "{}", PLAIN + " ", " " + PLAIN, PLAIN + "\n",
    "\ufeff" + PLAIN, PLAIN + PLAIN, PLAIN[:-1],
    *(
        PLAIN.replace("gate", text)
        for text in (r"g\u0061te", r"\/", r"\u007f", r"\u00e9", r"\u001F", r"\u0008", "\0", "\t", "\x1f")
    ),
    *(
        PLAIN.replace("gate", text)
        for text in (r"\ud800", r"\udc00", r"\ud83d\ude00", r"\ud800x", r"\uDC00\uD800", r"\x", "\\")
    ),
    *(PLAIN.replace('"n":1', f'"n":"{text}"') for text in (r"\ud800", r"\udfff", r"a\udbff")),
    *(PLAIN.replace('"n":1', f'"{text}":1') for text in (r"\ud800", r"\u006e")),
    PLAIN.replace("gate", "\ud800"),
    entry(actor="x" * MAX_ENTRY),
    entry(actor="ü" * (MAX_ENTRY // 2)),
    entry(detail={str(n): "x" * 1000 for n in range(MAX_ENTRY // 1000)}),
    PLAIN.replace('{"n":1}', "[" * 20_000 + "]" * 20_000),
    PLAIN.replace('{"n":1}', '{"a":' * 9_000 + "1" + "}" * 9_000),
]
# fmt: on


def accepts(line: str) -> bool:
    """Both ways in which verify.py reads an entry, which must agree."""
    outcomes = set()
    for read in (check_entry, entry_facts):
        try:
            read(line.encode("utf-8", "surrogatepass") + b"\n", 3)
            outcomes.add(True)
        except VerificationFailure:
            outcomes.add(False)
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize("line", GOOD, ids=range(len(GOOD)))
def test_the_good_half_of_the_table_is_accepted(line: str) -> None:
    assert accepts(line)


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_the_hostile_half_of_the_table_is_refused(line: str) -> None:
    assert not accepts(line)


@pytest.mark.federation
def test_the_page_judges_every_line_of_the_table_as_verify_py_does(browser, tmp_path: Path) -> None:
    body = """return cases.map((line) => {
      try { checkEntry(line, 3); return true; }
      catch (error) { return error instanceof Failure ? false : String(error); } });"""
    found = program(browser, tmp_path, body, [*GOOD, *HOSTILE])
    wrong = [
        (line[:200], verdict)
        for line, verdict in zip([*GOOD, *HOSTILE], found, strict=True)  # type: ignore[call-overload]
        if verdict is not accepts(line)
    ]
    assert wrong == []


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=3)
    | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("\udfff") | st.integers(), inner, max_size=3)
    ),
)


@pytest.mark.parametrize(
    "payload",
    [{"\ud800": 1}, {"a": "\ud800"}, {"a": {"\udfff": []}}, {"a": ["\udc00x"]}, {1: 2}, {None: 1}, {"a": {1}}],
)
def test_a_payload_without_a_form_is_an_error_of_the_event(payload: dict) -> None:
    with pytest.raises(AuditEventError):
        Event("gate", "a.b", "r", payload=payload)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text() | st.just("\ud800"), ANYTHING, max_size=3), ANYTHING)
def test_nothing_in_an_event_raises_anything_but_an_error_of_the_event(payload: dict, value: object) -> None:
    with contextlib.suppress(AuditEventError):
        Event("gate", "a.b", "r", payload=payload)
    for name in ("actor", "action", "resource", "decision", "rule", "reason", "policy", "run", "round", "detail"):
        with contextlib.suppress(AuditEventError):
            Event(**{"actor": "g", "action": "a", "resource": "r", name: value})  # type: ignore[arg-type]
