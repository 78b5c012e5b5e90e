"""A coordinator that plays with the ids of runs: a budget goes by what was signed, never by a name it chose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.wire import Envelope, Kind
from silo.channel import Frame
from silo.gate.accounting import Mechanism, Plan, epsilon_of, noise_for
from silo.gate.history import history_of, read_entries
from silo.gate.ledger import FIRST, Debit, Entry, Ledger, privacy_facts, read_ledger
from silo.gate.replies import Replies, RepliesError
from silo.gate.spending import debits_of, is_paid

from .simulator import INITIAL, POLICY, RUN, GateBench, failed, prepared, refused, trained
from .test_gate_statistics import ALLOWED, summarised
from .test_gate_statistics import PRIVATE as SURVEY

BUDGET, DELTA = 8.0, 1e-5
PRIVACY = f"privacy: {{mode: example_dp, budget: {{epsilon: {BUDGET}, delta: 1.0e-5, per: dataset, window: P1Y}}}}\n"
LIMITED = POLICY.replace("max_rounds: 10", "max_rounds: 1000") + PRIVACY
PRIVATE = RUN + "privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2}\n"
WHOLE_ROUND = PRIVATE.replace("rounds: 3", "rounds: 3, local: {steps: 5}")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OWN, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def limited(bench: GateBench) -> Iterator[GateBench]:
    """A gate with a budget of epsilon 8 a year, a ledger and replies."""
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    bench.serve_policy(LIMITED, replies=Replies(bench.directory / "replies"))
    yield bench
    bench.ledger.close()


def restart(bench: GateBench) -> None:
    """Start the gate anew: what it knows is on its disk."""
    assert bench.ledger is not None
    bench.ledger.close()
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    bench.history = history_of(read_entries(bench.audit))
    bench.link.drop()
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))


def spent(bench: GateBench) -> float:
    """What the debits in the ledger come to, whoever they are said to be of."""
    entries = read_ledger(bench.directory / "ledger.jsonl")
    return epsilon_of([entry.debit.mechanism for entry in entries], DELTA)


def spending(rounds: int, batch: int, steps: int) -> str:
    """A run that plans nearly the whole budget over this many rounds."""
    noise = round(noise_for(batch / 140, rounds * steps, BUDGET * 0.98, DELTA), 3)
    work = f"rounds: {rounds}, local: {{steps: {steps}, batch_size: {batch}}}"
    text = RUN.replace("rounds: 3", work)
    return text + f"privacy: {{mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: {noise}}}\n"


# -- at the gate


@pytest.mark.parametrize("second", ["run-1", "run-2"])
def test_two_signed_runs_are_two_spendings_whatever_they_are_called(limited: GateBench, second: str) -> None:
    limited.work(train=lambda _: trained(INITIAL, steps=1, planned=1))
    assert limited.admit(limited.consortium.sign(spending(1, 140, 1))).config["status"] == "admitted"
    assert limited.round(1).config["status"] == "ok"
    assert spent(limited) > BUDGET * 0.9
    limited.link.drop()
    limited.work(train=lambda _: trained(INITIAL, steps=5, planned=5))
    rule = refused(limited.admit(limited.consortium.sign(spending(6, 32, 5)), run_id=second))
    assert rule == ("run.label" if second == "run-1" else "privacy.budget")
    assert spent(limited) <= BUDGET


@pytest.mark.parametrize("survey_id", ["run-1", "run-2"])
def test_training_and_statistics_are_two_spendings_under_one_id_too(bench: GateBench, survey_id: str) -> None:
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    replies = Replies(bench.directory / "replies")
    bench.serve_policy(ALLOWED + PRIVACY.replace(str(BUDGET), "6.0"), replies=replies)
    bench.work()
    assert bench.admit(bench.consortium.sign(PRIVATE)).config["status"] == "admitted"
    for number in (1, 2, 3):
        assert bench.round(number).config["status"] == "ok"
    left = 6.0 - spent(bench)
    bench.link.drop()
    bench.work(summarise=lambda _: summarised(SURVEY))
    signed = bench.consortium.sign(SURVEY.replace("epsilon: 1.0", "epsilon: 5.0"), b"")
    assert left < 5.0
    answer = bench.ask(Kind.STATISTICS, bench.question(signed, run_id=survey_id))
    assert refused(answer) == ("run.label" if survey_id == "run-1" else "privacy.budget")
    assert spent(bench) <= 6.0
    bench.ledger.close()


def test_a_debit_names_what_was_signed(limited: GateBench) -> None:
    limited.work()
    limited.admit(limited.consortium.sign(PRIVATE))
    limited.round(1)
    (entry,) = read_ledger(limited.directory / "ledger.jsonl")
    assert (entry.debit.run, entry.debit.submission) == ("run-1", limited.signed.digest)


def test_two_runs_under_one_flower_number_are_not_mixed(limited: GateBench) -> None:
    """The messages of the first run do not reach it any more; the second run is debited as itself."""
    limited.work()
    first = limited.consortium.sign(PRIVATE)
    limited.admit(first, flower_run=7)
    limited.round(1)
    limited.work()
    second = limited.consortium.sign(RUN + PRIVATE.removeprefix(RUN).replace("1.2", "9.0"))
    assert limited.admit(second, flower_run=7, run_id="run-2").config["status"] == "admitted"
    assert limited.round(1).config["status"] == "ok"
    digests = [entry.debit.submission for entry in read_ledger(limited.directory / "ledger.jsonl")]
    assert digests == [first.digest, second.digest]


@pytest.mark.parametrize(("rows", "rule"), [(14_000, None), (33, "privacy.plan")])
def test_rows_that_change_between_two_admissions_do_not_change_what_was_spent(
    limited: GateBench, rows: int, rule: str | None
) -> None:
    """The plan is made from the rows: with other rows the rounds that are left cost another price, never those done."""
    limited.work()
    limited.admit(limited.consortium.sign(PRIVATE))
    limited.round(1)
    first = spent(limited)
    restart(limited)
    limited.work(prepare=lambda _: prepared(examples=rows, rows=rows + 60))
    assert limited.admit(limited.consortium.sign(PRIVATE)).config["status"] == "admitted"
    session = limited.handler._session
    assert session is not None
    assert session.plan is not None
    entries = read_ledger(limited.directory / "ledger.jsonl")
    facts = privacy_facts(session.plan, session.digest, "heart", entries, NOW - timedelta(days=365), DELTA)
    left = session.plan.a_round.times((session.plan.whole.steps - 5) // session.plan.a_round.steps or 0)
    assert facts.spent == epsilon_of([entries[0].debit.mechanism, left], DELTA) >= first
    assert limited.round(2).config.get("rule") == rule
    assert first <= spent(limited) <= facts.spent


# -- ids that are none


@pytest.mark.parametrize("label", ["", ".", "-a", "a b", "a\nb", "../x", "\x1b[2J", "é", "x" * 101, "run-1\u202e"])
def test_an_id_that_is_no_label_is_refused_and_not_cut_to_one(limited: GateBench, label: str) -> None:
    limited.work()
    assert "id" in failed(limited.ask(Kind.ADMIT, limited.question(run_id=label)))
    assert failed(limited.ask(Kind.STATISTICS, limited.question(run_id=label)))
    assert limited.history.admissions.by_digest == {}


def test_two_ids_with_one_beginning_are_two(limited: GateBench) -> None:
    """An id is compared whole: cut to its first characters, two would be one."""
    limited.work()
    long = "x" * 99
    assert limited.admit(limited.consortium.sign(PRIVATE), run_id=long + "a").config["status"] == "admitted"
    limited.work()
    cheap = limited.consortium.sign(PRIVATE.replace("1.2", "9.0"))
    assert limited.admit(cheap, run_id=long + "b").config["status"] == "admitted"
    assert set(limited.history.admissions.by_label) == {long + "a", long + "b"}


class Full(Replies):
    """Replies on a disk that is full."""

    def keep(self, *_: object, **__: object) -> None:
        raise RepliesError("the disk is full")


# -- the ledger alone

PLAN = Plan(Mechanism(0.1, 1.1, 20), 3, 0.5, DELTA)
MECHANISMS = [Mechanism(0.1, 1.1, 20), Mechanism(0.3, 1.1, 20), Mechanism(0.1, 2.0, 7)]
DEBITS = st.builds(
    Debit,
    time=st.sampled_from([NOW, NOW - timedelta(days=400)]),
    dataset=st.sampled_from(["heart", "lung"]),
    run=st.sampled_from(["run-1", "run-2"]),
    round=st.integers(1, 3),
    operator=st.just("spiffe://heart.example/operator/ops"),
    mechanism=st.sampled_from(MECHANISMS),
    clip_norm=st.just(1.0),
    mode=st.sampled_from(["example_dp", "silo_dp"]),
    submission=st.sampled_from(["", OWN, OTHER]),
)


@settings(max_examples=40, deadline=None)
@given(debits=st.lists(DEBITS, max_size=6))
def test_whatever_a_ledger_has_in_the_window_is_spent(debits: list[Debit]) -> None:
    entries = [Entry(number, FIRST, debit) for number, debit in enumerate(debits, 1)]
    since = NOW - timedelta(days=365)
    facts = privacy_facts(PLAN, OWN, "heart", entries, since, DELTA)
    begun = next((place for place, one in enumerate(debits) if one.time >= since), len(debits))
    counted = [
        one for place, one in enumerate(debits) if one.dataset == "heart" and (place >= begun or one.submission == OWN)
    ]
    assert facts.spent >= epsilon_of([one.mechanism for one in counted], DELTA)
    if all(one.submission != OWN for one in counted):
        assert facts.spent == epsilon_of([*(one.mechanism for one in counted), PLAN.whole], DELTA)


def test_a_line_of_an_earlier_version_is_someone_elses(tmp_path: Path) -> None:
    """It names no signed run: it is read, counts in full, and pays for nothing."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    old = Debit(NOW, "heart", "run-1", 1, "spiffe://heart.example/operator/ops", PLAN.a_round, 1.0)
    ledger.debit(old)
    assert b"submission" not in (tmp_path / "ledger.jsonl").read_bytes()
    ledger.debit(replace(old, submission=OWN))
    ledger.close()
    entries = read_ledger(tmp_path / "ledger.jsonl")
    assert [entry.debit.submission for entry in entries] == ["", OWN]
    for digest in ("", OWN):
        assert len(debits_of(entries, digest, "heart")) == bool(digest)
    facts = privacy_facts(PLAN, OWN, "heart", entries, NOW, DELTA)
    assert facts.spent == epsilon_of([PLAN.a_round, PLAN.whole], DELTA)


def test_a_debit_for_other_rows_pays_for_no_round(tmp_path: Path) -> None:
    debit = Debit(NOW, "heart", "run-1", 1, "spiffe://heart.example/operator/ops", PLAN.a_round, 1.0, submission=OWN)
    entries = debits_of([Entry(1, FIRST, debit)], OWN, "heart")
    assert is_paid(entries, 1, 0, PLAN.a_round)
    assert not is_paid(entries, 1, 0, Mechanism(1.0, 1.1, 20))
    assert not is_paid(entries, 1, 1, PLAN.a_round)


def test_the_debit_of_a_round_that_never_left_does_not_pay_for_dearer_rows(limited: GateBench) -> None:
    """Killed between debit and release, with 14,000 rows; started anew with 140: the round costs its new price."""

    limited.work(prepare=lambda _: prepared(examples=14_000, rows=20_000, validation=6_000))
    limited.handler = limited.make_handler(replies=Full(limited.directory / "replies"))
    limited.admit(limited.consortium.sign(WHOLE_ROUND))
    assert failed(limited.round(1))
    restart(limited)
    limited.work()
    limited.admit(limited.consortium.sign(WHOLE_ROUND))
    assert limited.round(1).config["status"] == "ok"
    rates = [entry.debit.mechanism.sampling_rate for entry in read_ledger(limited.directory / "ledger.jsonl")]
    assert rates == [32 / 14_000, 32 / 140]


@pytest.mark.parametrize("lost_during_the_round", [False, True])
def test_a_round_is_debited_for_what_its_worker_was_told(limited: GateBench, *, lost_during_the_round: bool) -> None:
    """A worker is lost, and the fresh one reads 14,000 rows in place of 140: it must not train by the old plan."""
    text = PRIVATE.replace("rounds: 3", "rounds: 3, local: {steps: 5}")
    told: list[float] = []

    def fresh(frame: Frame) -> Frame:
        told.append(frame.fields["privacy"]["sampling_rate"])
        return trained(INITIAL)

    def dies(_: Frame) -> None:
        limited.work(prepare=lambda _: prepared(examples=14_000, rows=20_000, validation=6_000), train=fresh)

    limited.work(train=dies)
    assert limited.admit(limited.consortium.sign(text)).config["status"] == "admitted"
    if not lost_during_the_round:
        dies(Frame("train"))
    assert limited.round(1).config["status"] == "ok"
    (entry,) = read_ledger(limited.directory / "ledger.jsonl")
    assert told == [entry.debit.mechanism.sampling_rate]


def test_an_empty_envelope_names_no_run(limited: GateBench) -> None:
    assert failed(limited.ask(Kind.ADMIT, Envelope()))
