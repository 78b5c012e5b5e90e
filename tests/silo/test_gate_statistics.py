"""A gate that is asked for statistics: what it admits, hides, debits and records, between two simulated neighbours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.statistics.document import Statistics, load_statistics
from federation.statistics.reading import read_noisy, read_summary
from federation.statistics.summary import Tally, layout_of, to_fields
from federation.wire import Envelope, Kind
from silo.channel import Frame
from silo.gate.journal import Journal
from silo.gate.ledger import Ledger
from silo.gate.replies import Replies

from .simulator import POLICY, RUN, GateBench

ALLOWED = POLICY.replace(
    "    metrics: {countries: [EU]",
    "    statistics: {countries: [EU], basis: gdpr-art-9-2-j}\n    metrics: {countries: [EU]",
).replace(
    "  update: {max_norm", "  statistics: {allow: [mean, variance, histogram], minimum_cell: 10}\n  update: {max_norm"
)
TEXT = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {range: [0, 100], bins: 4}, sex: {range: [0, 1], bins: 2}}
statistics: [mean, variance, histogram]
"""
PRIVATE = TEXT + "privacy: {mode: example_dp, epsilon: 1.0, delta: 1.0e-5}\n"
# 100 rows: ages in four bins of 4, 36, 30 and 30 rows; 12 of sex 1.
AGES = np.repeat([10.0, 40.0, 60.0, 90.0], [4, 36, 30, 30]) + np.arange(100) / 100
SEX = np.repeat([1.0, 0.0], [12, 88])


def summarised(text: str = TEXT, rows: int = 100, **changes: object) -> Frame:
    """A worker's account of its view."""
    asked = load_statistics(text).model
    tally = Tally(layout_of(asked))
    tally.add(np.column_stack([AGES, SEX])[:rows])
    fields: dict[str, Any] = {
        "summary": to_fields(tally.summary(), layout_of(asked)),
        "tables": [[11, 0], [2, 12]],
        "rows": rows,
        "dropped": 3,
        "withheld": 2,
        "view_digest": "sha256:" + "a" * 64,
        **changes,
    }
    return Frame("summarised", {name: value for name, value in fields.items() if value is not None})


def work(bench: GateBench, answer: Callable[[Frame], Frame | None] = lambda frame: summarised()) -> None:
    bench.work(summarise=answer)


def ask(bench: GateBench, text: str = TEXT, **changes: str) -> Envelope:
    signed = bench.consortium.sign(text, b"")
    return bench.ask(Kind.STATISTICS, bench.question(signed, **changes))


def asked_for(text: str = TEXT) -> Statistics:
    return load_statistics(text).model


def rule(answer: Envelope) -> str:
    assert answer.config["status"] == "refused", answer.config
    return str(answer.config["rule"])


def recorded(bench: GateBench) -> list[tuple[str, str, str | None]]:
    return [(entry["action"], entry["decision"], entry["rule"]) for entry in bench.state().entries]


def test_a_survey_is_admitted_viewed_hidden_decided_and_recorded_and_the_worker_let_go(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    work(bench)
    answer = ask(bench)
    assert answer.config["status"] == "ok"
    assert answer.config["policy"] == bench.policy.digest
    shown = read_summary(str(answer.config["statistics"]), layout_of(asked_for()))
    assert shown.rows == 100
    assert shown.mean[0] == pytest.approx(AGES.mean())
    assert shown.scatter[1, 1] == pytest.approx(12 * 88 / 100)
    # Of the four bins the one of 4 rows is hidden, and with it the smallest other, the first of the two of 30.
    assert shown.counts[0] is not None
    assert shown.counts[0].tolist() == [0, -1, 36, -1, 30, 0]
    assert recorded(bench) == [
        ("run.admit", "allow", "admission.allow"),
        ("view.build", "allow", "view.allow"),
        ("statistics.egress", "allow", "egress.allow"),
        ("run.leave", "record", None),
    ]
    entries = bench.state().entries
    assert entries[0]["detail"]["statistics"] == "mean,variance,histogram"
    assert (entries[1]["detail"]["rows"], entries[1]["detail"]["dropped_rows"]) == (100, 3)
    assert entries[2]["detail"]["hidden_cells"] == 2
    assert bench.payload(entries[2])["statistics"] == json.loads(str(answer.config["statistics"]))
    assert bench.node.fetched_apps == [], "no app is fetched"
    (worker,) = bench.workers
    assert worker.ended.wait(20)
    (frame,) = worker.frames
    assert (frame.op, frame.fields["cell"], frame.payload) == ("summarise", 10, b"")
    assert [state.actions[-1] for op, state in bench.seen_by_worker] == ["run.admit"], "recorded before it is asked"


@pytest.mark.parametrize(
    ("old", "new", "text", "expected"),
    [
        ("", "", TEXT.replace("dataset: heart", "dataset: lung"), "datasets.known"),
        ("", "", TEXT.replace("sex:", "zip:"), "datasets.columns"),
        ("", "", TEXT.replace("purpose: HMB", "purpose: POA"), "purposes.allow"),
        ("", "", TEXT.replace("variance, ", "variance, correlation, "), "egress.statistics.allow"),
        ("", "", TEXT + "per_silo: true\n", "egress.statistics.per_silo"),
        ("", "", TEXT + "silos: [hospital-a, hospital-b]\nquorum: 2\nper_silo: true\n", "egress.statistics.per_silo"),
        ("  statistics: {allow: [mean, variance, histogram], minimum_cell: 10}\n", "", TEXT, "default-deny"),
        ("    statistics: {countries: [EU], basis: gdpr-art-9-2-j}\n", "", TEXT, "default-deny"),
        ("statistics: {countries: [EU]", "statistics: {countries: [CH]", TEXT, "residency.destinations"),
        ("runs: {max_rounds: 10}", "runs: {max_rounds: 10, minimum_silos: 3}", TEXT, "runs.minimum_silos"),
        ("egress:", "privacy: {mode: example_dp}\negress:", TEXT, "privacy.mode"),
        ("egress:", "privacy: {mode: none, secure_aggregation: required}\negress:", TEXT, "privacy.secure_aggregation"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused_before_anything_is_read(
    bench: GateBench, old: str, new: str, text: str, expected: str
) -> None:
    assert old in ALLOWED
    bench.serve_policy(ALLOWED.replace(old, new, 1))
    work(bench)
    assert rule(ask(bench, text)) == expected
    assert (bench.last["action"], bench.last["decision"], bench.last["rule"]) == ("run.admit", "deny", expected)
    assert bench.workers[0].frames == []


def test_a_policy_needs_neither_apps_nor_a_place_for_updates_to_allow_statistics(bench: GateBench) -> None:
    policy = ALLOWED.replace("model_update: {countries: [EU]", "model_update: {countries: []")
    bench.serve_policy(policy.replace("allow: [{digest", "allow: [{digest", 1))
    work(bench)
    assert ask(bench).config["status"] == "ok"


def test_a_training_run_is_no_survey_and_a_survey_no_training_run(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    work(bench)
    assert rule(ask(bench, RUN)) == "run.document"
    assert rule(bench.admit(bench.consortium.sign(TEXT, b""))) == "run.document"
    changed = bench.question(bench.consortium.sign(TEXT, b""), run=TEXT.replace("HMB", "GRU"))
    assert rule(bench.ask(Kind.STATISTICS, changed)) == "run.signature"
    assert bench.workers[0].frames == []


def test_pseudonyms_have_no_statistics(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED.replace("allow: [age, sex, sick]", "allow: [age, sex, sick], pseudonymize: [age]"))
    work(bench)
    assert rule(ask(bench)) == "statistics.pseudonyms"
    assert bench.workers[0].frames == []


def test_a_view_that_is_too_small_leaves_nothing(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    work(bench, lambda frame: summarised(rows=40))
    assert rule(ask(bench)) == "datasets.rows.minimum"
    assert "statistics.egress" not in bench.state().actions


@pytest.mark.parametrize(
    "changes",
    [
        {"summary": {"rows": 100}},
        {"summary": None},
        {"tables": [[2, 12]]},
        {"tables": "none"},
        {"dropped": "many"},
        {"view_digest": None},
    ],
)
def test_a_worker_whose_account_cannot_be_makes_the_question_fail(bench: GateBench, changes: dict[str, Any]) -> None:
    bench.serve_policy(ALLOWED)
    work(bench, lambda frame: summarised(**changes))
    answer = ask(bench)
    assert answer.config["status"] == "failed"
    assert "the worker's statistics" in str(answer.config["reason"])
    assert "statistics.egress" not in bench.state().actions


def test_consent_that_the_worker_does_not_say_it_kept_is_not_taken_for_granted(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED.replace("rows: {minimum: 50}", "rows: {minimum: 50, consent: agreed}"))
    work(bench)
    assert ask(bench).config["status"] == "failed"


# -- privacy


BUDGET = "privacy: {mode: example_dp, budget: {epsilon: 1.2, delta: 1.0e-5, per: dataset, window: P1Y}}\negress:"


def private(bench: GateBench, directory: Path, policy: str = ALLOWED.replace("egress:", BUDGET)) -> Ledger:
    bench.ledger = ledger = Ledger(directory / "ledger.jsonl")
    bench.serve_policy(policy, replies=Replies(directory / "replies"))
    work(bench, lambda frame: summarised(PRIVATE))
    return ledger


def test_a_private_survey_is_debited_before_it_leaves_and_its_noise_is_released_once(
    bench: GateBench, tmp_path: Path
) -> None:
    ledger = private(bench, tmp_path)
    answer = ask(bench, PRIVATE)
    layout = layout_of(asked_for(PRIVATE))
    first = read_noisy(str(answer.config["statistics"]), layout)
    assert "rows" not in answer.config, "the exact number of rows does not go with it"
    (entry,) = ledger.entries
    assert (entry.debit.dataset, entry.debit.run, entry.debit.round) == ("heart", "run-1", 1)
    assert (entry.debit.mechanism.sampling_rate, entry.debit.mechanism.steps) == (1.0, 1)
    assert first.deviation == pytest.approx(entry.debit.mechanism.noise_multiplier * entry.debit.clip_norm)
    actions = bench.state().actions
    assert actions.index("privacy.debit") < actions.index("statistics.egress")
    # Asked again, as by a coordinator that was started anew: the same bytes, no debit, and no worker is asked.
    again = ask(bench, PRIVATE)
    assert again.config == answer.config
    assert len(ledger.entries) == 1
    assert bench.state().actions[-2:] == ["run.readmit", "reply.again"]
    # A second survey costs again: together more than the budget.
    work(bench, lambda frame: summarised(PRIVATE))
    assert rule(ask(bench, PRIVATE, run_id="run-2")) == "privacy.budget"
    assert len(ledger.entries) == 1
    ledger.close()


class Killed(BaseException):
    """The process ends here, with what is on disk."""


@pytest.mark.parametrize("at", ["before the debit", "after the debit", "before the record", "after the record"])
def test_a_gate_killed_while_it_releases_has_one_noise_and_one_debit(
    bench: GateBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Wherever it is killed, the next process releases what the first one would have, and the ledger has one debit."""
    ledger = private(bench, tmp_path)
    drawn: list[str] = []

    def kill(*_: object, **__: object) -> None:
        drawn.extend(path.read_text() for path in (tmp_path / "replies").glob("statistics-*"))
        raise Killed

    debit, decide = ledger.debit, Journal.decide
    if at == "before the debit":
        monkeypatch.setattr(ledger, "debit", kill)
    elif at == "after the debit":
        monkeypatch.setattr(ledger, "debit", lambda debited: (debit(debited), kill()))
    else:

        def decided(journal: Journal, action: str, *rest: Any, **fields: Any) -> None:
            if at == "after the record" or action != "statistics.egress":
                decide(journal, action, *rest, **fields)
            if action == "statistics.egress":
                kill()

        monkeypatch.setattr(Journal, "decide", decided)
    with pytest.raises(Killed):
        ask(bench, PRIVATE)
    monkeypatch.undo()
    ledger.close()
    ledger = private(bench, tmp_path)
    asked = [frame.op for frame in bench.workers[-1].frames]
    first = ask(bench, PRIVATE)
    assert first.config["status"] == "ok", first.config
    assert json.dumps(str(first.config["statistics"])) in drawn[0], "the noise that was drawn before"
    assert len(ledger.entries) == 1
    assert ask(bench, PRIVATE).config == first.config
    assert len(ledger.entries) == 1
    assert [frame.op for frame in bench.workers[-1].frames] == asked, "no worker is asked again"
    ledger.close()


def test_a_release_that_is_not_kept_any_more_is_not_drawn_again(bench: GateBench, tmp_path: Path) -> None:
    """Another run came between, whose replies took its place; a coordinator's id for another document does not help."""
    roomy = ALLOWED.replace("egress:", BUDGET.replace("1.2", "20.0"))
    ledger = private(bench, tmp_path, roomy)
    assert ask(bench, PRIVATE).config["status"] == "ok"
    cheaper = PRIVATE.replace("epsilon: 1.0", "epsilon: 0.5")
    assert rule(ask(bench, cheaper)) == "run.label"
    work(bench, lambda frame: summarised(PRIVATE))
    assert ask(bench, PRIVATE, run_id="run-2").config["status"] == "ok"
    assert rule(ask(bench, PRIVATE)) == "statistics.repeated"
    assert [entry.debit.run for entry in ledger.entries] == ["run-1", "run-2"]
    ledger.close()


def test_a_worker_that_is_lost_while_it_summarises_is_followed_by_the_next(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)

    def lost(frame: Frame) -> None:
        threading.Thread(target=work, args=(bench,), daemon=True).start()

    work(bench, lost)
    assert ask(bench).config["status"] == "ok"
    assert [len(worker.frames) for worker in bench.workers] == [1, 1]
    assert bench.state().actions == ["run.admit", "view.build", "statistics.egress", "run.leave"]


def test_a_private_survey_needs_a_ledger(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    work(bench)
    assert rule(ask(bench, PRIVATE)) == "privacy.ledger"


def test_a_policy_that_comes_while_the_worker_reads_is_the_one_that_decides(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)

    def meanwhile(frame: Frame) -> Frame:
        stricter = ALLOWED.replace("version: 1", "version: 2").replace("minimum_cell: 10", "minimum_cell: 40")
        bench.policy_path.write_text(stricter)
        bench.handler.reload()
        return summarised()

    work(bench, meanwhile)
    answer = ask(bench)
    shown = read_summary(str(answer.config["statistics"]), layout_of(asked_for()))
    assert shown.counts[0] is None or 36 not in shown.counts[0].tolist()
    assert np.isnan(shown.mean[1]), "12 rows of one value are too few now"
    assert "run.readmit" in bench.state().actions
