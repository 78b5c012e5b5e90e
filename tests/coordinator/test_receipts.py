"""Receipts between a coordinator and gates, by the code of both: honest with every dropout, and lying to no use."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import VerificationError
from audit.note import verifier_key
from coordinator.receipts import Receipts
from federation.errors import WireError
from federation.identity import Role
from federation.receipts import (
    RECEIPT,
    RECEIPTS,
    SILENT,
    Shown,
    beginning,
    element,
    extended,
    follow,
    keys_of,
    require_receipts,
    sign_receipt,
)
from federation.wire import Envelope

NAMES = ("a", "b", "c", "d", "e")
SECRETS = {name: Ed25519PrivateKey.from_private_bytes(name.encode() * 32) for name in NAMES}
RUN, DIGEST = "run-1", "sha256:" + "1" * 64
MEMBERS = [
    SimpleNamespace(name=name, role=Role.SILO, log=str(verifier_key(f"fed/silo/{name}", key.public_key())))
    for name, key in SECRETS.items()
]
FEDERATION: Any = SimpleNamespace(with_role=lambda _: MEMBERS, metadata=SimpleNamespace(name="fed"))


def hub(count: int = 5) -> Receipts:
    return Receipts(RUN, DIGEST, FEDERATION, NAMES[:count])


@dataclass
class Gate:
    """What a gate does with receipts, and all that it went on from."""

    name: str
    quorum: int
    count: int
    taken: dict[int, str] = field(default_factory=dict)
    confirmed: dict[int, str] = field(default_factory=dict)

    def take(self, text: str, number: int, model: str) -> str:
        """Take a model, or raise VerificationError; gives the receipt."""
        shown, link = Shown.load(text), element("round.begin", number, model, {})
        before, step = follow(shown, beginning(RUN, DIGEST), self.taken, number, link)
        own = self.name if before.number in self.taken else None
        require_receipts(shown, before, keys_of(FEDERATION, NAMES[: self.count]), self.quorum, own)
        self.confirmed |= {n: history for n, history in self.taken.items() if n < number}
        self.taken[step.number] = step.history
        return sign_receipt(SECRETS[self.name], step.number, step.history)


SILO = st.sampled_from(["answers", "answers", "reply lost", "message lost", "absent"])


@given(st.integers(1, 5), st.lists(st.tuples(*[SILO] * 5), min_size=1, max_size=8), st.data())
def test_honest_silos_go_on_whoever_drops_out_or_comes_late(
    count: int, rounds: list[tuple[str, ...]], data: st.DataObject
) -> None:
    """Silos are absent, lose messages or replies; the coordinator ends at any round and goes on from its checkpoint."""
    quorum = data.draw(st.integers(1, count))
    gates = {name: Gate(name, quorum, count) for name in NAMES[:count]}
    server = hub(count)
    for number, plan in enumerate(rounds, 1):
        fate = dict(zip(NAMES[:count], plan, strict=False))
        for name in list(fate)[:quorum]:
            fate[name] = "answers"
        asked = [name for name, what in fate.items() if what != "absent"]
        saved = json.loads(json.dumps(server.state()))
        for again in range(1 + data.draw(st.booleans())):
            if again:
                server = hub(count)
                server.restore(saved)
            _, proof = server.publish("round.begin", number, f"m{number}", {}, asked)
            for name in asked:
                if fate[name] != "message lost":
                    receipt = gates[name].take(proof[RECEIPTS], number, f"m{number}")
                    if fate[name] == "answers":
                        server.take(name, Envelope({RECEIPT: receipt}))
    silent, proof = server.publish("evaluation.begin", len(rounds), "m", {}, list(gates))
    answered = {name for name, what in zip(NAMES[:count], rounds[-1], strict=False) if what == "answers"}
    assert set(silent[SILENT].split(",")) - {""} == set(gates) - answered - set(NAMES[:quorum])


WORLD = st.sampled_from([None, False, True])


@given(st.integers(2, 5), st.integers(1, 2), st.lists(st.tuples(*[WORLD] * 5), min_size=2, max_size=6))
def test_no_two_silos_go_on_from_different_models_where_a_quorum_is_more_than_half(
    count: int, split: int, steps: list[tuple[bool | None, ...]]
) -> None:
    """A coordinator with two worlds shows either to any silo in any round, with every receipt that it has."""
    gates = [Gate(name, count // 2 + 1, count) for name in NAMES[:count]]
    receipts: dict[tuple[str, int], dict[str, str]] = {}
    for number, plan in enumerate(steps, 1):
        for gate, world in zip(gates, plan, strict=False):
            if world is None:
                continue
            models = [f"m{n}" if n < split or not world else f"other {n}" for n in range(1, number + 1)]
            links = [element("round.begin", n, model, {}) for n, model in enumerate(models, 1)]
            history = [beginning(RUN, DIGEST)]
            for link in links:
                history.append(extended(history[-1], link))
            had = receipts.get((history[-2], number - 1), {})
            shown = Shown(0, history[0], tuple(links[:-1]), had)
            with contextlib.suppress(VerificationError):
                receipt = gate.take(shown.dump(), number, models[-1])
                receipts.setdefault((history[-1], number), {})[gate.name] = receipt
    for step in range(1, 7):
        assert len({gate.confirmed[step] for gate in gates if step in gate.confirmed}) <= 1


def test_half_of_the_silos_are_no_protection() -> None:
    """The quorum says who may be lost: where each half may be, each can be told that the other is."""
    a, b = Gate("a", 1, 2), Gate("b", 1, 2)
    for gate, model in ((a, "x"), (b, "y")):
        server = hub(2)
        for number in (1, 2):
            _, proof = server.publish("round.begin", number, model, {}, [gate.name])
            server.take(gate.name, Envelope({RECEIPT: gate.take(proof[RECEIPTS], number, model)}))
    assert a.confirmed != b.confirmed


def test_a_silo_that_was_never_behind_is_shown_the_last_step_alone() -> None:
    gates, server = [Gate(name, 3, 3) for name in "abc"], hub(3)
    sizes = []
    for number in range(1, 41):
        _, proof = server.publish("round.begin", number, f"m{number}", {}, "abc")
        sizes.append(len(proof[RECEIPTS]))
        for gate in gates:
            server.take(gate.name, Envelope({RECEIPT: gate.take(proof[RECEIPTS], number, f"m{number}")}))
    assert max(sizes) < 600
    assert server.last.keys() == set("abc")


@pytest.mark.parametrize(
    "answer", [{}, {RECEIPT: 7}, {RECEIPT: ""}, {RECEIPT: "x"}, {RECEIPT: sign_receipt(SECRETS["a"], 1, "sha256:0")}]
)
def test_a_silo_without_a_receipt_is_left_out(answer: dict[str, Any]) -> None:
    server = hub()
    server.publish("round.begin", 1, "m", {}, NAMES)
    with pytest.raises(WireError):
        server.take("a", Envelope(answer))
    assert server.last == {}


def test_a_receipt_of_a_silo_whose_log_key_is_unknown_is_not_taken() -> None:
    server = hub(2)
    _, proof = server.publish("round.begin", 1, "m", {}, "ab")
    receipt = Gate("c", 1, 3).take(proof[RECEIPTS], 1, "m")
    with pytest.raises(WireError, match="key of its log"):
        server.take("c", Envelope({RECEIPT: receipt}))
