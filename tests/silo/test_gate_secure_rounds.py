"""A gate under secure aggregation, among played silos and a coordinator that is played: honest, and lying.

The gate's handler, log, policy and manifest are real; so are the other silos' keys and their part of the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.unmasking import MaskedSum, shares_of
from federation.identity import load_certificate
from federation.manifest import load_manifest
from federation.secure_aggregation.cohort import (
    Advert,
    Cohort,
    Place,
    Terms,
    advert_of,
    by_name,
    bytes_by_name,
    text_of,
)
from federation.secure_aggregation.fixed_point import Integers, encode, integers_of
from federation.wire import Envelope, Kind, Weights, weights_digest
from silo.gate.history import history_of, read_entries
from silo.gate.ledger import Ledger, read_ledger
from silo.gate.masking import Member, Update
from silo.gate.parts import Membership
from silo.gate.replies import Question, Replies

from .simulator import INITIAL, POLICY, RUN, SILO, Consortium, GateBench, found_consortium, trained

OTHERS = ("hospital-b", "hospital-c", "hospital-d")
ALL = (SILO, *OTHERS)
SECURE = RUN.replace("rounds: 3}", "rounds: 3, quorum: 3}") + "secure_aggregation: {threshold: 3}\n"
CHANGE = np.array([0.5, -0.25, 0.125, 1.0], dtype=np.float32)
EXAMPLES = {SILO: 140, "hospital-b": 100, "hospital-c": 60, "hospital-d": 20}
PLANNED = sum(EXAMPLES.values())


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return found_consortium(tmp_path_factory.mktemp("four"), OTHERS)


@pytest.fixture(scope="module")
def impostors(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return found_consortium(tmp_path_factory.mktemp("impostors"), OTHERS)


@pytest.fixture
def gate(four: Consortium, short_path: Path) -> Iterator[GateBench]:
    bench = GateBench(four, short_path)
    start(bench)
    bench.work(train=lambda frame: trained(frame.weights() + CHANGE))
    yield bench
    bench.close()


def start(bench: GateBench) -> None:
    """Start the gate: what it knows is what lies on disk."""
    home = bench.consortium.homes[SILO]
    bench.history = history_of(read_entries(bench.audit))
    bench.handler = bench.make_handler(
        replies=Replies(bench.directory / "replies"),
        membership=Membership(
            lambda: (home.private_key(), load_certificate(home.certificate.read_bytes())), lambda: load_manifest(home)
        ),
    )


def restart(bench: GateBench) -> None:
    bench.link.drop()
    start(bench)
    bench.work(train=lambda frame: trained(frame.weights() + CHANGE))


def admit(bench: GateBench, run: str = SECURE) -> Envelope:
    return bench.admit(bench.consortium.sign(run))


def rule(answer: Envelope) -> str:
    assert answer.config["status"] == "refused", answer.config
    assert answer.weights is None
    return str(answer.config["rule"])


@dataclass
class Sum:
    """A coordinator that conducts one attempt with the gate and played silos; `silos` are those that answered."""

    bench: GateBench
    silos: tuple[str, ...] = ALL
    round: int = 1
    run: str = SECURE
    planned: int = PLANNED
    run_id: str = "run-1"
    model: str = weights_digest(INITIAL)
    members: dict[str, Member] = field(default_factory=dict)
    adverts: dict[str, Advert] = field(default_factory=dict)

    def member(self, name: str, homes: Consortium | None = None) -> Member:
        home = (homes or self.bench.consortium).homes[name]
        update = Update(CHANGE * np.float32(ALL.index(name) + 1), EXAMPLES[name], 8.0)
        certificate = load_certificate(home.certificate.read_bytes())
        return Member(name, home.private_key(), certificate, self.place, update)

    @property
    def place(self) -> Place:
        return Place(self.bench.consortium.sign(self.run).content_digest, self.run_id, self.round)

    def ask(self, kind: str, **fields: str | int) -> Envelope:
        return self.bench.ask(kind, Envelope({"round": self.round, **fields}))

    def keys(self) -> Envelope:
        answer = self.ask(Kind.KEYS, digest=self.model)
        if answer.config["status"] == "ok":
            self.members = {name: self.member(name) for name in self.silos if name != SILO}
            self.adverts = {name: member.advert for name, member in self.members.items()}
            self.adverts[SILO] = advert_of(answer.text("advert"))
        return answer

    @property
    def cohort(self) -> Cohort:
        terms = Terms(self.place, self.model, self.planned, 3, 4, tuple(sorted(ALL)))
        return Cohort(terms, tuple(advert for _, advert in sorted(self.adverts.items())))

    def shares(self) -> Envelope:
        cohort = self.cohort
        adverts = text_of([advert.fields() for advert in cohort.adverts])
        answer = self.ask(Kind.SHARES, planned=self.planned, adverts=adverts)
        if answer.config["status"] == "ok":
            self.sealed = {SILO: bytes_by_name(answer.text("sealed"))}
            for name, member in self.members.items():
                self.sealed[name] = member.share(cohort, self.bench.consortium.manifest, 3)
        return answer

    def masked(self, sharing: tuple[str, ...] | None = None) -> Envelope:
        names = sorted(sharing or self.silos)
        answer = self.ask(Kind.MASKED, cohort=self.cohort.digest.hex(), sharing=text_of(names))
        if answer.config["status"] == "ok":
            assert answer.weights is not None
            self.total = MaskedSum(self.cohort, names)
            self.total.add(SILO, integers_of(answer.weights))
        return answer

    def confirmed(self, survivors: tuple[str, ...] | None = None) -> Envelope:
        names = tuple(sorted(survivors or self.silos))
        answer = self.ask(Kind.SURVIVORS, cohort=self.cohort.digest.hex(), survivors=text_of(list(names)))
        if answer.config["status"] == "ok":
            self.signatures = {SILO: bytes.fromhex(answer.text("signature"))}
            sharing = tuple(sorted(self.silos))
            for name in set(names) - {SILO}:
                self.total.add(name, self.members[name].mask(sharing, 3))
                self.signatures[name] = self.members[name].confirm(names, 3)
        return answer

    def sealed_for(self, receiver: str) -> dict[str, bytes]:
        return {sender: told[receiver] for sender, told in self.sealed.items() if sender != receiver}

    def unmasked(self, **changes: str) -> Envelope:
        fields = {"signatures": by_name(self.signatures), "sealed": by_name(self.sealed_for(SILO)), **changes}
        return self.ask(Kind.UNMASK, cohort=self.cohort.digest.hex(), **fields)

    def opened(self, answer: Envelope) -> Integers:
        shares = {SILO: shares_of(bytes_by_name(answer.text("shares")), sorted(self.silos))}
        for name in set(self.signatures) - {SILO}:
            shares[name] = self.members[name].unmask(self.signatures, self.sealed_for(name))
        return self.total.open(shares)

    def to(self, step: str) -> Sum:
        """Take all steps up to one, which is taken too."""
        for one in ("keys", "shares", "masked", "confirmed", "unmasked"):
            answer = getattr(self, one)()
            assert answer.config["status"] == "ok", (one, answer.config)
            if one == step:
                break
        self.answer = answer
        return self


def plain(names: tuple[str, ...]) -> Integers:
    total: Integers = np.zeros(4, dtype=np.uint32)
    for name in names:
        total += encode(CHANGE * np.float32(ALL.index(name) + 1), EXAMPLES[name], PLANNED, 8.0)
    return total


# -- a round


def test_a_round_leaves_masked_and_opens_as_a_sum_alone(gate: GateBench) -> None:
    admit(gate)
    answer = gate.round(1)
    assert answer.weights is None
    assert answer.config["status"] == "ok"
    assert answer.metrics
    after = weights_digest(INITIAL + CHANGE)
    egress = gate.last
    assert egress["action"] == "round.egress"
    assert after not in json.dumps(egress), "a digest in clear would let an update be guessed at"
    assert gate.payload(egress)["update"] == after

    attempt = Sum(gate).to("masked")
    assert attempt.answer.weights is not None
    mask = gate.last
    assert (mask["action"], mask["round"]) == ("round.mask", 1)
    assert mask["detail"]["masked"] == weights_digest(attempt.answer.weights)
    assert mask["detail"]["silos"] == ",".join(sorted(ALL))
    assert not mask["detail"]["shrunk"]
    assert attempt.answer.weights.tobytes() != encode(CHANGE, 140, PLANNED, 8.0).tobytes()

    attempt.confirmed()
    answer = attempt.unmasked()
    unmask = gate.last
    assert (unmask["action"], unmask["round"], unmask["detail"]["silos"]) == ("round.unmask", 1, ",".join(sorted(ALL)))
    np.testing.assert_array_equal(attempt.opened(answer), plain(ALL))
    gate.state()  # verifies the log from outside


def test_a_lost_silo_is_left_out_of_the_sum(gate: GateBench) -> None:
    admit(gate)
    gate.round(1)
    attempt = Sum(gate).to("masked")
    survivors = (SILO, "hospital-b", "hospital-d")
    attempt.confirmed(survivors)
    answer = attempt.unmasked()
    assert gate.last["detail"]["silos"] == ",".join(sorted(survivors))
    np.testing.assert_array_equal(attempt.opened(answer), plain(survivors))


def test_the_update_never_leaves_in_clear_also_where_it_is_asked_for_again(gate: GateBench) -> None:
    admit(gate)
    first, again = gate.round(1), gate.round(1)
    assert (again.config, again.metrics, again.weights) == (first.config, first.metrics, None)
    assert gate.last["action"] == "reply.again"
    assert gate.last["decision"] == "allow"
    restart(gate)
    admit(gate)
    assert gate.round(1).weights is None


def test_a_private_round_is_debited_once_however_often_it_is_masked(gate: GateBench) -> None:
    """Masks come after clipping, noise and debit, and cost nothing."""
    run = SECURE + "privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2}\n"
    path = gate.directory / "ledger.jsonl"
    gate.ledger = Ledger(path)
    restart(gate)
    assert admit(gate, run).config["status"] == "admitted"
    gate.round(1)
    for _ in range(2):
        Sum(gate, run=run).to("masked")
    attempt = Sum(gate, run=run).to("unmasked")
    np.testing.assert_array_equal(attempt.opened(attempt.answer), plain(ALL))
    assert len(read_ledger(path)) == 1


# -- who takes part


def test_a_policy_that_requires_it_admits_no_other_run(gate: GateBench) -> None:
    required = POLICY.replace("version: 1", "version: 2") + "privacy: {mode: none, secure_aggregation: required}\n"
    gate.policy_path.write_text(required)
    restart(gate)
    assert rule(admit(gate, RUN)) == "privacy.secure_aggregation"
    assert admit(gate).config["status"] == "admitted"
    assert gate.round(1).config["status"] == "ok"
    Sum(gate).to("unmasked")


@pytest.mark.parametrize("threshold", [2, 5])
def test_a_threshold_that_does_not_fit_the_runs_silos_is_refused(gate: GateBench, threshold: int) -> None:
    """Two of four silos could open a sum, and the other two another; five there are not."""
    run = SECURE.replace("quorum: 3", "quorum: 5").replace("threshold: 3", f"threshold: {threshold}")
    assert rule(admit(gate, run)) == "secure.cohort"


def test_a_gate_that_keeps_no_replies_admits_no_such_run(gate: GateBench) -> None:
    gate.handler = gate.make_handler()
    assert rule(admit(gate)) == "secure.state"


def test_a_cohort_below_the_threshold_is_refused(gate: GateBench) -> None:
    admit(gate)
    gate.round(1)
    attempt = Sum(gate, (SILO, "hospital-b"))
    attempt.keys()
    assert rule(attempt.shares()) == "secure.cohort"
    whole = Sum(gate).to("shares")
    assert rule(whole.masked((SILO, "hospital-b"))) == "secure.cohort"


@pytest.mark.parametrize("bound", ["quorum: 4", "minimum_silos: 4"])
def test_a_cohort_below_the_quorum_or_the_policys_minimum_is_refused(gate: GateBench, bound: str) -> None:
    run = SECURE.replace("quorum: 3", "quorum: 4")
    if bound.startswith("minimum"):
        newer = POLICY.replace("version: 1", "version: 2").replace("max_rounds: 10", f"max_rounds: 10, {bound}")
        gate.policy_path.write_text(newer)
        restart(gate)
        assert rule(admit(gate)) == "runs.minimum_silos"
    assert admit(gate, run).config["status"] == "admitted"
    gate.round(1)
    attempt = Sum(gate, ALL[:3], run=run)
    attempt.keys()
    assert rule(attempt.shares()) == "secure.cohort"
    whole = Sum(gate, run=run).to("masked")
    assert rule(whole.confirmed(ALL[:3])) == "secure.cohort"


def test_a_silo_that_is_none_of_the_runs_is_refused(gate: GateBench) -> None:
    run = SECURE + "silos: [hospital-a, hospital-b, hospital-c]\n"
    assert admit(gate, run).config["status"] == "admitted"
    gate.round(1)
    attempt = Sum(gate, run=run)
    attempt.keys()
    assert rule(attempt.shares()) == "secure.cohort"


# -- the coordinator in the middle


def test_keys_that_the_coordinator_made_are_refused(gate: GateBench, impostors: Consortium) -> None:
    """Certified by another authority under the right name; with the right certificate and the wrong key; swapped."""
    admit(gate)
    gate.round(1)
    attempt = Sum(gate)
    attempt.keys()
    honest = dict(attempt.adverts)
    mine = attempt.member("hospital-b", impostors).advert
    for attack in (
        {"hospital-b": mine},
        {"hospital-b": replace(mine, certificate=honest["hospital-b"].certificate)},
        {"hospital-b": replace(honest["hospital-b"], mask_key=mine.mask_key)},
        {"hospital-b": replace(honest["hospital-b"], share_key=mine.share_key)},
        {"hospital-b": replace(honest["hospital-b"], commitment=mine.commitment)},
    ):
        attempt.adverts = {**honest, **attack}
        assert rule(attempt.shares()) == "secure.keys"
        assert gate.last["rule"] == "secure.keys"
    attempt.adverts = honest
    assert attempt.shares().config["status"] == "ok"


def test_the_gates_own_keys_cannot_be_replaced(gate: GateBench) -> None:
    admit(gate)
    gate.round(1)
    attempt = Sum(gate)
    attempt.keys()
    attempt.adverts[SILO] = attempt.member(SILO).advert  # signed with the gate's own key, but not what it holds
    assert rule(attempt.shares()) == "secure.keys"


# -- one sum a round


def test_another_sum_of_an_opened_round_is_refused(gate: GateBench) -> None:
    """Between two sums lies one silo's update: the second is never opened, also not after the gate was started anew."""
    admit(gate)
    gate.round(1)
    Sum(gate).to("unmasked")
    for _ in range(2):
        attempt = Sum(gate).to("masked")
        assert rule(attempt.confirmed(ALL[:3])) == "secure.repeated"
        smaller = Sum(gate, ALL[:3]).to("masked")
        assert rule(smaller.confirmed()) == "secure.repeated"
        scaled = Sum(gate, planned=PLANNED + 1).to("masked")
        assert rule(scaled.confirmed()) == "secure.repeated"
        restart(gate)
        admit(gate)


@pytest.mark.parametrize(
    ("silos", "model", "refused"),
    [
        (ALL[:3], INITIAL, True),
        (ALL[:3], np.nextafter(INITIAL, np.float32(9)), True),
        (ALL, np.nextafter(INITIAL, np.float32(9)), True),
        (ALL, INITIAL, False),
    ],
)
def test_another_sum_of_the_same_run_is_refused_also_where_it_is_signed_again(
    gate: GateBench, silos: tuple[str, ...], model: Weights, *, refused: bool
) -> None:
    """A run that is submitted once more gives the same updates, and a coordinator wants them without one silo."""
    admit(gate)
    gate.round(1)
    Sum(gate).to("unmasked")
    gate.link.drop()
    gate.work(train=lambda frame: trained(frame.weights() + CHANGE))
    assert rule(gate.admit(gate.signed, run_id="run-2")) == "run.label"
    again = gate.consortium.sign(SECURE)
    assert gate.admit(again, run_id="run-2").config["status"] == "admitted"
    gate.round(1, model)
    attempt = Sum(gate, silos, run_id="run-2", model=weights_digest(model)).to("masked")
    if refused:
        assert rule(attempt.confirmed()) == "secure.repeated"
    else:
        assert attempt.confirmed().config["status"] == attempt.unmasked().config["status"] == "ok"


def test_the_same_sum_may_be_opened_again(gate: GateBench) -> None:
    """A coordinator that was killed before it closed the round asks anew: the same sum tells nothing new."""
    admit(gate)
    gate.round(1)
    first = Sum(gate).to("unmasked")
    np.testing.assert_array_equal(first.opened(first.answer), plain(ALL))
    restart(gate)
    admit(gate)
    gate.round(1)
    second = Sum(gate).to("unmasked")
    np.testing.assert_array_equal(second.opened(second.answer), plain(ALL))


def test_a_sum_that_was_confirmed_before_another_was_opened_is_not_opened_after_it(gate: GateBench) -> None:
    """The coordinator holds all signatures over one set, has another opened, and comes back with the first."""
    admit(gate)
    gate.round(1)
    early = Sum(gate).to("confirmed")
    late = Sum(gate).to("masked")
    late.confirmed(ALL[:3])
    assert late.unmasked().config["status"] == "ok"
    assert rule(early.unmasked()) == "secure.cohort"


def test_an_attempt_that_was_not_opened_may_be_made_again_under_fresh_masks(gate: GateBench) -> None:
    admit(gate)
    gate.round(1)
    first, second = Sum(gate).to("masked"), Sum(gate, ALL[:3]).to("masked")
    assert first.answer.weights is not None
    assert second.answer.weights is not None
    assert not (integers_of(first.answer.weights) == integers_of(second.answer.weights)).any()
    assert second.confirmed().config["status"] == "ok"
    answer = second.unmasked()
    np.testing.assert_array_equal(second.opened(answer), plain(ALL[:3]))
    # What the first attempt masked is closed for good: its keys are gone.
    assert rule(first.confirmed()) == "secure.cohort"


def test_of_one_cohort_a_second_set_of_survivors_is_refused(gate: GateBench) -> None:
    """Signed for all, asked to sign without one: with both, both kinds of that one's shares would be told."""
    admit(gate)
    gate.round(1)
    attempt = Sum(gate).to("confirmed")
    assert rule(attempt.confirmed(ALL[:3])) == "secure.repeated"
    # Nor does it tell shares on the word of signatures over the other set.
    other = Sum(gate)
    other.adverts, other.members, other.sealed = attempt.adverts, attempt.members, attempt.sealed
    assert rule(other_signatures(attempt)) == "secure.survivors"
    assert attempt.unmasked().config["status"] == "ok"


def other_signatures(attempt: Sum) -> Envelope:
    """Signatures of the others over a set without hospital-d, made with their own keys."""
    from federation.identity import sign
    from federation.secure_aggregation.cohort import SURVIVORS_DOMAIN

    content = attempt.cohort.survivors(ALL[:3])
    homes = attempt.bench.consortium.homes
    signatures = {name: sign(homes[name].private_key(), SURVIVORS_DOMAIN, content) for name in ALL[:3]}
    return attempt.unmasked(signatures=by_name(signatures))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_shares_are_told_to_the_threshold_of_survivors_alone(gate: GateBench, kept: int) -> None:
    admit(gate)
    gate.round(1)
    attempt = Sum(gate).to("confirmed")
    few = dict(sorted(attempt.signatures.items())[:kept])
    assert rule(attempt.unmasked(signatures=by_name(few))) == "secure.survivors"
    assert gate.state().actions.count("round.unmask") == 0


# -- out of place


def test_what_a_restarted_gate_has_lost_it_does_not_make_up(gate: GateBench) -> None:
    """The masks of an attempt are in memory alone: the silo is lost from it, and takes part in the next."""
    admit(gate)
    gate.round(1)
    attempt = Sum(gate).to("masked")
    restart(gate)
    admit(gate)
    assert rule(attempt.confirmed()) == "secure.state"
    assert Sum(gate).to("unmasked").answer.config["status"] == "ok"


def test_steps_of_another_round_are_refused(gate: GateBench) -> None:
    admit(gate)
    gate.round(1)
    assert gate.round(2).config["status"] == "ok"
    attempt = Sum(gate).to("confirmed")
    attempt.round = 2
    for step in (attempt.masked, attempt.confirmed, attempt.unmasked):
        assert rule(step()) == "secure.state"


def test_keys_are_made_for_an_update_that_was_decided_on_alone(gate: GateBench) -> None:
    admit(gate)
    assert rule(Sum(gate).keys()) == "secure.state"
    gate.round(1)
    assert rule(Sum(gate, round=2).keys()) == "secure.state"
    other = gate.ask(Kind.KEYS, Envelope({"round": 1, "digest": weights_digest(INITIAL + 1)}))
    assert rule(other) == "secure.state"


def test_an_update_that_was_kept_and_not_decided_on_is_not_masked(gate: GateBench) -> None:
    """A gate that ended between the two: the reply is on disk, and its release is not in the log."""
    admit(gate)
    question = Question(gate.signed.digest, Kind.TRAIN, 1, weights_digest(INITIAL))
    Replies(gate.directory / "replies").keep(question, Envelope({"status": "ok"}, weights=CHANGE))
    assert rule(Sum(gate).keys()) == "secure.state"


def test_a_round_is_masked_among_the_same_silos_alone(gate: GateBench) -> None:
    """Where a newer manifest has other silos, two halves of them might open two sums of what was masked before."""
    admit(gate)
    gate.round(1)
    attempt = Sum(gate).to("masked")
    summed = attempt.cohort.summed
    among = history_of(read_entries(gate.audit)).sums.among
    assert among == gate.history.sums.among == {summed: gate.last["detail"]["among"]}
    gate.history.sums.masked(summed, "the digest of others")
    again = Sum(gate).to("shares")
    assert rule(again.masked()) == "secure.cohort"


def test_a_run_without_it_has_no_such_steps(gate: GateBench) -> None:
    admit(gate, RUN)
    gate.round(1)
    assert rule(Sum(gate, run=RUN).keys()) == "secure.state"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.KEYS, {}),
        (Kind.SHARES, {"planned": 139, "adverts": "[]"}),
        (Kind.SHARES, {"planned": 10**15, "adverts": "[]"}),
        (Kind.SHARES, {"planned": PLANNED}),
    ],
)
def test_questions_without_form_are_failures_and_no_more(
    gate: GateBench, kind: str, fields: dict[str, str | int]
) -> None:
    admit(gate)
    gate.round(1)
    attempt = Sum(gate)
    attempt.keys()
    assert attempt.ask(kind, **fields).config["status"] == "failed"
    assert attempt.shares().config["status"] == "ok"


@pytest.mark.parametrize("field_name", ["sharing", "survivors", "signatures", "sealed"])
@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', '["../x"]', "[1]", "[" * 5000])
def test_names_and_bytes_without_form_are_refused(gate: GateBench, field_name: str, text: str) -> None:
    admit(gate)
    gate.round(1)
    attempt = Sum(gate).to("confirmed" if field_name in {"signatures", "sealed"} else "masked")
    kind = {"sharing": Kind.MASKED, "survivors": Kind.SURVIVORS}.get(field_name, Kind.UNMASK)
    fields = {"signatures": "{}", "sealed": "{}", field_name: text}
    answer = attempt.ask(kind, cohort=attempt.cohort.digest.hex(), **fields)
    assert answer.config["status"] in {"failed", "refused"}
    assert "shares" not in answer.config
    assert answer.weights is None
