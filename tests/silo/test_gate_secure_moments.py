"""A gate whose run normalises under secure aggregation: its sums leave masked, whole, and open within one sum alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.identity import load_certificate
from federation.secure_aggregation.cohort import Cohort, Terms
from federation.statistics.exact_sums import decoded, encoded, values_of
from federation.statistics.normalization import Normalization, normalization_layout
from federation.statistics.reading import read_summary
from federation.statistics.summary import Summary
from federation.wire import Envelope, Kind
from silo.gate.masking import Member, Sums

from .simulator import INITIAL, SILO, Consortium, GateBench, prepared, trained
from .test_gate_normalization import MOMENTS
from .test_gate_secure_rounds import ALL, CHANGE, SECURE, Sum, four, rule, start  # noqa: F401  a fixture
from .test_gate_statistics import ALLOWED

NORMALISED = SECURE + "normalization: federated\n"
BY = Normalization(np.array([50.0, 0.5]), np.array([10.0, 0.5])).text()


def of(silo: str) -> Summary:
    """A silo's own moments; those of the silo under test are what its worker says."""
    at = ALL.index(silo)
    mean, square = np.array([50.0 + at, 0.1]), np.diag([14000.0, 12.6])
    return Summary(140, mean, square, ())


@dataclass
class SumOfMoments(Sum):
    """A coordinator that conducts the sum before the first round."""

    round: int = 0
    run: str = NORMALISED
    planned: int = 1
    model: str = ""

    def member(self, name: str, homes: Consortium | None = None) -> Member:
        home = (homes or self.bench.consortium).homes[name]
        certificate = load_certificate(home.certificate.read_bytes())
        return Member(name, home.private_key(), certificate, self.place, Sums(encoded(of(name)), ""))

    @property
    def cohort(self) -> Cohort:
        terms = Terms(self.place, self.model, self.planned, 3, values_of(2), tuple(sorted(ALL)))
        return Cohort(terms, tuple(advert for _, advert in sorted(self.adverts.items())))


def plain(names: tuple[str, ...]) -> bytes:
    return sum((encoded(of(name)) for name in names), np.zeros(values_of(2), np.uint32)).tobytes()


@pytest.fixture
def gate(four: Consortium, short_path: Path) -> Iterator[GateBench]:  # noqa: F811
    bench = GateBench(four, short_path)
    bench.serve_policy(ALLOWED)
    start(bench)
    yield bench
    bench.close()


def admit(bench: GateBench, text: str = NORMALISED, **changes: Any) -> Envelope:
    bench.link.drop()
    bench.work(
        prepare=lambda frame: prepared(**{**MOMENTS, **changes}),
        train=lambda frame: trained(frame.weights() + CHANGE),
    )
    answer = bench.admit(bench.consortium.sign(text))
    assert answer.config["status"] == "admitted", answer.config
    return answer


def test_moments_leave_masked_and_open_as_a_sum_alone(gate: GateBench) -> None:
    admit(gate)
    attempt = SumOfMoments(gate).to("masked")
    assert attempt.answer.weights is not None
    assert attempt.answer.weights.tobytes() != encoded(of(SILO)).tobytes()
    actions = gate.state().actions
    assert actions.index("statistics.egress") < actions.index("round.mask")
    assert (gate.last["action"], gate.last["round"]) == ("round.mask", 0)
    attempt.confirmed()
    opened = attempt.opened(attempt.unmasked())
    assert opened.tobytes() == plain(ALL)
    pooled = decoded(opened, 2)
    assert (pooled.rows, pooled.mean[0]) == (560, 51.5)
    egress = next(entry for entry in gate.state().entries if entry["action"] == "statistics.egress")
    kept = gate.payload(egress)["statistics"]
    assert read_summary(json.dumps(kept), normalization_layout(("age", "sex"))).rows == 140
    assert gate.round(1, INITIAL, normalization=BY).config["status"] == "ok"


def test_they_are_not_to_be_had_in_clear(gate: GateBench) -> None:
    admit(gate)
    answer = gate.ask(Kind.MOMENTS, Envelope())
    assert rule(answer) == "run.normalization"
    assert "statistics" not in answer.config
    assert "statistics.egress" not in gate.state().actions


def test_a_rare_value_is_refused_and_not_hidden(gate: GateBench) -> None:
    """Where one silo alone shows a column, the sum would be that silo's."""
    admit(gate, tables=[[11, 0], [2, 9]])
    assert rule(SumOfMoments(gate).keys()) == "egress.statistics.minimum_cell"
    assert (gate.last["action"], gate.last["decision"]) == ("statistics.egress", "deny")
    admit(gate, tables=[[11, 0], [2, 10]])
    assert SumOfMoments(gate).keys().config["status"] == "ok"


def test_sums_below_the_quorum_or_of_another_run_are_refused(gate: GateBench) -> None:
    admit(gate)
    attempt = SumOfMoments(gate, (SILO, "hospital-b"))
    attempt.keys()
    assert rule(attempt.shares()) == "secure.cohort"
    whole = SumOfMoments(gate).to("shares")
    assert rule(whole.masked((SILO, "hospital-b"))) == "secure.cohort"
    masked = SumOfMoments(gate).to("masked")
    assert rule(masked.confirmed((SILO, "hospital-b"))) == "secure.cohort"


def test_one_sum_of_moments_is_opened_and_no_second_of_other_silos(gate: GateBench) -> None:
    """Also not after the gate was started anew, or where the run is submitted once more; the same one is."""
    admit(gate)
    SumOfMoments(gate).to("unmasked")
    for run_id in ("run-1", "run-2"):
        start(gate)
        gate.link.drop()
        gate.work(prepare=lambda frame: prepared(**MOMENTS))
        assert gate.admit(gate.consortium.sign(NORMALISED), run_id=run_id).config["status"] == "admitted"
        smaller = SumOfMoments(gate, ALL[:3], run_id=run_id).to("masked")
        assert rule(smaller.confirmed()) == "secure.repeated"
        scaled = SumOfMoments(gate, planned=2, run_id=run_id).to("masked")
        assert rule(scaled.confirmed()) == "secure.repeated"
        SumOfMoments(gate, run_id=run_id).to("unmasked")


def test_data_that_changed_since_a_sum_was_opened_are_not_in_another(gate: GateBench) -> None:
    """The same silos once more: the difference would be what changed at this silo."""
    admit(gate)
    SumOfMoments(gate).to("unmasked")
    start(gate)
    moments = {"rows": 140, "mean": [50.5, 0.1], "square": [14000.0, 12.6]}
    admit(gate, moments=moments, view_digest="sha256:" + "b" * 64)
    assert rule(SumOfMoments(gate).to("masked").confirmed()) == "secure.repeated"


def test_they_are_made_once_and_before_the_first_round(gate: GateBench) -> None:
    admit(gate)
    assert gate.round(1, INITIAL, normalization=BY).config["status"] == "ok"
    assert rule(SumOfMoments(gate).keys()) == "run.normalization"


def test_a_run_that_does_not_normalise_has_no_sum_of_moments(gate: GateBench) -> None:
    admit(gate, SECURE)
    assert rule(SumOfMoments(gate, run=SECURE).keys()) == "run.normalization"


def test_a_sum_of_moments_is_not_opened_with_the_keys_of_a_round(gate: GateBench) -> None:
    admit(gate)
    attempt = SumOfMoments(gate).to("shares")
    attempt.round = 1
    assert rule(attempt.masked()) == "secure.state"


def test_what_no_view_can_have_is_not_masked(gate: GateBench) -> None:
    admit(gate, moments={"rows": 140, "mean": [1e100, 0.1], "square": [14000.0, 12.6]})
    answer = SumOfMoments(gate).keys()
    assert (answer.config["status"], "statistics cannot be" in str(answer.config["reason"])) == ("failed", True)
