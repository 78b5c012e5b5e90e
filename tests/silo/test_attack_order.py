"""What a gate was killed in, cannot record or did under a wrong clock, and what it is asked for after that."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from federation.statistics.document import load_statistics
from federation.statistics.summary import Tally, layout_of, to_fields
from federation.wire import Envelope, Kind
from silo.channel import Frame
from silo.gate.accounting import Mechanism, epsilon_of
from silo.gate.facts import LogFacts
from silo.gate.journal import Journal
from silo.gate.ledger import Ledger
from silo.gate.replies import Replies
from silo.gate.service import _cosigners
from silo.gate.spending import epsilon_left

from .limited_gate import PRIVATE, Clock, restart
from .simulator import GateBench, failed, refused
from .test_gate_statistics import ALLOWED, summarised
from .test_gate_statistics import TEXT as SURVEY

WIDE = 200
COLUMNS = [f"c{number}" for number in range(WIDE)]
WIDE_SURVEY = (
    SURVEY[: SURVEY.index("columns:")]
    + "columns: {"
    + ", ".join(f"{name}: {{range: [0, 1], bins: 200}}" for name in COLUMNS)
    + "}\nstatistics: [mean, variance, correlation, histogram]\n"
    + "privacy: {mode: example_dp, epsilon: 1.0, delta: 1.0e-5}\n"
)
WIDE_POLICY = ALLOWED.replace("[age, sex, sick]", f"[{', '.join(COLUMNS)}]").replace(
    "[mean, variance, histogram]", "[mean, variance, correlation, histogram]"
)


class Killed(BaseException):
    """The gate's process ends."""


def test_statistics_whose_first_answer_was_cut_short_leave_once(
    bench: GateBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between keeping an answer and recording it, the gate sends it when asked again, and then no other."""
    bench.serve_policy(ALLOWED, replies=Replies(bench.directory / "replies"))
    bench.work(summarise=lambda _: summarised())
    signed = bench.submission(bench.consortium.sign(SURVEY, b""))
    decide = Journal.decide

    def dies(self: Journal, action: str, *rest: object, **more: object) -> None:
        if action == "statistics.egress":
            raise Killed
        decide(self, action, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "decide", dies)
    with pytest.raises(Killed):
        bench.ask(Kind.STATISTICS, bench.question(signed))
    monkeypatch.undo()
    restart(bench, clock)
    assert bench.ask(Kind.STATISTICS, bench.question(signed)).config["status"] == "ok"
    assert bench.last["action"] == "reply.again"
    for anew in (False, True):
        if anew:
            restart(bench, clock)
        bench.work()
        assert bench.admit(run_id=f"run-{3 + anew}").config["status"] == "admitted"  # whose replies take the place
        bench.work(summarise=lambda _: summarised(rows=99))
        assert refused(bench.ask(Kind.STATISTICS, bench.question(signed))) == "statistics.repeated"


def test_statistics_that_no_entry_holds_do_not_leave(bench: GateBench) -> None:
    """They were kept before they were found too large for the log, and left when they were asked for again."""
    asked = load_statistics(WIDE_SURVEY).model
    tally = Tally(layout_of(asked))
    tally.add(np.random.default_rng(1).random((100, WIDE)))
    summary = to_fields(tally.summary(), layout_of(asked))
    answer = Frame("summarised", {**summarised().fields, "summary": summary, "tables": [[11, 0]] * WIDE})
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    bench.serve_policy(WIDE_POLICY, replies=Replies(bench.directory / "replies"))
    signed = bench.submission(bench.consortium.sign(WIDE_SURVEY, b""))
    for _ in range(2):
        bench.work(summarise=lambda _: answer)
        assert "expected at most 1048576" in failed(bench.ask(Kind.STATISTICS, bench.question(signed)))
    assert not bench.ledger.entries, "what cannot leave costs nothing"
    bench.ledger.close()


def test_what_was_debited_while_the_clock_was_behind_is_spent_once_it_is_set(limited: GateBench, clock: Clock) -> None:
    """Its lines have times before the budget's window, and stand after one of the window."""
    assert limited.ledger is not None
    right = clock.now

    def left() -> float:
        assert limited.ledger is not None
        return epsilon_left(limited.ledger, limited.policy, clock())

    for run, at in (("run-1", right), ("run-2", right - timedelta(days=400))):
        clock.now = at
        limited.work()
        assert limited.admit(limited.consortium.sign(PRIVATE, now=at), run_id=run).config["status"] == "admitted"
        for number in (1, 2):
            assert limited.round(number).config["status"] == "ok"
    clock.now = right + timedelta(minutes=1)
    mechanisms: list[Mechanism] = [entry.debit.mechanism for entry in limited.ledger.entries]
    assert len(mechanisms) == 4
    assert left() == 50.0 - epsilon_of(mechanisms, 1e-5)
    limited.work()
    assert limited.admit(limited.consortium.sign(PRIVATE, now=clock()), run_id="run-3").config["status"] == "admitted"
    session = limited.handler._session
    assert session is not None
    facts = limited.handler._parts.privacy_facts(session, limited.policy, clock())
    assert facts is not None
    assert facts.spent == epsilon_of([*mechanisms, *[mechanisms[0]] * 3], 1e-5)


def test_a_debit_of_a_clock_that_was_ahead_does_not_keep_old_ones_in_the_window(
    limited: GateBench, clock: Clock
) -> None:
    """Only it stays, until its time has passed: else one wrong clock would end a budget's window for ever."""
    assert limited.ledger is not None
    right = clock.now
    clock.now = right + timedelta(days=4000)
    limited.work()
    assert limited.admit(limited.consortium.sign(PRIVATE, now=clock())).config["status"] == "admitted"
    assert limited.round(1).config["status"] == "ok"
    (ahead,) = limited.ledger.entries
    clock.now = right
    limited.work()
    assert limited.admit(limited.consortium.sign(PRIVATE, now=right), run_id="run-2").config["status"] == "admitted"
    assert limited.round(1).config["status"] == "ok"
    clock.now = right + timedelta(days=400)
    assert epsilon_left(limited.ledger, limited.policy, clock()) == 50.0 - epsilon_of([ahead.debit.mechanism], 1e-5)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no note\n", None], ids=["empty", "binary", "text", "cut off"])
def test_a_damaged_file_of_cosignatures_ends_no_gate_and_blames_nobody(bench: GateBench, content: bytes | None) -> None:
    facts = LogFacts(bench.audit, None, lambda: _cosigners(bench.witnessing), bench.witnessing.clock_skew)
    bench.handler = bench.make_handler(log_facts=facts)
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    for _ in range(3):
        bench.ask(Kind.WITNESS, Envelope())
    path = bench.audit / "cosigned"
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    assert bench.round(1).config["status"] == "ok"
    for _ in range(3):
        assert bench.ask(Kind.WITNESS, Envelope()).config["status"] == "ok"
    assert "message.refused" not in bench.state().actions
    assert bench.witnessing.cosigned() is not None, "what came back took its place"
