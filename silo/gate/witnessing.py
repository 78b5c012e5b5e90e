"""The gate's part in keeping logs honest: the coordinator's published model, other members' logs, and its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from audit.cosignature import Cosigned, cosigned
from audit.errors import VerificationError, WitnessBehind
from audit.gossip import Answer, Call, Told
from audit.limits import LIMITS
from audit.log import AuditLog, utc_now
from audit.note import Checkpoint, VerifierKey, parse_note
from audit.rollback import RollbackGuard
from audit.statement import prove_publication
from audit.store import replace_file
from audit.witness import Cosignature, Seen, Witness
from federation.identity import Role
from federation.manifest import Federation
from federation.member_logs import log_key

Record = Callable[..., None]
TOLD_KEPT = 64
RECENT_SECONDS = 300.0
"""For how long a checkpoint that many cosigned is kept where fewer have cosigned a newer one."""


class Witnessing:
    """Hears what each message of the coordinator says of logs, and answers with this silo's share.

    `record(action, decision=…, rule=…, reason=…, detail=…)` appends to this silo's log.
    """

    def __init__(
        self, log: AuditLog, witness: Witness, guard: RollbackGuard, federation: Federation, record: Record
    ) -> None:
        self._log, self._witness, self._guard, self._record = log, witness, guard, record
        self.use(federation)
        self._call: Call | None = None
        self._behind = "no message was heard"
        self._lines: list[Cosignature] = []
        self._said: dict[str, str] = {}
        self._told: dict[int, float] = {}
        """When a checkpoint of this log was first sent, by its size, in POSIX seconds of this clock."""
        self._compared = 0
        self._skew: float | None = None

    def use(self, federation: Federation) -> None:
        """Take the members' keys from a newer manifest."""
        self._coordinator = log_key(federation, federation.coordinator)
        keys = (log_key(federation, member) for member in federation.with_role(Role.SILO))
        self._silos = {key.name: key for key in keys if key is not None}

    def hear(self, text: object) -> None:
        """Take in what a message says of logs.

        Raises RollbackError where this silo's own log is behind, VerificationError where the coordinator's does not
        hold together with what was seen of it.
        """
        self._call, self._lines, self._behind = None, [], ""
        self._guard.require_clear()
        if not isinstance(text, str):
            raise VerificationError("the message says nothing of the coordinator's log")
        coordinator = self._coordinator
        if coordinator is None:
            raise VerificationError("the manifest does not name the key of the coordinator's log")
        call = Call.load(text)
        try:
            self._take(call.own, coordinator)
        except WitnessBehind as error:
            self._behind = str(error)
        for told in call.peers:
            if _origin(told.statement.checkpoint) == self._log.origin:
                self._guard.check(told.statement.checkpoint.encode(), coordinator)
        self._call = call
        for told in call.peers:
            self._peer(told)
        for note in (*(told.statement.checkpoint for told in call.peers), *call.cosigned):
            if _origin(note) == self._log.origin:
                self._keep_cosigned(note)

    def require_published(
        self, actions: str, run: str, number: int, digest: str, said: Mapping[str, str] | None = None
    ) -> None:
        """Raise VerificationError unless the message proves that the coordinator's log names this model.

        `said` is what else has to stand in the same entry, so that every silo is told the same.
        """
        if self._behind:
            raise VerificationError(self._behind)
        seen = self._seen
        if self._call is None or self._call.published is None or seen is None:
            raise VerificationError("the message does not prove that the model is in the coordinator's log")
        entry = prove_publication(self._call.published, seen.checkpoint)
        detail = entry["detail"]
        expected = {"action": actions, "run": run, "round": number}
        for name, value in expected.items():
            if entry[name] != value:
                raise VerificationError(f"the entry that is proved has {name} {entry[name]!r}, expected {value!r}")
        if not isinstance(detail, Mapping) or detail.get("model") != digest:
            raise VerificationError(f"the coordinator's log names another model for round {number}, got {digest}")
        for name, text in (said or {}).items():
            if detail.get(name) != text:
                raise VerificationError(f"the coordinator's log names another {name} for round {number}, got {text}")

    def answer(self) -> str | None:
        """What goes back with the reply to the message heard last; None where it said nothing that could be read."""
        call, seen = self._call, self._seen
        if call is None:
            return None if seen is None else Answer(None, (), self._witness.sizes, seen.note).dump()
        own = newest = None
        if call.wanted is not None:
            own = Told(self._log.statement(call.wanted.get(self._log.origin, ())), self._guard.acknowledgement())
            self._tell(own.statement.checkpoint)
            newest = None if seen is None else seen.note
        return Answer(own, tuple(self._lines), self._witness.sizes, newest).dump()

    def cosigned(self) -> Cosigned | None:
        """Who of the members cosigned this silo's log last, up to which size and when; None before the first did.

        A file that was damaged tells of nobody, and the next checkpoint that comes back takes its place.
        """
        try:
            with (self._log.folder / "cosigned").open("rb") as file:
                return cosigned(file.read(LIMITS.note + 1), self._log.verifier, self._witnesses())
        except (FileNotFoundError, VerificationError):
            return None

    def clock_skew(self) -> float | None:
        """How far, in seconds, this clock is at least from those of members that cosigned last; None before one did.

        Of several members it is the middle distance, so that no single one can say that every other clock is wrong.
        A cosignature is made after its checkpoint was sent and before it is back: what its time lies outside of that,
        the two clocks differ.
        """
        return self._skew

    def _tell(self, checkpoint: str) -> None:
        # Of a log that has not grown the same checkpoint is sent again, and comes back with the cosignatures of before.
        self._told.setdefault(_size(checkpoint), utc_now().timestamp())
        while len(self._told) > TOLD_KEPT:
            del self._told[min(self._told)]

    def _compare_clocks(self, found: Cosigned) -> None:
        sent, back = self._told.get(found.size), utc_now().timestamp()
        if sent is not None and found.witnesses and found.size >= self._compared:
            self._compared = found.size
            # A cosignature tells whole seconds, so it may have been made up to one later.
            apart = sorted(max(sent - (seconds + 1), seconds - back, 0.0) for seconds in found.witnesses.values())
            self._skew = apart[len(apart) // 2]

    def _witnesses(self) -> list[VerifierKey]:
        return [*self._silos.values(), *([self._coordinator] if self._coordinator else [])]

    @property
    def _seen(self) -> Seen | None:
        return None if self._coordinator is None else self._witness.seen(self._coordinator.name)

    def _take(self, told: Told, key: VerifierKey) -> None:
        line = self._witness.cosign(told.statement, key, told.acknowledged)
        self._lines.append(line)
        if line.restarted:
            reason = "the log was rolled back, which its operator has acknowledged in it"
            self._record("witness.restarted", reason=reason, detail={"log": key.name, "size": line.size})

    def _peer(self, told: Told) -> None:
        origin = _origin(told.statement.checkpoint)
        key = self._silos.get(origin)
        if key is None or origin == self._log.origin:
            return
        try:
            self._take(told, key)
        except WitnessBehind:
            return
        except VerificationError as error:
            if self._said.get(origin) != str(error):
                self._said[origin] = str(error)
                self._record(
                    "witness.refused",
                    decision="deny",
                    rule="witness.consistency",
                    reason=str(error)[:2000],
                    detail={"log": origin},
                )

    def _keep_cosigned(self, note: str) -> None:
        """Keep the newest checkpoint of this silo's log that others cosigned, once as many have as cosigned the last.

        A checkpoint comes back at first with few lines; it does not push out one with more while that one is recent.
        """
        found, before = cosigned(note.encode(), self._log.verifier, self._witnesses()), self.cosigned()
        self._compare_clocks(found)
        if before is not None:
            if (found.size, len(found.witnesses)) <= (before.size, len(before.witnesses)):
                return
            fewer = len(found.witnesses) < len(before.witnesses)
            if fewer and before.age(utc_now().timestamp()) < RECENT_SECONDS:
                return
        if found.witnesses:
            replace_file(self._log.folder / "cosigned", note.encode(), mode=0o644)


def _size(note: str) -> int:
    return Checkpoint.parse(parse_note(note.encode()).text).size


def _origin(note: str) -> str:
    return Checkpoint.parse(parse_note(note.encode()).text).origin
