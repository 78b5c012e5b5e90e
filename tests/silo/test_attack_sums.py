"""A coordinator that wants a second sum of what silos masked, to subtract the first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from federation.run import load_run
from federation.secure_aggregation.cohort import text_of
from federation.wire import Envelope
from silo.gate.history import Sums
from silo.gate.secure_rounds import SecureRounds

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


def test_the_log_names_each_silo_of_a_sum_however_many_there_are() -> None:
    """Silos that do not exist may be enrolled, under names that come last: who reads the log is to see them."""
    silos = [f"silo-{number:04d}".ljust(63, "x") for number in range(1000)]
    recorded: dict[str, Any] = {}
    journal = SimpleNamespace(record=lambda action, **fields: recorded.update({action: fields["detail"]}))
    parts = SimpleNamespace(history=SimpleNamespace(sums=Sums()))
    rounds = SecureRounds(parts, journal, lambda _: None)  # type: ignore[arg-type, return-value]
    update = SimpleNamespace(shrunk=False, basis="")
    member: Any = SimpleNamespace(
        mask=lambda *_: np.zeros(4, dtype=np.uint32),
        confirmed=lambda: tuple(silos),
        unmask=lambda *_: {},
        update=update,
        place=SimpleNamespace(round=1),
    )
    terms = SimpleNamespace(among=tuple(silos), planned=1)
    cohort: Any = SimpleNamespace(terms=terms, summed="s", digest=b"d", mark=lambda *_: "m")
    session: Any = SimpleNamespace(run_id="run-1", run=load_run(SECURE).model, sharing_noise=3)
    rounds._mask(session, member, cohort, Envelope({"sharing": text_of(silos)}))
    rounds._unmask(session, member, cohort, Envelope({"signatures": "{}", "sealed": "{}"}))
    assert recorded["round.mask"]["silos"] == recorded["round.unmask"]["silos"] == ",".join(silos)
