"""The coordinator's part in keeping logs honest: publishes its own, witnesses the silos', and relays between them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import cycle, islice

from audit.cosignature import Countersigned
from audit.entry import Event
from audit.errors import RollbackError, VerificationError, WitnessBehind
from audit.gossip import Answer, Call, Told
from audit.limits import LIMITS as AUDIT_LIMITS
from audit.log import AuditLog
from audit.note import Checkpoint, VerifierKey, parse_note
from audit.rollback import RollbackGuard
from audit.statement import Statement
from audit.store import replace_file
from audit.witness import Witness
from federation.errors import RunFailedError
from federation.identity import Role
from federation.manifest import Federation
from federation.member_logs import log_key

GOSSIP_SECONDS = 1.0
"""How often silos are shown each other's logs; the coordinator's own comes with every message."""
PEERS = 16
"""The logs that one message shows, beyond admission; the next message shows the next."""
SHOWN = AUDIT_LIMITS.gossip // 4
"""The characters that the logs in one message may have; the next message goes on with those that found no room."""
RELAYED = AUDIT_LIMITS.gossip // 2
"""The characters of the lines that come back with the logs shown before, and are shown in turn."""
LINE = 200
"""The characters of a line, unless a name is so long that it has more."""
BESIDE_NAME = 110
"""The characters of a line beside the name of its witness."""
LINES = 64
"""The lines that one log's checkpoint may bring back to it."""
PROOFS = 64
"""The older sizes from which another party's log is asked for a proof: those that most silos hold."""
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
        self._relayed: dict[str, Countersigned] = {}  # origin -> the note shown last, with the lines that came for it
        self._own: dict[int, Countersigned] = {}  # size -> our note, with the lines that came for it
        self._said: dict[str, str] = {}
        self._last, self._turn = float("-inf"), 0
        self._read: Federation | None = None
        self._known: dict[str, VerifierKey] = {}

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
        keys = self._origins
        peers = self._show(self._next(sorted(keys), len(keys) if everyone else PEERS))
        cosigned = tuple(one.note for origin, one in self._relayed.items() if origin in keys)
        line = max(LINE, BESIDE_NAME + max(map(len, (*keys, self._log.origin))))
        most = max(2, min(LINES, RELAYED // line // max(1, len(peers))))
        self._relayed = {origin: Countersigned(told.statement.checkpoint, most) for origin, told in peers.items()}
        wanted = {origin: self._sizes_of(origin) for origin in keys}
        text = Call(own, published, tuple(peers.values()), cosigned, wanted).dump()
        return text if len(text) <= AUDIT_LIMITS.gossip else Call(own, published).dump()

    def take(self, silo: str, text: object) -> None:
        """Take in what a silo's answer says of logs; what cannot be used is recorded, and the rest is still taken.

        Raises RunFailedError where the coordinator's own log is behind.
        """
        key = self._keys.get(silo)
        if key is None or not isinstance(text, str):
            return
        problems: list[VerificationError] = []
        try:
            self._hear(silo, Answer.load(text), key, problems)
        except VerificationError as error:
            problems.append(error)
        except RollbackError as error:
            raise _failed(error) from None
        finally:
            if problems and self._said.get(silo) != str(problems[0]):
                self._said[silo] = str(problems[0])
                self._refuse(silo, str(problems[0]))

    def _hear(self, silo: str, answer: Answer, key: VerifierKey, problems: list[VerificationError]) -> None:
        known = {*self._origins, self._log.origin}
        self._held[silo] = {origin: size for origin, size in answer.held.items() if origin in known}
        if answer.own is not None:
            try:
                self._cosign(answer.own, key)
            except WitnessBehind:
                pass  # it is given a proof with the next message
            except VerificationError as error:
                problems.append(error)
        for line in answer.cosignatures:
            try:
                self._attach(line.origin, line.size, line.line, key)
            except VerificationError as error:
                problems.append(error)
        if answer.newest is not None:
            self._guard.check(answer.newest.encode(), key)

    def _refuse(self, silo: str, reason: str) -> None:
        rule, detail = "witness.consistency", {"silo": silo}
        self._record("witness.refused", decision="deny", rule=rule, reason=reason[:2000], detail=detail)

    def keep(self) -> None:
        """Write the newest checkpoint of the coordinator's log that silos cosigned beside the log."""
        for size in sorted(self._own, reverse=True):
            if self._own[size].signers > 1:
                replace_file(self._log.folder / "cosigned", self._own[size].note.encode(), mode=0o644)
                return

    def checkpoints(self) -> dict[str, str]:
        """The newest checkpoint of each member's log that somebody cosigned, and the coordinator's own, by origin."""
        found = {}
        for origin in sorted(self._origins):
            seen, relayed = self._witness.seen(origin), self._relayed.get(origin)
            if relayed is not None and relayed.signers > 1:
                found[origin] = relayed.note
            elif seen is not None:
                found[origin] = seen.note
        own = [size for size, one in self._own.items() if one.signers > 1]
        if own or self._own:
            found[self._log.origin] = self._own[max(own or self._own)].note
        return found

    def _cosign(self, told: Told, key: VerifierKey) -> None:
        line = self._witness.cosign(told.statement, key, told.acknowledged)
        seen = self._witness.seen(key.name)
        if seen is not None:
            proofs = {size: proof for size, proof in told.statement.proofs.items() if size in self._sizes_of(key.name)}
            self._told[key.name] = Told(Statement(seen.note, proofs), told.acknowledged)
        if line.restarted:
            reason = "the log was rolled back, which its operator has acknowledged in it"
            self._record("witness.restarted", reason=reason, detail={"log": key.name, "size": line.size})

    def _attach(self, origin: str, size: int, line: str, key: VerifierKey) -> None:
        """Add a silo's line to the note it is for, where that is still at hand."""
        note = self._own.get(size) if origin == self._log.origin else self._relayed.get(origin)
        if note is not None and note.size == size:
            note.add(line, key)

    def _remember_own(self, note: str) -> None:
        one = Countersigned(note)
        self._own.setdefault(one.size, one)
        for size in sorted(self._own)[:-KEPT_NOTES]:
            del self._own[size]

    def _show(self, origins: Iterable[str]) -> dict[str, Told]:
        """What these logs said last, as far as there is room; the next message begins where this one ended."""
        shown, left = dict[str, Told](), SHOWN
        for origin in origins:
            told = self._newest(origin)
            left -= 0 if told is None else len(told.dump())
            if left < 0 and shown:
                break
            self._turn += 1
            if told is not None:
                shown[origin] = told
        return shown

    def _newest(self, origin: str) -> Told | None:
        seen = self._witness.seen(origin)
        told = self._told.get(origin)
        return told or (None if seen is None else Told(Statement(seen.note)))

    def _next(self, origins: list[str], count: int) -> list[str]:
        first = self._turn % max(1, len(origins))
        return list(islice(cycle(origins), first, first + min(count, len(origins))))

    def _sizes_of(self, origin: str) -> tuple[int, ...]:
        """The sizes from which a log is to prove that it extends them: what we saw, and what most silos say they did.

        None beyond ours: a silo that names one is ahead of us or lies, and would take the place of others.
        """
        seen = self._witness.seen(origin)
        newest = 0 if seen is None else seen.checkpoint.size
        held = Counter(sizes[origin] for sizes in self._held.values() if sizes.get(origin, newest) < newest)
        return tuple(sorted({newest, *(size for size, _ in held.most_common(PROOFS - 1))}, reverse=True))

    @property
    def _keys(self) -> dict[str, VerifierKey]:
        """The silos' keys by their own names, read anew only from another manifest."""
        federation = self._federation()
        if federation is not self._read:
            keys = {one.name: log_key(federation, one) for one in federation.with_role(Role.SILO)}
            self._read, self._known = federation, {name: key for name, key in keys.items() if key is not None}
        return self._known

    @property
    def _origins(self) -> dict[str, VerifierKey]:
        """The same by the names of their logs."""
        return {key.name: key for key in self._keys.values()}


def _size(note: str) -> int:
    return Checkpoint.parse(parse_note(note.encode()).text).size


def _failed(error: RollbackError) -> RunFailedError:
    return RunFailedError(
        f"the coordinator does not act: {error}",
        advice="find out why, then run concordat audit acknowledge-rollback on its home",
    )
