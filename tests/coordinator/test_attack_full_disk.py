"""A coordinator whose disk takes no event of a run any more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coordinator.events import FINAL, EventLog
from coordinator.recorded import INTERRUPTED, RecordedRun

from .test_control import Hub, follow, hub  # noqa: F401  a fixture
from .test_take_up import again

PATIENCE = 60.0


def fill(log: EventLog) -> None:
    """Nothing more can be written to it."""
    log._file.close()
    log._file = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115  the log's own to close


@pytest.mark.parametrize("kind", sorted(FINAL))
def test_whoever_follows_a_run_learns_of_its_end_on_a_full_disk(tmp_path: Path, kind: str) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("run.started")
    fill(log)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(log.after, 1, PATIENCE)
        with pytest.raises(OSError, match="No space left"):
            log.emit(kind)
        events, ended = waiting.result(PATIENCE)
    assert ([event["event"] for event in events], ended) == ([kind], True)
    assert log.after(2, PATIENCE) == ([], True)


class Full:
    """Takes the place of `EventLog.emit` on a disk that is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kinds: list[str] = []
        emit = EventLog.emit

        def emitted(log: EventLog, kind: str, **fields: Any) -> None:
            if kind in self.kinds:
                fill(log)
            emit(log, kind, **fields)

        monkeypatch.setattr(EventLog, "emit", emitted)


def test_a_run_ends_on_a_full_disk_with_a_sentence(
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults: list[Any] = []
    monkeypatch.setattr("threading.excepthook", faults.append)
    full = Full(monkeypatch)
    run = hub.submit()
    full.kinds = ["run.stopped"]
    hub.control(f"runs/{run}/stop", "POST")
    hub.coordinator._runs.stop()
    assert follow(hub, run)[-1]["event"] == "run.stopped"
    assert f"the end of {run}, run.stopped, is not in its events: No space left on device" in capsys.readouterr().err
    assert not faults
    assert [entry["action"] for entry in hub.actions() if entry["run"] == run][-1] == "run.end"


def test_a_coordinator_starts_on_a_full_disk_beside_a_run_that_it_cannot_take_up(
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = hub.submit()
    hub.coordinator._runs.suspend()
    other = again(hub)
    Full(monkeypatch).kinds = ["run.resumed", "run.failed"]
    other.coordinator._take_up()
    said = capsys.readouterr().err
    assert "cannot be taken up" in said
    assert "its events do not say so: No space left on device" in said
    assert RecordedRun(hub.homes["hub"].runs / run).state == INTERRUPTED
    other.close()
