"""A coordinator that wants a second sum of what silos masked, to subtract the first."""

from __future__ import annotations

import numpy as np

from .simulator import GateBench, prepared, trained
from .test_gate_secure_rounds import CHANGE, SECURE, Sum, admit, four, gate, rule

__all__ = ["four", "gate"]


def test_a_run_that_is_signed_again_opens_no_sum_of_other_rows(gate: GateBench) -> None:
    """The other silos' updates are what they were: the difference is that of this silo alone."""
    admit(gate)
    gate.round(1)
    Sum(gate).to("unmasked")
    gate.link.drop()
    changed = CHANGE * np.float32(1.25)
    gate.work(
        prepare=lambda _: prepared(view_digest="sha256:" + "b" * 64),
        train=lambda frame: trained(frame.weights() + changed),
    )
    assert gate.admit(gate.consortium.sign(SECURE), run_id="run-2").config["status"] == "admitted"
    gate.round(1)
    assert rule(Sum(gate, run_id="run-2").to("masked").confirmed()) == "secure.repeated"
