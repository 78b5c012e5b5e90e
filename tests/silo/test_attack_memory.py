"""What a gate remembers of the runs it admitted: none is forgotten while its signature is good."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import keys as log_keys
from audit.erasure import apply, find_due, set_rules
from audit.log import AuditLog
from audit.rollback import RollbackGuard
from audit.segments import Rotation
from federation.errors import SubmissionError
from federation.submission import submission_of
from silo.gate import admissions
from silo.gate.admissions import RUNS, Admissions, Progress
from silo.gate.history import history_of, read_entries

from .limited_gate import CHEAP, Clock, restart, train
from .simulator import POLICY, RUN, SILO, GateBench, refused
from .test_gate_session import OPERATOR

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def test_more_runs_than_are_kept_in_any_case_make_a_gate_forget_none_that_is_good(
    limited: GateBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admissions, "RUNS", 2)
    limited.history.admissions.full = 2
    train(limited)
    first = limited.signed
    for number in range(2, 7):
        limited.work()
        cheap = limited.consortium.sign(CHEAP, now=clock())
        assert limited.admit(cheap, run_id=f"run-{number}").config["status"] == "admitted"
    for anew in (False, True):
        if anew:
            restart(limited, clock)
        limited.work()
        assert refused(limited.admit(first, run_id="once-more")) == "run.label"
    clock.now += 8 * DAY
    limited.history.admissions.full = 2
    for number in (7, 8, 9):
        limited.work()
        later = limited.consortium.sign(CHEAP, now=clock())
        assert limited.admit(later, run_id=f"run-{number}").config["status"] == "admitted"
    limited.work()
    assert limited.history.of(first.digest) is None
    assert refused(limited.admit(first, run_id="once-more")) == "run.validity"
    clock.now -= 8 * DAY
    assert refused(limited.admit(first, run_id="once-more")) == "run.validity"  # a clock that was set back


def test_what_was_removed_from_the_log_is_not_taken_for_new(limited: GateBench, clock: Clock) -> None:
    """Retention ended for the entries that say that a run was admitted; what was signed before then is not new."""
    train(limited)
    first, other = limited.signed, limited.consortium.sign(CHEAP)
    limited.log.close()
    key = log_keys.load_key(limited.consortium.homes[SILO].log_key)
    limited.log = AuditLog.open(limited.audit, origin=limited.log.origin, key=key, rotation=Rotation(max_bytes=1))
    set_rules(limited.log, ["entries=P0D..PT1M"], limited.peer.uri)
    due = find_due(limited.log, clock() + timedelta(minutes=2))
    assert due.segments
    apply(limited.log, due, limited.peer.uri)
    limited.guard = RollbackGuard(limited.log, limited.peer.uri)
    limited.witnessing = limited.make_witnessing()
    restart(limited, clock)
    assert limited.history.of(first.digest) is None
    limited.work()
    for signed in (first, other):
        answer = limited.admit(signed, run_id="once-more")
        assert refused(answer) == "run.validity"
        assert "not in this silo's log any more" in str(answer.config["reason"])
    clock.now += timedelta(minutes=10)
    limited.history.admissions.require_new(limited.consortium.sign(CHEAP, now=clock()).submission, clock())


NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SIGNED = [
    submission_of(("sha256:" + "1" * 64, "sha256:" + "2" * 64), OPERATOR, [SILO], validity, NOW + since)
    for validity in (timedelta(minutes=10), 2 * HOUR)
    for since in (timedelta(), HOUR)
]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(range(4)), st.integers(-30, 120)), max_size=40),
    fresh=st.integers(0, 3 * RUNS),
)
def test_no_order_of_runs_and_no_clock_admits_one_twice(steps: list[tuple[int, int]], fresh: int) -> None:
    """Whatever comes between, and also where the clock goes back."""
    known, now, admitted = Admissions(full=8), NOW, set[str]()
    for number, (which, minutes) in enumerate(steps):
        now = max(NOW, now + timedelta(minutes=minutes))
        for filler in range(fresh // max(1, len(steps))):
            known.admitted(Progress(f"f-{number}-{filler}", f"sha256:f-{number}-{filler}"), now)
        submission = SIGNED[which]
        if submission.digest in known.by_digest:
            continue
        try:
            known.require_new(submission, now)
        except SubmissionError:
            continue
        assert submission.digest not in admitted
        admitted.add(submission.digest)
        known.admitted(Progress(f"run-{number}", submission.digest, submission.not_after), now)


def test_a_gate_that_remembers_too_much_admits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admissions, "LIMITS", replace(admissions.LIMITS, admissions=3))
    known = Admissions()
    for number in range(3):
        known.require_new(SIGNED[2], NOW)
        known.admitted(Progress(f"run-{number}", f"sha256:{number}", NOW + HOUR), NOW)
    with pytest.raises(SubmissionError, match="3 runs whose signatures are still good"):
        known.require_new(SIGNED[2], NOW)


def test_an_entry_of_an_earlier_version_counts_as_a_use_and_its_run_is_not_taken_up(
    limited: GateBench, clock: Clock
) -> None:
    train(limited)
    entries = list(read_entries(limited.audit))
    for entry in entries:
        entry["detail"].pop("not_after", None)
    history = history_of(json.loads(json.dumps(entries)))
    progress = history.of(limited.signed.digest)
    assert progress is not None
    assert progress.last_round == 3
    assert progress.not_after < NOW
    assert history.uses.total() == 1
    other = limited.consortium.sign(RUN)
    with pytest.raises(SubmissionError, match="another signed run was admitted as run-1"):
        history.admissions.require_label("run-1", other.digest)


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_set_neither_begins_nor_prolongs_a_run_in_progress(
    bench: GateBench, clock: Clock, days: int
) -> None:
    """Set ahead, a run in progress would be taken for abandoned; set back, an abandoned one for in progress."""
    passed = [0.0]
    policy = POLICY.replace("max_rounds: 10", "max_rounds: 10, max_concurrent: 1")
    bench.serve_policy(policy, now=clock, steady=lambda: passed[0])
    bench.work()
    assert bench.admit(bench.consortium.sign(now=clock())).config["status"] == "admitted"
    other = bench.consortium.sign(RUN.replace("sick-or-not", "other"), now=clock() + min(DAY * days, 0 * DAY))
    clock.now += DAY * days
    assert refused(bench.admit(other, run_id="run-2")) == "runs.max_concurrent"
    passed[0] += 2 * 60 + 61
    bench.work()
    assert bench.admit(other, run_id="run-2").config["status"] == "admitted"
