from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silo.gate.accounting import Mechanism, Plan, epsilon_of
from silo.gate.ledger import FIRST, Debit, Entry, Ledger, LedgerError, parse, privacy_facts, read_ledger

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DEBIT = Debit(NOW, "heart", "run-1", 1, "concordat://heart.example/operator/op", Mechanism(0.1, 1.1, 20), 1.0)


@contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    try:
        yield ledger
    finally:
        ledger.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


# -- what it keeps


def test_what_was_debited_is_there_when_it_is_opened_again(path: Path):
    with opened(path) as ledger:
        written = [ledger.debit(replace(DEBIT, round=number)) for number in (1, 2, 3)]
        assert ledger.head == written[-1].digest
    with opened(path) as ledger:
        assert list(ledger.entries) == written
        assert ledger.debit(replace(DEBIT, round=4)).number == 4
    assert [entry.debit.round for entry in read_ledger(path)] == [1, 2, 3, 4]
    assert path.stat().st_mode & 0o777 == 0o600


@settings(max_examples=50, deadline=None)
@given(
    st.text(max_size=50).filter(lambda text: text.isprintable()),
    st.floats(1e-9, 1),
    st.floats(0.3, 1000),
    st.integers(1, 10**7),
    st.datetimes(timezones=st.just(UTC)),
)
def test_a_debit_comes_back_as_it_was(tmp_path_factory, name: str, rate: float, noise: float, steps: int, at: datetime):
    path = tmp_path_factory.mktemp("ledger") / "l"
    debit = Debit(at, name, name, 7, name, Mechanism(rate, noise, steps), rate)
    with opened(path) as ledger:
        ledger.debit(debit)
    assert [entry.debit for entry in read_ledger(path)] == [debit]


def test_two_gates_cannot_share_one(path: Path):
    with opened(path), pytest.raises(LedgerError, match="held by another gate"):
        Ledger(path)
    with opened(path):
        pass


def test_a_ledger_that_is_not_there_has_no_debits(path: Path):
    assert read_ledger(path) == ()


# -- what can happen to it


def test_an_end_that_was_cut_off_is_removed_and_nothing_else(path: Path):
    with opened(path) as ledger:
        for number in (1, 2, 3):
            ledger.debit(replace(DEBIT, round=number))
    content = path.read_bytes()
    last = content.rfind(b"\n", 0, -1) + 1
    for length in range(last, len(content)):
        path.write_bytes(content[:length])
        assert [entry.debit.round for entry in read_ledger(path)] == [1, 2]
        with opened(path) as ledger:
            assert ledger.removed == length - last
            assert [entry.debit.round for entry in ledger.entries] == [1, 2]
            ledger.debit(replace(DEBIT, round=3))
        assert path.read_bytes() == content


def test_every_changed_byte_is_found(path: Path):
    with opened(path) as ledger:
        for number in (1, 2):
            ledger.debit(replace(DEBIT, round=number))
    content = path.read_bytes()
    for position in range(len(content) - 1):
        for bit in (0, 3, 6):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            with pytest.raises(LedgerError, match="is damaged"):
                list(parse(bytes(changed), "l"))


def test_a_line_taken_out_or_moved_is_found(path: Path):
    with opened(path) as ledger:
        for number in (1, 2, 3):
            ledger.debit(replace(DEBIT, round=number))
    one, two, three = path.read_bytes().splitlines(keepends=True)
    for lines in ((two, three), (one, three), (one, three, two), (one, one, two)):
        with pytest.raises(LedgerError, match=r"line [12] is damaged"):
            list(parse(b"".join(lines), "l"))


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"null\n", b"\xff\n", b"[" * 5000 + b"\n", b"\n", b"1e999\n"])
def test_what_is_not_a_debit_is_refused(path: Path, line: bytes):
    path.write_bytes(line)
    with pytest.raises(LedgerError, match="line 1 is damaged"):
        Ledger(path)


def test_a_debit_of_no_steps_is_no_debit(path: Path):
    with opened(path) as ledger:
        ledger.debit(replace(DEBIT, mechanism=Mechanism(0.1, 1.0, 0)))
    with pytest.raises(LedgerError, match="is damaged"):
        read_ledger(path)


def test_after_a_failed_write_nothing_is_debited_until_it_is_opened_again(path: Path):
    """The file may not grow beyond a size in the middle of the next line, as on a full disk."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with opened(path) as ledger:
            ledger.debit(DEBIT)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, kept[1]))
            with pytest.raises(LedgerError, match="cannot be written"):
                ledger.debit(replace(DEBIT, round=2))
            resource.setrlimit(resource.RLIMIT_FSIZE, kept)
            with pytest.raises(LedgerError, match="cannot be written"):
                ledger.debit(replace(DEBIT, round=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)
    with opened(path) as ledger:
        assert ledger.removed == 100
        assert ledger.debit(replace(DEBIT, round=2)).number == 2


def _spend_until_killed(path: Path, released: int) -> None:
    """The child's whole life: debit, then tell the parent, as a gate releases a reply only after its debit."""
    ledger = Ledger(path)
    number = len(ledger.entries)
    while True:
        number += 1
        ledger.debit(replace(DEBIT, round=number))
        os.write(released, struct.pack(">I", number))


def test_killed_at_any_moment_it_never_counts_less_than_was_released(path: Path):
    generator = random.Random(5)
    released = 0
    for _ in range(60):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _spend_until_killed(path, writing)
            finally:
                os._exit(1)
        os.close(writing)
        for _ in range(generator.randrange(1, 12)):
            released = struct.unpack(">I", os.read(reading, 4))[0]
        for _ in range(generator.randrange(0, 20000)):
            pass
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        while got := os.read(reading, 4):
            released = struct.unpack(">I", got)[0]
        os.close(reading)
        with opened(path) as ledger:
            assert [entry.debit.round for entry in ledger.entries] == list(range(1, len(ledger.entries) + 1))
            assert released <= len(ledger.entries) <= released + 1
            assert ledger.removed == 0 or len(ledger.entries) == released
    assert released > 60


# -- what a policy is told

RUN_DIGEST = "sha256:" + "1" * 64
OWN = replace(DEBIT, submission=RUN_DIGEST)
PLAN = Plan(Mechanism(0.1, 1.1, 20), 3, 0.5, 1e-5)
DELTA = 1e-6


def entries(*debits: Debit) -> list[Entry]:
    return [Entry(number, FIRST, debit) for number, debit in enumerate(debits, 1)]


def test_a_first_run_has_spent_its_own_plan():
    facts = privacy_facts(PLAN, RUN_DIGEST, "heart", [], NOW, DELTA)
    assert (facts.mode, facts.clip_norm, facts.noise_multiplier, facts.delta) == ("example_dp", 0.5, 1.1, DELTA)
    assert facts.epsilon == facts.spent == epsilon_of([PLAN.whole], DELTA)


def test_what_others_spent_in_the_window_is_composed_with_it():
    other = replace(DEBIT, run="run-0", mechanism=Mechanism(0.2, 1.5, 30))
    old = replace(other, time=NOW - timedelta(days=400))
    elsewhere = replace(other, dataset="lung")
    since = NOW - timedelta(days=365)
    facts = privacy_facts(PLAN, RUN_DIGEST, "heart", entries(old, other, elsewhere), since, DELTA)
    assert facts.spent == epsilon_of([other.mechanism, PLAN.whole], DELTA)
    assert facts.epsilon < facts.spent < facts.epsilon + epsilon_of([other.mechanism], DELTA)


def test_the_rounds_of_this_run_are_counted_once():
    rounds = [replace(OWN, round=number) for number in (1, 2)]
    with_two = privacy_facts(PLAN, RUN_DIGEST, "heart", entries(*rounds), NOW - timedelta(days=1), DELTA)
    assert with_two == privacy_facts(PLAN, RUN_DIGEST, "heart", [], NOW, DELTA)


def test_a_run_that_spent_more_than_its_plan_counts_for_what_it_spent():
    rounds = [replace(OWN, round=number) for number in (1, 2, 1, 2, 3)]
    facts = privacy_facts(PLAN, RUN_DIGEST, "heart", entries(*rounds), NOW - timedelta(days=1), DELTA)
    assert facts.spent == facts.epsilon == epsilon_of([Mechanism(0.1, 1.1, 100)], DELTA)


def test_the_file_is_lines_that_anyone_can_read(path: Path):
    with opened(path) as ledger:
        ledger.debit(DEBIT)
    line = json.loads(path.read_text())
    assert line["before"] == FIRST
    assert (line["dataset"], line["run"], line["round"], line["steps"]) == ("heart", "run-1", 1, 20)
    assert line["time"] == "2026-11-24T12:00:00+00:00"
