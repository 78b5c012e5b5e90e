"""The coordinator's part in keeping logs honest: publishes its own, witnesses the silos', and relays between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice

from audit.cosignature import cosigned_at, with_signature
from audit.entry import Event
from audit.errors import RollbackError, VerificationError, WitnessBehind
from audit.gossip import Answer, Call, Told
from audit.limits import LIMITS as AUDIT_LIMITS
from audit.log import AuditLog
from audit.note import Checkpoint, VerifierKey, parse_note, parse_vkey
from audit.rollback import RollbackGuard
from audit.statement import Statement
from audit.store import replace_file
from audit.witness import Witness
from federation.errors import RunFailedError
from federation.identity import Role
from federation.manifest import Federation

GOSSIP_SECONDS = 1.0
"""How often silos are shown each other's logs; the coordinator's own comes with every message."""
PEERS = 16
"""The logs that one message shows, beyond admission; the next message shows the next."""
KEPT_NOTES = 8

Record = Callable[..., None]


class Witnessing:
    """What the coordinator says of logs, and what it makes of the silos' answers.

    `record(action, decision=…, rule=…, reason=…, detail=…)` appends to the coordinator's log.
    """

    def __init__(
        self,
        log: AuditLog,
        witness: Witness,
        guard: RollbackGuard,
        federation: Callable[[], Federation],
        record: Record,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._witness, self._guard = log, witness, guard
        self._federation, self._record, self._clock = federation, record, clock
        self._held: dict[str, dict[str, int]] = {}  # silo -> origin -> the size it cosigned last
        self._told: dict[str, Told] = {}  # origin -> what that log said last
        self._relayed: dict[str, str] = {}  # origin -> the note shown last, with the lines that came for it
        self._own: dict[int, str] = {}  # size -> our note, with the lines that came for it
        self._said: dict[str, str] = {}
        self._last, self._turn = float("-inf"), 0

    def require_clear(self) -> None:
        """Raise RunFailedError while the coordinator's own log is behind and nobody acknowledged it."""
        try:
            self._guard.require_clear()
        except RollbackError as error:
            raise _failed(error) from None

    def call(self, silos: Iterable[str], event: Event | None = None, *, everyone: bool = False) -> str:
        """What a message to these silos says of logs; `event` is recorded and published by it.

        With `everyone`, as at admission, every silo's log is shown; else some, and only from time to time.
        """
        sizes = {self._held.get(silo, {}).get(self._log.origin, 0) for silo in silos}
        published = None if event is None else self._log.publish(event, sizes)
        statement = self._log.statement(sizes) if published is None else published.statement
        own = Told(statement, self._guard.acknowledgement())
        self._remember_own(statement.checkpoint)
        now = self._clock()
        if not everyone and now - self._last < GOSSIP_SECONDS:
            return Call(own, published).dump()
        self._last = now
        self.keep()
        keys = self._keys()
        chosen = sorted(keys) if everyone else self._next(sorted(keys))
        peers = {origin: told for origin in chosen if (told := self._newest(origin)) is not None}
        cosigned = tuple(note for origin, note in self._relayed.items() if origin in keys)
        self._relayed = {origin: told.statement.checkpoint for origin, told in peers.items()}
        wanted = {origin: self._sizes_of(origin) for origin in keys}
        return Call(own, published, tuple(peers.values()), cosigned, wanted).dump()

    def take(self, silo: str, text: object) -> None:
        """Take in what a silo's answer says of logs. Raises RunFailedError where the coordinator's own is behind."""
        key = self._key_of(silo)
        if key is None or not isinstance(text, str):
            return
        try:
            answer = Answer.load(text)
            known = {*self._keys(), self._log.origin}
            self._held[silo] = {origin: size for origin, size in answer.held.items() if origin in known}
            if answer.newest is not None:
                self._guard.check(answer.newest.encode(), key)
            for line in answer.cosignatures:
                self._attach(line.origin, line.size, line.line, key)
            if answer.own is not None:
                self._cosign(answer.own, key)
        except WitnessBehind:
            return
        except VerificationError as error:
            if self._said.get(silo) != str(error):
                self._said[silo] = str(error)
                self._record(
                    "witness.refused",
                    decision="deny",
                    rule="witness.consistency",
                    reason=str(error)[:2000],
                    detail={"silo": silo},
                )
        except RollbackError as error:
            raise _failed(error) from None

    def keep(self) -> None:
        """Write the newest checkpoint of the coordinator's log that silos cosigned beside the log."""
        for size in sorted(self._own, reverse=True):
            if len(parse_note(self._own[size].encode()).signatures) > 1:
                replace_file(self._log.folder / "cosigned", self._own[size].encode(), mode=0o644)
                return

    def checkpoints(self) -> dict[str, str]:
        """The newest checkpoint of each member's log that somebody cosigned, and the coordinator's own, by origin."""
        found = {}
        for origin in sorted(self._keys()):
            seen, relayed = self._witness.seen(origin), self._relayed.get(origin)
            if relayed is not None and len(parse_note(relayed.encode()).signatures) > 1:
                found[origin] = relayed
            elif seen is not None:
                found[origin] = seen.note
        own = [size for size, note in self._own.items() if len(parse_note(note.encode()).signatures) > 1]
        if own or self._own:
            found[self._log.origin] = self._own[max(own or self._own)]
        return found

    def _cosign(self, told: Told, key: VerifierKey) -> None:
        line = self._witness.cosign(told.statement, key, told.acknowledged)
        seen = self._witness.seen(key.name)
        if seen is not None:
            self._told[key.name] = Told(Statement(seen.note, told.statement.proofs), told.acknowledged)
        if line.restarted:
            reason = "the log was rolled back, which its operator has acknowledged in it"
            self._record("witness.restarted", reason=reason, detail={"log": key.name, "size": line.size})

    def _attach(self, origin: str, size: int, line: str, key: VerifierKey) -> None:
        """Add a silo's line to the note it is for, where that is still at hand."""
        note = self._own.get(size) if origin == self._log.origin else self._relayed.get(origin)
        if note is None or _size(note) != size:
            return
        signed = with_signature(note, line)
        cosigned_at(parse_note(signed.encode()), key)
        if origin == self._log.origin:
            self._own[size] = signed
        elif len(parse_note(signed.encode()).signatures) <= PEERS:
            self._relayed[origin] = signed

    def _remember_own(self, note: str) -> None:
        self._own.setdefault(_size(note), note)
        for size in sorted(self._own)[:-KEPT_NOTES]:
            del self._own[size]

    def _newest(self, origin: str) -> Told | None:
        seen = self._witness.seen(origin)
        told = self._told.get(origin)
        return told or (None if seen is None else Told(Statement(seen.note)))

    def _next(self, origins: list[str]) -> list[str]:
        count = min(PEERS, len(origins))
        chosen = list(islice(cycle(origins), self._turn, self._turn + count)) if origins else []
        self._turn = (self._turn + count) % max(1, len(origins))
        return chosen

    def _sizes_of(self, origin: str) -> tuple[int, ...]:
        sizes = {held[origin] for held in self._held.values() if origin in held}
        seen = self._witness.seen(origin)
        newest = () if seen is None else (seen.checkpoint.size,)
        return tuple(sorted({*sizes, *newest}, reverse=True)[: AUDIT_LIMITS.statement_proofs])

    def _keys(self) -> dict[str, VerifierKey]:
        members = self._federation().with_role(Role.SILO)
        return {key.name: key for key in (parse_vkey(member.log) for member in members if member.log)}

    def _key_of(self, silo: str) -> VerifierKey | None:
        for member in self._federation().with_role(Role.SILO):
            if member.name == silo and member.log:
                return parse_vkey(member.log)
        return None


def _size(note: str) -> int:
    return Checkpoint.parse(parse_note(note.encode()).text).size


def _failed(error: RollbackError) -> RunFailedError:
    return RunFailedError(
        f"the coordinator does not act: {error}",
        advice="find out why, then run concordat audit acknowledge-rollback on its home",
    )
