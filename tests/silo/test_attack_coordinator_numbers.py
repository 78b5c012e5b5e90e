"""A coordinator that sends any number, text or flag in any field: the gate answers, meets no fault, and lives."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from federation.wire import KINDS, Envelope, Kind, weights_digest
from silo.gate.ledger import Ledger

from .simulator import FLOWER_RUN, INITIAL, RUN, SILO, GateBench, refused

FIELDS = [
    *("round", "digest", "mu", "clip_norm", "folded", "normalization", "receipts", "evidence", "planned", "cohort"),
    *("adverts", "sharing", "survivors", "signatures", "sealed", "run_id", "run", "manifest", "release_asked"),
    *("manifest_signature", "app_digest", "signature", "operator", "party", "approvals", "model"),
]
SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.sampled_from([0, -1, 1, 2**53, 2**63 - 1, math.nan, math.inf, 5e-324, "", "{}", "[]", "[" * 9999, "1", "null"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
ADAPTIVE = RUN + (
    "privacy: {mode: silo_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2, adaptive: {max_clip_norm: 3.0}}\n"
)
STEPPING = RUN.replace("strategy: {mu: 0.1,", "strategy: {mu: 0.1, adaptive: {step: 0.1},")
NORMS = [0.0, -1.0, math.nan, math.inf, 3.1, 1, True, "1.5", 1e308, -0.0]


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), SCALARS, max_size=6), st.booleans())
@example(Kind.TRAIN, {"round": 2**63 - 1}, True)
@example(Kind.EVALUATE, {"round": -(2**63)}, True)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_message_says_the_gate_answers_without_a_fault(
    bench: GateBench, kind: str, config: dict[str, Any], weights: bool
) -> None:
    if not bench.workers:
        bench.work()
        bench.admit()
    honest = {"round": 1, "digest": weights_digest(INITIAL)}
    # The rest goes past the bench's own preparation, which plays an honest coordinator.
    bench._messages += 1
    message = str(bench._messages)
    bench.node.envelopes[message] = Envelope({**honest, **config}, weights=INITIAL if weights else None)
    from silo.gate.fleet import Task

    answer = bench.handler.handle(Task(kind, FLOWER_RUN, message, None, None))  # type: ignore[arg-type]
    assert answer.config["status"] in {"ok", "admitted", "refused", "failed", "released"}
    assert not any("FAULT" in said for said in bench.said)


@pytest.mark.parametrize("norm", NORMS)
def test_a_clip_norm_that_is_none_trains_nothing(bench: GateBench, norm: Any) -> None:
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    bench.handler = bench.make_handler()
    worker = bench.work()
    assert bench.admit(bench.consortium.sign(ADAPTIVE)).config["status"] == "admitted"
    assert bench.round(1, clip_norm=norm).config["status"] in {"failed", "refused"}
    assert worker.asked == ["prepare"]
    assert not bench.ledger.entries
    assert bench.round(1, clip_norm=3.0).config["status"] == "ok"


@pytest.mark.parametrize("mu", [-0.1, math.nan, math.inf, 1000.1, 1, True, "0.1", None])
def test_a_proximal_weight_that_is_none_trains_nothing(bench: GateBench, mu: Any) -> None:
    worker = bench.work()
    assert bench.admit(bench.consortium.sign(STEPPING)).config["status"] == "admitted"
    told = {} if mu is None else {"mu": mu}
    assert bench.round(1, **told).config["status"] in {"failed", "refused"}
    assert worker.asked == ["prepare"]


@pytest.mark.parametrize("number", [0, -1, 4, 2**53, 2**63 - 1, -(2**63)])
def test_a_round_that_is_not_planned_trains_nothing(bench: GateBench, number: int) -> None:
    worker = bench.work()
    bench.admit()
    assert bench.round(number).config["status"] in {"failed", "refused"}
    assert worker.asked == ["prepare"]
    assert refused(bench.ask("unknown", Envelope())) == "default-deny"
    assert SILO in bench.peer.uri
