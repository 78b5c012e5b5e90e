"""A federation of hundreds: each honest silo's log is witnessed, whatever others send, and a message has its limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.cosignature import cosign, cosigned
from audit.entry import Event
from audit.gossip import Answer, Call, Told
from audit.limits import LIMITS
from audit.log import AuditLog, utc_now
from audit.note import Checkpoint, parse_note, sign_note, verifier_key
from audit.rollback import RollbackGuard
from audit.statement import Statement
from audit.witness import Cosignature, Witness
from coordinator import witnessing
from coordinator.identities import SUPERSEDED_KEPT, Identities
from federation.identity import Role
from federation.limits import LIMITS as MEMBERS
from federation.manifest import Federation
from federation.member_logs import log_origin
from silo.gate.witnessing import Witnessing as Gate

SILOS, GATES = 200, 5


class Party:
    """A member with a log, a store of what it witnessed, and what it recorded of others."""

    def __init__(self, folder: Path, name: str, role: Role) -> None:
        self.name, self.role, self.key = name, role, Ed25519PrivateKey.generate()
        self.log = AuditLog.open(folder / name, origin=log_origin("many.example", role, name), key=self.key)
        self.log.append(Event(name, "gate.start", "home"))
        self.witness = Witness(folder / name / "witness", self.log.origin, self.key, utc_now)
        self.guard = RollbackGuard(self.log, name)
        self.refused: list[dict[str, Any]] = []

    def record(self, action: str, **fields: Any) -> None:
        self.log.append(Event(self.name, action, "home", **fields))
        self.refused.append({"action": action, **fields})


class World:
    """A coordinator and its silos, which exchange what they say of logs as text."""

    def __init__(self, folder: Path, count: int) -> None:
        names = [f"s{number:03d}" for number in range(count)]
        self.hub = Party(folder, "hub", Role.COORDINATOR)
        self.silos = {name: Party(folder, name, Role.SILO) for name in names}
        members = [
            {"name": one.name, "role": one.role, "country": "DE", "log": one.log.vkey}
            for one in (self.hub, *self.silos.values())
        ]
        head = {"apiVersion": "concordat/v1", "kind": "Federation"}
        self.federation = Federation.model_validate(
            {**head, "metadata": {"name": "many.example", "version": 1}, "members": tuple(members)}
        )
        hub = self.hub
        self.coordinator = witnessing.Witnessing(
            hub.log, hub.witness, hub.guard, lambda: self.federation, hub.record, clock=lambda: float("inf")
        )
        self.gates = {
            name: Gate(one.log, one.witness, one.guard, self.federation, one.record)
            for name, one in list(self.silos.items())[:GATES]
        }

    def exchange(self, spoil: Callable[[str, str], str] = lambda _, text: text, *, everyone: bool = True) -> str:
        """One message to all, and all their answers, some of them spoilt."""
        call = self.coordinator.call(list(self.silos), everyone=everyone)
        for name in self.silos:
            self.coordinator.take(name, spoil(name, self.answer(name, call)))
        return call

    def answer(self, name: str, call: str) -> str:
        """What a silo says: that of a whole gate, or of one that cosigns the coordinator's log alone, for speed."""
        gate, one, heard = self.gates.get(name), self.silos[name], Call.load(call)
        if gate is not None:
            gate.hear(call)
            return gate.answer() or ""
        line = one.witness.cosign(heard.own.statement, self.hub.log.verifier)
        wanted = (heard.wanted or {}).get(one.log.origin, ())
        return Answer(Told(one.log.statement(wanted)), (line,), one.witness.sizes, None).dump()

    def close(self) -> None:
        for one in (self.hub, *self.silos.values()):
            one.log.close()


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("crowd"), SILOS)
    yield world
    world.close()


@pytest.fixture
def few(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, 4)
    yield world
    world.close()


def cosigners(world: World, party: Party) -> int:
    kept = (party.log.folder / "cosigned").read_bytes()
    everybody = [one.log.verifier for one in (world.hub, *world.silos.values())]
    return len(cosigned(kept, party.log.verifier, everybody).witnesses)


def test_two_hundred_honest_silos_are_all_witnessed_and_none_is_refused(crowd: World) -> None:
    for _ in range(3):
        call = crowd.exchange()
        assert len(call) <= LIMITS.gossip
    assert crowd.hub.refused == []
    assert all(one.refused == [] for one in crowd.silos.values())
    assert len(list((crowd.hub.log.folder / "witness").iterdir())) == SILOS
    crowd.coordinator.keep()
    assert cosigners(crowd, crowd.hub) == SILOS, "each silo's line is on the coordinator's checkpoint"
    for name in crowd.gates:
        assert cosigners(crowd, crowd.silos[name]) == GATES, "the coordinator and the other gates"
    assert len(crowd.coordinator.checkpoints()) == SILOS + 1


def test_each_silo_may_hold_another_size_of_the_coordinators_log(crowd: World) -> None:
    """Two hundred proofs in one message: a silo without its own would have to refuse the model."""
    for name in crowd.silos:
        crowd.hub.log.append(Event("hub", "coordinator.start", "home"))
        crowd.coordinator.take(name, crowd.answer(name, crowd.coordinator.call([name])))
    call = crowd.coordinator.call(list(crowd.silos), Event("hub", "round.begin", "run/x"))
    assert len(Call.load(call).own.statement.proofs) == SILOS
    for name in crowd.silos:
        crowd.answer(name, call)  # WitnessBehind is raised, or noted by a gate, where the proof is not there
    assert {gate._behind for gate in crowd.gates.values()} == {""}


def changed(text: str, **fields: Any) -> str:
    return json.dumps({**json.loads(text), **fields}, ensure_ascii=True)


def line(party: Party, note: str) -> str:
    return cosign(parse_note(note.encode()).text, party.log.origin, party.key, 1_800_000_000)


@pytest.mark.parametrize(
    "lines",
    [
        [["hub", 1, "— nobody AAAAAAAA"]],
        [["hub", 1, "— a AAAAAAAA\n— b AAAAAAAA"]],
        [["hub", 1, "\n\n— a AAAAAAAA"], ["hub", 1, ""], ["hub", 1, "\n"], ["hub", 1, "— a\u2028b AAAAAAAA"]],
        [["hub", 1, f"— n{n} AAAAAAAA"] for n in range(LIMITS.gossip_items)],
        [["hub", 10**15 - 1, "x"], ["nobody", 0, "x"], ["", 0, ""]],
    ],
)
def test_lines_that_are_none_never_cost_the_silo_its_own_log(few: World, lines: list[list[Any]]) -> None:
    few.exchange()
    bad = [[few.hub.log.origin if origin == "hub" else origin, size, text] for origin, size, text in lines]

    def spoil(name: str, text: str) -> str:
        own = json.loads(text)["cosignatures"]
        return changed(text, cosignatures=[*bad, *own][: LIMITS.gossip_items]) if name == "s000" else text

    few.silos["s000"].log.append(Event("s000", "round.egress", "heart"))
    few.exchange(spoil)
    seen = few.hub.witness.seen(few.silos["s000"].log.origin)
    assert seen is not None
    assert seen.checkpoint.size == few.silos["s000"].log.size, "its log was witnessed all the same"
    assert [one["detail"]["silo"] for one in few.hub.refused] in ([], ["s000"])


def test_a_bad_own_log_never_costs_the_coordinator_the_lines_on_its_own(few: World) -> None:
    def spoil(name: str, text: str) -> str:
        own = {"statement": {"checkpoint": few.silos["s001"].log.checkpoint, "proofs": {}}, "acknowledged": None}
        return changed(text, own=own) if name == "s000" else text

    few.exchange(spoil)
    few.coordinator.keep()
    assert cosigners(few, few.hub) == 4
    assert [one["detail"]["silo"] for one in few.hub.refused] == ["s000"]


def test_nobody_puts_a_line_in_anothers_name_or_over_anothers_line(few: World) -> None:
    """The liar's own line is good; beside it come lines in the others' names, which are not."""
    liar = few.silos["s003"]
    few.exchange()
    liar.log.append(Event("s003", "round.egress", "heart"))

    def spoil(name: str, text: str) -> str:
        if name != "s003":
            return text
        note = few.hub.log.checkpoint
        good = line(liar, note)
        forged = [good.replace(f"— {liar.log.origin} ", f"— {one.log.origin} ") for one in few.silos.values()]
        stolen = []
        for one in few.silos.values():  # with the right key id of the other, and a signature that is none
            parts = line(one, note).split(" ")
            stolen.append(" ".join([*parts[:2], parts[2][:12] + "A" * (len(parts[2]) - 12)]))
        lines = [[few.hub.log.origin, few.hub.log.size, text] for text in (good, *forged, *stolen)]
        return changed(text, cosignatures=lines)

    few.exchange(spoil)
    few.coordinator.keep()
    assert cosigners(few, few.hub) == 4
    kept = parse_note((few.hub.log.folder / "cosigned").read_bytes())
    assert len(kept.signatures) == 5


def test_sizes_that_a_silo_invents_take_nobodys_place(few: World) -> None:
    few.exchange()
    told = few.silos["s001"].log.origin
    for number in range(5):
        few.coordinator._held[f"liar{number}"] = {told: 10**14 + number}
    wanted = Call.load(few.coordinator.call(list(few.gates), everyone=True)).wanted
    assert wanted is not None
    assert max(wanted[told]) == few.silos["s001"].log.size


@pytest.mark.parametrize(
    "text",
    ["", "{", "\ud800", '"\\ud800"', '{"own": "\\ud800"}', "[" * 100_000, "1" * 5000, "null", '{"own":null}', "NaN"],
)
def test_an_answer_that_is_none_is_refused_with_a_record_and_nothing_else(few: World, text: str) -> None:
    few.coordinator.take("s000", text)
    assert [one["action"] for one in few.hub.refused] == ["witness.refused"]
    few.coordinator.take("nobody", text)
    few.coordinator.take("s000", 7)
    assert len(few.hub.refused) == 1


@pytest.mark.parametrize("field", ["own", "cosignatures", "held", "newest"])
@pytest.mark.parametrize(
    "value",
    ["\ud800", ["\ud800"], {"\ud800": "\ud800"}, 7, -1, 1e308, None, [None], {"s": True}, [["a", 1, "\ud800"]]],
)
def test_a_field_of_any_other_kind_is_refused_and_the_next_answer_is_heard(few: World, field: str, value: Any) -> None:
    few.coordinator.take("s000", json.dumps({**json.loads(Answer().dump()), field: value}))
    few.exchange()
    assert few.hub.witness.seen(few.silos["s000"].log.origin) is not None


def test_a_log_with_a_thousand_long_proofs_leaves_room_for_the_others(few: World) -> None:
    few.exchange()
    hub, one = few.coordinator, few.silos["s000"]
    one.log.append(Event("s000", "round.egress", "heart"))
    proofs = {size: tuple(bytes(32) for _ in range(64)) for size in range(2, LIMITS.statement_proofs)}
    few.exchange(everyone=False)
    statement = one.log.statement([1])
    told = Told(Statement(statement.checkpoint, {**proofs, **statement.proofs}))
    hub.take("s000", Answer(told, (), {}, None).dump())
    call = hub.call(list(few.gates), everyone=True)
    assert len(call) < LIMITS.gossip // 4
    assert len(Call.load(call).peers) == 4


def test_a_surplus_line_is_left_out_and_the_others_stay(few: World) -> None:
    few.exchange()
    hub = few.coordinator
    hub.call(list(few.gates), everyone=True)
    origin = few.silos["s000"].log.origin
    hub._relayed[origin]._most = 3
    note = hub._relayed[origin].note
    for one in list(few.silos.values())[1:]:
        size = few.silos["s000"].log.size
        hub.take(one.name, Answer(None, (Cosignature(origin, size, line(one, note)),), {}, None).dump())
    assert hub._relayed[origin].signers == 3
    assert few.hub.refused == []


def test_a_thousand_members_with_the_longest_names_get_their_lines_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was too long showed no log at all; here all of it is a tenth, limits and members."""
    monkeypatch.setattr(witnessing, "AUDIT_LIMITS", replace(LIMITS, gossip=LIMITS.gossip // 10))
    monkeypatch.setattr(witnessing, "SHOWN", witnessing.SHOWN // 10)
    monkeypatch.setattr(witnessing, "RELAYED", witnessing.RELAYED // 10)
    federation, hub_key = "f" * 128, Ed25519PrivateKey.generate()
    keys = {f"s{number:03d}".ljust(63, "x"): Ed25519PrivateKey.generate() for number in range(100)}
    origins = {name: log_origin(federation, Role.SILO, name) for name in keys}
    members = [
        {"name": name, "role": Role.SILO, "country": "DE", "log": str(verifier_key(origins[name], key.public_key()))}
        for name, key in keys.items()
    ]
    head = {"apiVersion": "concordat/v1", "kind": "Federation", "metadata": {"name": federation, "version": 1}}
    manifest = Federation.model_validate({**head, "members": tuple(members)})
    with AuditLog.open(tmp_path / "hub", origin=log_origin(federation, Role.COORDINATOR, "hub"), key=hub_key) as log:
        parts = log, Witness(tmp_path / "w", log.origin, hub_key, utc_now), RollbackGuard(log, "hub"), lambda: manifest
        coordinator = witnessing.Witnessing(*parts, lambda *_, **__: None, clock=lambda: float("inf"))
        for name, key in keys.items():
            note = sign_note(Checkpoint(origins[name], 5, bytes(32)).text, origins[name], key)
            coordinator.take(name, Answer(Told(Statement(note))).dump())
        for _ in range(2):
            shown = Call.load(coordinator.call(list(keys), everyone=True))
            assert len(shown.peers) == len(keys)
            for name, key in list(keys.items())[:12]:
                texts = [told.statement.checkpoint.rpartition("\n\n")[0] + "\n" for told in shown.peers]
                lines = [Cosignature(text.split("\n")[0], 5, cosign(text, origins[name], key, 1)) for text in texts]
                coordinator.take(name, Answer(None, tuple(lines)).dump())
    assert {len(parse_note(note.encode()).signatures) for note in shown.cosigned} == {6}


def test_a_coordinator_starts_that_has_seen_a_thousand_members_and_as_many_that_left(tmp_path: Path) -> None:
    """What it keeps of each member's newest certificate was too large to be read back."""
    seen = {"issued": 1.7e9, "serial": "f" * 40, "before": ["f" * 40] * SUPERSEDED_KEPT}
    names = [f"s{number:04d}".ljust(63, "x") for number in range(2 * MEMBERS.members)]
    path = tmp_path / "newest.json"
    path.write_text(json.dumps(dict.fromkeys(names, seen)))
    known = Identities(lambda: None, path, lambda *_: None)  # type: ignore[arg-type, return-value]
    assert len(known._newest) == len(names)
