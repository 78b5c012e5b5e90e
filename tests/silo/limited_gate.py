"""A gate with a privacy budget, a ledger, replies and a clock that tests set, and its restart."""

from __future__ import annotations

from datetime import UTC, datetime

from silo.gate.history import history_of, read_entries
from silo.gate.ledger import Ledger
from silo.gate.replies import Replies

from .simulator import POLICY, RUN, GateBench

PRIVATE = RUN + "privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2}\n"
CHEAP = PRIVATE.replace("1.2", "50")
LIMITED = POLICY + "privacy: {mode: example_dp, budget: {epsilon: 50.0, delta: 1.0e-5, per: dataset, window: P1Y}}\n"


class Clock:
    """The gate's clock, to be set."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now


def limit(bench: GateBench, clock: Clock, policy: str = LIMITED) -> None:
    """Start the gate over with a budget."""
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    bench.serve_policy(policy, replies=Replies(bench.directory / "replies"), now=clock)


def restart(bench: GateBench, clock: Clock) -> None:
    """Start the gate anew: what it knows is on its disk."""
    bench.history = history_of(read_entries(bench.audit))
    bench.link.drop()
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"), now=clock)


def train(bench: GateBench) -> None:
    """Have a private run of three rounds trained."""
    bench.work()
    assert bench.admit(bench.consortium.sign(PRIVATE)).config["status"] == "admitted"
    for number in (1, 2, 3):
        assert bench.round(number).config["status"] == "ok"
