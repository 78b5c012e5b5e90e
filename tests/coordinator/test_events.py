from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.events import FINAL, EventLog

PATIENCE = 60.0


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "events.jsonl")
    yield log
    log.close()


def test_an_event_is_kept_in_memory_and_in_the_file(events: EventLog, tmp_path: Path):
    assert events.last == {}
    events.emit("run.started", run="r-1", silos=["a"])
    events.emit("round.started", round=1)
    got, ended = events.after(0, 0)
    assert not ended
    assert [(event["number"], event["event"]) for event in got] == [(1, "run.started"), (2, "round.started")]
    assert datetime.fromisoformat(got[0]["time"]).tzinfo == UTC
    assert events.last == got[1]
    assert [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()] == got


def test_a_reader_goes_on_where_it_stopped(events: EventLog):
    for number in range(5):
        events.emit("round.started", round=number)
    assert [event["round"] for event in events.after(3, 0)[0]] == [3, 4]
    assert events.after(5, 0) == ([], False)
    assert events.after(99, 0) == ([], False)


def test_a_waiting_reader_is_woken_by_an_event(events: EventLog):
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(events.after, 0, PATIENCE) for _ in range(3)]
        events.emit("round.started", round=1)
        for reader in waiting:
            got, ended = reader.result(PATIENCE)
            assert ([event["round"] for event in got], ended) == ([1], False)


@pytest.mark.parametrize("kind", sorted(FINAL))
def test_a_waiting_reader_learns_of_the_end(events: EventLog, kind: str):
    events.emit("round.started", round=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(events.after, 1, PATIENCE)
        events.emit(kind)
        got, ended = waiting.result(PATIENCE)
    assert ([event["event"] for event in got], ended) == ([kind], True)
    assert events.after(0, PATIENCE)[1]


def test_closing_lets_waiting_readers_go(events: EventLog):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(events.after, 0, PATIENCE)
        events.close()
        assert waiting.result(PATIENCE) == ([], True)


def test_several_writers_number_their_events_without_a_gap(events: EventLog, tmp_path: Path):
    together = threading.Barrier(4)

    def write(silo: int) -> None:
        together.wait()
        for number in range(50):
            events.emit("silo.answered", silo=silo, number_of_silo=number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    got, _ = events.after(0, 0)
    assert [event["number"] for event in got] == list(range(1, 201))
    for silo in range(4):
        assert [event["number_of_silo"] for event in got if event["silo"] == silo] == list(range(50))
    assert [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()] == got


def test_a_file_that_exists_is_continued(tmp_path: Path):
    (tmp_path / "events.jsonl").write_text('{"event": "before", "number": 1}\n{"event": "torn", "nu')
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("run.completed")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(line["event"], line["number"]) for line in lines] == [("before", 1), ("run.completed", 2)]


def test_a_run_that_goes_on_after_its_end_has_not_ended(tmp_path: Path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("run.failed")
    assert EventLog(tmp_path / "events.jsonl").after(1, 0) == ([], True)
    log.emit("run.resumed")
    assert not EventLog(tmp_path / "events.jsonl").after(2, 0)[1]
