"""A coordinator that submits what an operator signed once more: one signature is one run, for as long as it is good."""

from __future__ import annotations

from datetime import timedelta

import pytest

from federation.errors import SubmissionError
from federation.identity import sign
from federation.run import SignedRun, sign_run
from federation.submission import DOMAIN, LONGEST_VALIDITY, Submission
from federation.wire import Envelope, Kind
from silo.gate.ledger import read_ledger
from silo.gate.replies import Replies

from .limited_gate import PRIVATE, Clock, restart, train
from .simulator import SILO, GateBench, prepared, refused
from .test_gate_normalization import MOMENTS, NORMALISED
from .test_gate_statistics import ALLOWED, summarised
from .test_gate_statistics import TEXT as SURVEY

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize("anew", [True, False], ids=["restarted", "running"])
def test_what_was_signed_once_is_trained_once(limited: GateBench, clock: Clock, *, anew: bool) -> None:
    train(limited)
    for again in range(5):
        if anew:
            restart(limited, clock)
        limited.work()
        assert refused(limited.admit(limited.signed, run_id=f"again-{again}")) == "run.label"
    debits = read_ledger(limited.directory / "ledger.jsonl")
    assert [entry.debit.round for entry in debits] == [1, 2, 3]
    assert limited.history.uses.total() == 1


def test_an_operator_who_wants_it_again_signs_again(limited: GateBench, clock: Clock) -> None:
    train(limited)
    limited.work()
    answer = limited.admit(limited.consortium.sign(PRIVATE), run_id="run-2")
    assert answer.config["status"] == "admitted"
    assert limited.round(1).config["status"] == "ok"
    assert limited.history.uses.total() == 2


def test_a_run_goes_on_after_its_signature_has_expired(limited: GateBench, clock: Clock) -> None:
    """It was admitted in time: a resume is no second run."""
    signed = limited.consortium.sign(PRIVATE, validity=HOUR, now=clock())
    limited.work()
    assert limited.admit(signed).config["status"] == "admitted"
    assert limited.round(1).config["status"] == "ok"
    clock.now += 2 * DAY
    restart(limited, clock)
    limited.work()
    assert limited.admit(signed).config["status"] == "admitted"
    assert limited.round(2).config["status"] == "ok"
    assert "run.readmit" in limited.state().actions


@pytest.mark.parametrize(
    ("signed", "validity", "words"),
    [
        (-timedelta(hours=2), HOUR, "was good until"),
        (timedelta(minutes=6), DAY, "set the clocks"),
        (-8 * DAY, 7 * DAY, "was good until"),
    ],
    ids=["expired", "in the future", "by default"],
)
def test_a_signature_that_is_not_good_now_begins_no_run(
    limited: GateBench, clock: Clock, signed: timedelta, validity: timedelta, words: str
) -> None:
    limited.work()
    run = limited.consortium.sign(PRIVATE, validity=validity, now=clock() + signed)
    answer = limited.admit(run)
    assert refused(answer) == "run.validity"
    assert words in str(answer.config["reason"])


def test_a_clock_that_is_a_little_behind_the_operators_does_not_matter(limited: GateBench, clock: Clock) -> None:
    limited.work()
    run = limited.consortium.sign(PRIVATE, now=clock() + timedelta(minutes=4))
    assert limited.admit(run).config["status"] == "admitted"


def test_an_operator_cannot_sign_for_ever(limited: GateBench) -> None:
    """A statement that was made by hand, with a longer validity than the kit's own command signs."""
    home = limited.consortium.homes["operator"]
    good = limited.consortium.sign(PRIVATE)
    late = good.submission.model_copy(update={"not_after": good.submission.signed + LONGEST_VALIDITY + HOUR})
    limited.work()
    answer = limited.admit(resigned(limited, late))
    assert refused(answer) == "run.validity"
    assert "at most 30 days" in str(answer.config["reason"])
    for validity in (LONGEST_VALIDITY + HOUR, timedelta(), -HOUR):
        with pytest.raises(SubmissionError, match="30 days"):
            sign_run(PRIVATE, b"", home.private_key(), home.certificate.read_bytes(), [SILO], validity)


def resigned(bench: GateBench, submission: Submission) -> SignedRun:
    """A statement of any content under the operator's good signature."""
    home = bench.consortium.homes["operator"]
    signature = sign(home.private_key(), DOMAIN, submission.content)
    return SignedRun(PRIVATE, submission, signature, home.certificate.read_bytes())


# -- statistics


def test_statistics_that_were_signed_once_leave_once(bench: GateBench, clock: Clock) -> None:
    """Without noise, too: of two answers about data that changed in between, the difference would show."""
    bench.serve_policy(ALLOWED, replies=Replies(bench.directory / "replies"))
    bench.work(summarise=lambda _: summarised())
    signed = bench.submission(bench.consortium.sign(SURVEY, b""))
    assert bench.ask(Kind.STATISTICS, bench.question(signed)).config["status"] == "ok"
    assert bench.ask(Kind.STATISTICS, bench.question(signed)).config["status"] == "ok"  # the same, from disk
    assert refused(bench.ask(Kind.STATISTICS, bench.question(signed, run_id="run-2"))) == "run.label"
    bench.work()
    assert bench.admit(run_id="run-3").config["status"] == "admitted"  # whose replies take the place
    bench.work(summarise=lambda _: summarised(rows=99))
    for anew in (False, True):
        if anew:
            restart(bench, clock)
            bench.work(summarise=lambda _: summarised(rows=99))
        assert refused(bench.ask(Kind.STATISTICS, bench.question(signed))) == "statistics.repeated"
    again = bench.consortium.sign(SURVEY, b"")
    assert bench.ask(Kind.STATISTICS, bench.question(again, run_id="run-4")).config["status"] == "ok"


@pytest.mark.parametrize("anew", [True, False], ids=["restarted", "running"])
def test_means_and_variances_of_a_run_leave_once(bench: GateBench, clock: Clock, *, anew: bool) -> None:
    """Of two answers that differ by one row, the difference is that row."""
    bench.serve_policy(ALLOWED)
    bench.work(prepare=lambda _: prepared(**MOMENTS))
    assert bench.admit(bench.consortium.sign(NORMALISED)).config["status"] == "admitted"
    first = bench.ask(Kind.MOMENTS, Envelope())
    assert bench.ask(Kind.MOMENTS, Envelope()).config == first.config
    if anew:
        restart(bench, clock)
    bench.link.drop()
    more = {"rows": 141, "mean": [50.1, 0.11], "square": [14000.0, 12.6]}
    bench.work(prepare=lambda _: prepared(rows=201, examples=141, **{**MOMENTS, "moments": more}))
    assert bench.admit(bench.signed).config["status"] == "admitted"
    assert refused(bench.ask(Kind.MOMENTS, Envelope())) == "statistics.repeated"
    bench.link.drop()
    bench.work(prepare=lambda _: prepared(**MOMENTS))
    assert bench.admit(bench.signed).config["status"] == "admitted"
    assert bench.ask(Kind.MOMENTS, Envelope()).config == first.config, "the same rows have the same answer"


# -- earlier versions


def test_a_run_that_was_signed_as_in_earlier_versions_is_refused(limited: GateBench) -> None:
    """It has no number of its own and no end; its fields are not even read."""
    worker = limited.work()
    question = limited.question()
    fields = {name: value for name, value in question.config.items() if name != "submission"}
    old = type(question)({**fields, "app_digest": limited.signed.app_digest})
    answer = limited.ask(Kind.ADMIT, old)
    assert answer.config["status"] == "failed"
    assert worker.asked == []
