"""The policy of a gate that is at work: replaced, refused, observed; facts of the gate's own past and state.

Policy files, audit log, signed runs and the socket are real; coordinator and worker are played.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit.erasure import bound_of
from federation.identity import load_certificate
from federation.run import app_digest
from federation.wire import Envelope, Kind
from policies.bundle import ActiveVersion, BundleError, check_succession, version_of
from policies.request import Privacy
from silo.channel import Frame
from silo.gate.facts import LogFacts, oldest_payload
from silo.gate.history import history_of, read_entries
from silo.gate.policy_file import PolicyFile, Rejected
from silo.gate.session import Session

from .simulator import APP, INITIAL, POLICY, RUN, SECONDS, SILO, GateBench, prepared, trained

DIGEST = app_digest(APP)


def edited(version: int, *changes: tuple[str, str]) -> str:
    """The policy with another version and some text replaced."""
    text = POLICY.replace("version: 1,", f"version: {version},")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def put(bench: GateBench, text: str) -> None:
    """Replace the policy's file as an editor or `activate` does: a new file under the old name."""
    fresh = bench.policy_path.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(bench.policy_path)


def rule(answer: Envelope) -> str:
    assert answer.config["status"] == "refused", answer.config
    return str(answer.config["rule"])


def entries(bench: GateBench, action: str) -> list[dict[str, Any]]:
    return [entry for entry in bench.state().entries if entry["action"] == action]


# -- a newer policy


def test_a_newer_policy_is_active_at_the_next_message_and_recorded(bench: GateBench) -> None:
    bench.work()
    put(bench, edited(2, ("allow: [HMB]", "allow: [POA]")))
    assert rule(bench.admit()) == "purposes.allow"
    (entry,) = entries(bench, "policy.activate")
    assert entry["detail"] == {"name": "hospital-a", "version": 2}
    assert entry["policy"] == bench.handler.policy.digest == entries(bench, "run.admit")[0]["policy"]
    assert bench.said == ["policy hospital-a version 2 is active"]


def test_a_file_that_is_as_before_changes_nothing(bench: GateBench) -> None:
    bench.work()
    put(bench, POLICY)
    assert bench.admit().config["status"] == "admitted"
    assert entries(bench, "policy.activate") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (POLICY.replace("version: 1,", "version: two,"), 'got "two", expected a whole number'),
        (POLICY.replace("max_rounds", "max_round"), 'did you mean "max_rounds"'),
        (POLICY[:300], "expected"),
        ("", "got an empty file"),
        (edited(1, ("allow: [HMB]", "allow: [GRU]")), "got version 1 with another text, expected more than 1"),
        (edited(2, ("name: hospital-a", "name: hospital-x")), "got the policy hospital-x, expected hospital-a"),
    ],
)
def test_a_broken_or_older_policy_changes_nothing_and_is_recorded_and_said(
    bench: GateBench, text: str, words: str
) -> None:
    bench.work()
    before = bench.handler.policy
    put(bench, text)
    assert bench.admit().config["status"] == "admitted"
    assert bench.handler.policy is before
    (entry,) = entries(bench, "policy.rejected")
    assert words in entry["reason"]
    assert entry["policy"] == before.digest
    (said,) = bench.said
    assert said.startswith("POLICY REJECTED, hospital-a version 1 stays active: ")
    assert words in said


def test_a_file_that_is_gone_leaves_the_policy_and_is_said_once(bench: GateBench) -> None:
    bench.policy_path.unlink()
    bench.handler.reload()
    bench.handler.reload()
    assert len(bench.said) == 1
    assert len(entries(bench, "policy.rejected")) == 1


def test_a_rejected_file_that_is_mended_becomes_active(bench: GateBench) -> None:
    put(bench, "broken: [")
    bench.handler.reload()
    put(bench, edited(2))
    bench.handler.reload()
    assert bench.handler.policy.model.metadata.version == 2


def test_a_policy_written_for_another_country_is_rejected(bench: GateBench) -> None:
    file = PolicyFile(bench.policy_path, country=lambda: "FR")
    with pytest.raises(Exception, match="the policy places this silo in DE"):
        file.first()


# -- a run in progress under a newer policy


def test_a_run_that_still_holds_goes_on(bench: GateBench) -> None:
    worker = bench.work()
    bench.admit()
    put(bench, edited(2, ("max_rounds: 10", "max_rounds: 9")))
    assert bench.round(1).config["status"] == "ok"
    assert entries(bench, "round.egress")[0]["policy"] == bench.handler.policy.digest
    assert worker.asked == ["prepare", "train"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("allow: [HMB]", "allow: [POA]"), "purposes.allow"),
        (("countries: [EU]", "countries: [DE]"), "residency.destinations"),
        (("minimum: 50", "minimum: 500"), "datasets.rows.minimum"),
        (("rows: {minimum: 50}", "rows: {minimum: 50, consent: agreed}"), "datasets.rows.consent"),
        ((DIGEST, "sha256:" + "0" * 64), "apps.allow"),
    ],
)
def test_a_run_that_no_longer_holds_is_refused_at_once(
    bench: GateBench, change: tuple[str, str], expected: str
) -> None:
    worker = bench.work()
    bench.admit()
    put(bench, edited(2, change))
    bench.handler.reload()
    assert worker.ended.wait(SECONDS), "the worker of a refused run is let go"
    (entry,) = entries(bench, "run.revoke")
    assert (entry["decision"], entry["rule"], entry["run"]) == ("deny", expected, "run-1")
    assert entry["policy"] == bench.handler.policy.digest
    answer = bench.round(1)
    assert rule(answer) == expected
    assert str(answer.config["location"]).startswith("policy.yaml:")
    assert answer.config["reason"] == entry["reason"]
    assert entries(bench, "round.ingress") == []


def test_a_policy_that_comes_while_the_worker_trains_stops_it(bench: GateBench) -> None:
    """The other thread notices the file; the worker is let go in the middle of its work."""
    training, stopped = threading.Event(), threading.Event()

    def train(frame: Frame) -> Frame:
        training.set()
        assert stopped.wait(SECONDS)
        return trained(INITIAL)

    worker = bench.work(train=train)
    bench.admit()
    answers: list[Envelope] = []
    thread = threading.Thread(target=lambda: answers.append(bench.round(1)))
    thread.start()
    assert training.wait(SECONDS)
    put(bench, edited(2, ("allow: [HMB]", "allow: [POA]")))
    bench.handler.reload()
    thread.join(SECONDS)
    stopped.set()
    assert rule(answers[0]) == "purposes.allow"
    assert worker.ended.wait(SECONDS)
    assert entries(bench, "round.egress") == []
    assert entries(bench, "message.failed") == []


def test_a_policy_that_comes_just_before_the_reply_keeps_it_in(bench: GateBench) -> None:
    def train(frame: Frame) -> Frame:
        put(bench, edited(2, ("allow: [HMB]", "allow: [POA]")))
        return trained(INITIAL)

    bench.work(train=train)
    bench.admit()
    assert rule(bench.round(1)) == "purposes.allow"
    assert entries(bench, "round.egress") == []


def test_a_policy_that_comes_while_the_view_is_built_decides_on_the_run(bench: GateBench) -> None:
    def prepare(frame: Frame) -> Frame:
        put(bench, edited(2, ("allow: [HMB]", "allow: [POA]")))
        return prepared()

    bench.work(prepare=prepare)
    assert rule(bench.admit()) == "purposes.allow"
    assert rule(bench.round(1)) == "purposes.allow"


def test_a_refused_run_may_be_submitted_again_under_a_policy_that_allows_it(bench: GateBench) -> None:
    bench.work()
    bench.admit()
    put(bench, edited(2, ("allow: [HMB]", "allow: [POA]")))
    assert rule(bench.round(1)) == "purposes.allow"
    put(bench, edited(3))
    assert rule(bench.round(1)) == "purposes.allow"
    bench.work()
    assert bench.admit(flower_run=8).config["status"] == "admitted"


# -- asked again before every round


def test_a_window_that_closes_ends_the_run_at_its_next_round(bench: GateBench) -> None:
    moment = datetime(2026, 11, 24, 4, 30, tzinfo=UTC)  # a Tuesday, 05:30 in Berlin
    windows = 'runs: {max_rounds: 10, windows: ["Mon-Fri 18:00-06:00 Europe/Berlin"]}'
    bench.serve_policy(edited(1, ("runs: {max_rounds: 10}", windows)), now=lambda: moment)
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    assert bench.round(1).config["status"] == "ok"
    moment += timedelta(minutes=30)
    assert rule(bench.round(2)) == "runs.windows"
    assert bench.last["reason"] == "it is Tue 06:00 Europe/Berlin; the policy allows Mon-Fri 18:00-06:00 Europe/Berlin"


def test_the_use_count_is_durable_and_a_run_does_not_count_against_itself(bench: GateBench) -> None:
    limited = edited(1, (f'{{digest: "{DIGEST}"}}', f'{{digest: "{DIGEST}", uses: 2}}'))
    bench.serve_policy(limited)
    for flower_run in (1, 2):
        bench.work()
        run_id = f"run-{flower_run}"
        assert bench.admit(flower_run=flower_run, run_id=run_id).config["status"] == "admitted"
        assert bench.ask(Kind.INITIAL, Envelope(), flower_run).config["status"] == "ok"
    assert bench.admit(flower_run=4, run_id="run-2").config["status"] == "admitted"
    assert bench.history.uses == {DIGEST: 2}
    bench.history = history_of(read_entries(bench.audit))
    bench.serve_policy(limited)
    assert rule(bench.admit(flower_run=3, run_id="run-3")) == "apps.uses"
    assert bench.last["reason"].endswith("was admitted for 2 runs; its approval is for 2 runs")


def test_a_second_run_is_refused_while_one_is_in_progress_and_admitted_when_it_has_ended(bench: GateBench) -> None:
    bench.serve_policy(edited(1, ("max_rounds: 10", "max_rounds: 10, max_concurrent: 1")))
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    assert rule(bench.admit(flower_run=8, run_id="run-2")) == "runs.max_concurrent"
    assert bench.round(3, kind=Kind.EVALUATE).config["status"] == "ok"
    bench.work()
    assert bench.admit(flower_run=8, run_id="run-2").config["status"] == "admitted"


def test_the_quorum_of_the_run_is_held_against_the_policy(bench: GateBench) -> None:
    bench.serve_policy(edited(1, ("max_rounds: 10", "max_rounds: 10, minimum_silos: 2")))
    bench.work()
    one = bench.consortium.sign(RUN.replace("rounds: 3}", "rounds: 3, quorum: 1}"))
    assert rule(bench.admit(one)) == "runs.minimum_silos"
    assert bench.admit().config["status"] == "admitted"


@pytest.mark.parametrize(("age", "expected"), [("P1D", None), ("PT1S", "identity.certificates.max_age")])
def test_certificates_are_those_of_operator_and_silo(bench: GateBench, age: str, expected: str | None) -> None:
    text = edited(1) + f"identity: {{certificates: {{max_age: {age}, min_left: P1D}}}}\n"
    own = load_certificate(bench.consortium.homes[SILO].certificate.read_bytes())
    bench.serve_policy(text, certificate=lambda: own)
    bench.work()
    answer = bench.admit()
    assert answer.config.get("rule") == expected, answer.config


def test_the_state_of_the_log_is_known_to_the_policy(bench: GateBench) -> None:
    text = edited(1) + "audit: {retention: {maximum: P1D}, verify_age: P7D}\n"
    bench.serve_policy(text)
    bench.work()
    assert rule(bench.admit()) == "audit.retention.maximum"
    facts = LogFacts(bench.audit, verified=datetime.now(UTC))
    bench.serve_policy(text, log_facts=facts)
    assert bench.admit().config["status"] == "admitted"
    assert oldest_payload(bench.audit) is None
    bench.round(1)
    oldest = oldest_payload(bench.audit)
    assert oldest is not None
    assert timedelta() <= datetime.now(UTC) - oldest < timedelta(minutes=5)
    bench.serve_policy(text.replace("verify_age: P7D", "verify_age: P7D, witnesses: {quorum: 1}"), log_facts=facts)
    assert rule(bench.admit()) == "audit.witnesses.quorum"


def test_a_policy_with_a_budget_refuses_a_run_whose_spending_is_not_known(bench: GateBench) -> None:
    budget = "budget: {epsilon: 1.0, delta: 1.0e-5, per: dataset, window: P1Y}"
    text = edited(1) + f"privacy: {{mode: example_dp, {budget}}}\n"
    bench.serve_policy(text)
    worker = bench.work()
    assert rule(bench.admit()) == "privacy.mode"
    # Before the view, after it, before the first round, with its reply, before the second round.
    spent = iter([0.5, 0.5, 0.5, 0.5, 1.5])

    def privacy(session: Any, policy: Any, now: datetime) -> Privacy:
        return Privacy(mode="example_dp", epsilon=0.5, spent=next(spent), delta=1e-5)

    bench.serve_policy(text, privacy=privacy)
    assert bench.admit().config["status"] == "admitted"
    assert bench.round(1).config["status"] == "ok"
    assert rule(bench.round(2)) == "privacy.budget"
    assert worker.asked == ["prepare", "train"]


def test_a_plan_that_is_known_with_the_view_is_held_against_the_budget_before_anything_is_trained(
    bench: GateBench,
) -> None:
    def privacy(session: Session, policy: Any, now: datetime) -> Privacy:
        return Privacy(mode="example_dp", epsilon=0.5, spent=0.5 if session.prepared is None else 1.5, delta=1e-5)

    budget = "budget: {epsilon: 1.0, delta: 1.0e-5, per: dataset, window: P1Y}"
    bench.serve_policy(edited(1) + f"privacy: {{mode: example_dp, {budget}}}\n", privacy=privacy)
    worker = bench.work()
    assert rule(bench.admit()) == "privacy.budget"
    assert bench.last["action"] == "run.revoke"
    assert worker.ended.wait(SECONDS)
    assert rule(bench.round(1)) == "run.unknown"


def test_the_release_of_the_final_model_must_be_announced(bench: GateBench) -> None:
    bench.serve_policy(edited(1) + "release: {approvers: [dora, emil], minimum: 2}\n")
    bench.work()
    assert rule(bench.admit()) == "release.asked"
    question = bench.question()
    announced = Envelope({**question.config, "release_asked": True})
    assert bench.ask(Kind.ADMIT, announced).config["status"] == "admitted"


# -- what the policy asks of the view


CONSENT = ("rows: {minimum: 50}", "rows: {minimum: 50, consent: agreed, opt_out: objected}")
PSEUDONYMS = ("allow: [age, sex, sick]", "allow: [age, sex, sick], pseudonymize: [age]")


def obedient(frame: Frame) -> Frame:
    """A worker's account of a view that it built as it was asked to."""
    from silo.constraint import parse_constraint

    asked = parse_constraint(frame.fields["view"])
    return prepared(
        constraint=asked.digest,
        consent=asked.consent,
        opt_out=asked.opt_out,
        pseudonymized=list(asked.pseudonymize),
        withheld=17,
    )


def test_the_worker_is_told_what_the_policy_asks_of_the_view_and_its_account_is_recorded(bench: GateBench) -> None:
    bench.serve_policy(edited(1, CONSENT, PSEUDONYMS))
    worker = bench.work(prepare=obedient)
    assert bench.admit().config["status"] == "admitted"
    asked = worker.frames[0].fields["view"]
    assert asked == {
        "allow": ["age", "sex", "sick"],
        "pseudonymize": ["age"],
        "consent": "agreed",
        "opt_out": "objected",
    }
    (entry,) = entries(bench, "view.build")
    assert entry["detail"]["withheld_rows"] == 17


def test_a_worker_that_does_not_confirm_the_constraint_trains_nothing(bench: GateBench) -> None:
    bench.serve_policy(edited(1, CONSENT))
    worker = bench.work()
    answer = bench.admit()
    assert answer.config["status"] == "failed"
    assert "does not say that it kept what the policy asks" in str(answer.config["reason"])
    assert worker.ended.wait(SECONDS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"consent": None}, "datasets.rows.consent"),
        ({"opt_out": "agreed"}, "datasets.rows.opt_out"),
        ({"pseudonymized": []}, "datasets.columns.pseudonymize"),
    ],
)
def test_a_view_that_is_not_what_the_policy_asks_is_refused(
    bench: GateBench, changes: dict[str, Any], expected: str
) -> None:
    def otherwise(frame: Frame) -> Frame:
        return Frame("prepared", {**obedient(frame).fields, **changes})

    bench.serve_policy(edited(1, CONSENT, PSEUDONYMS))
    bench.work(prepare=otherwise)
    assert rule(bench.admit()) == expected


CONTRACT = "sha256:" + "c" * 64


def test_the_contract_that_a_view_was_built_by_is_recorded(bench: GateBench) -> None:
    bench.work(prepare=lambda _: prepared(contract=CONTRACT))
    assert bench.admit().config["status"] == "admitted"
    (entry,) = entries(bench, "view.build")
    assert entry["detail"]["contract"] == CONTRACT


def test_a_view_by_another_contract_than_the_policys_is_refused(bench: GateBench) -> None:
    bench.serve_policy(edited(1, ("rows: {minimum: 50}", f"rows: {{minimum: 50}}\n    contract: {CONTRACT}")))
    bench.work(prepare=lambda _: prepared(contract="sha256:" + "d" * 64))
    assert rule(bench.admit()) == "datasets.contract"


def test_what_is_no_digest_is_no_contract(bench: GateBench) -> None:
    bench.work(prepare=lambda _: prepared(contract="heart.csv"))
    answer = bench.admit()
    assert answer.config["status"] == "failed"
    assert "contract is no digest" in str(answer.config["reason"])


# -- rules whose refusals are recorded only


def test_an_observed_rule_lets_pass_and_is_recorded_as_not_enforced(bench: GateBench) -> None:
    bench.serve_policy(edited(1, ("max_rounds: 10", "max_rounds: 2")), observe=frozenset({"runs.max_rounds"}))
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    observed, admitted = entries(bench, "run.admit")
    assert (observed["decision"], observed["rule"]) == ("record", "runs.max_rounds")
    assert observed["reason"] == "the run plans 3 rounds; the policy allows 1 to 2"
    assert observed["detail"]["enforced"] is False
    assert (admitted["decision"], admitted["rule"]) == ("allow", "admission.allow")


# -- the past, from the log


def test_the_log_says_which_policy_was_active_last(bench: GateBench) -> None:
    for version in (2, 3):
        put(bench, edited(version))
        bench.handler.reload()
    past = history_of(read_entries(bench.audit))
    assert past.active == version_of(bench.handler.policy)
    assert past.active == ActiveVersion("hospital-a", 3, bench.handler.policy.digest)


def test_a_gate_does_not_start_with_an_older_policy_than_it_had(bench: GateBench) -> None:
    last = ActiveVersion("hospital-a", 2, "sha256:" + "0" * 64)
    with pytest.raises(BundleError, match="got version 1 with another text, expected more than 2"):
        check_succession(last, bench.policy)
    check_succession(ActiveVersion("hospital-a", 1, bench.policy.digest), bench.policy)
    check_succession(None, bench.policy)


def test_a_change_is_noticed_once(bench: GateBench) -> None:
    file = PolicyFile(bench.policy_path)
    active = version_of(file.first())
    assert file.poll(active) is None
    put(bench, "kind: Other")
    assert isinstance(file.poll(active), Rejected)
    assert file.poll(active) is None


def test_facts_that_cannot_be_gathered_are_a_refusal_and_the_gate_lives_on(bench: GateBench) -> None:
    broken = [True]

    def privacy(session: Any, policy: Any, now: datetime) -> None:
        if broken[0]:
            raise OSError("the ledger is on fire")

    bench.serve_policy(edited(1), privacy=privacy)
    bench.work()
    assert rule(bench.admit()) == "evaluation-error"
    assert bench.last["reason"].endswith("its facts could not be gathered: the ledger is on fire")
    broken[0] = False
    assert bench.admit().config["status"] == "admitted"

    def breaks(frame: Frame) -> Frame:
        broken[0] = True
        return trained(INITIAL)

    bench.work(train=breaks)
    assert bench.admit(flower_run=8).config["status"] == "admitted"
    assert rule(bench.ask(Kind.TRAIN, Envelope(_round_config(), weights=INITIAL), 8)) == "evaluation-error"
    assert bench.last["action"] == "round.egress"


def _round_config() -> dict[str, Any]:
    from federation.wire import weights_digest

    return {"round": 1, "digest": weights_digest(INITIAL)}


def test_the_logs_retention_follows_the_active_policy(bench: GateBench) -> None:
    assert bound_of(bench.audit) is None
    said = {"{minimum: P10Y}": "P10Y..", "{minimum: P1Y, maximum: P5Y}": "P1Y..P5Y", "{maximum: PT1S}": "P0D..PT1S"}
    for number, (text, kept) in enumerate(said.items(), start=2):
        put(bench, edited(number) + f"audit: {{retention: {text}}}\n")
        bench.handler.reload()
        bound = bound_of(bench.audit)
        assert bound is not None
        assert bound.text == f"payload:*={kept}"
        entry = entries(bench, "log.retention")[-1]
        assert (entry["detail"], entry["policy"]) == ({"policy": bound.text}, bench.handler.policy.digest)
    put(bench, edited(9))
    bench.handler.reload()
    assert bound_of(bench.audit) is None
    assert len(entries(bench, "log.retention")) == len(said) + 1
