"""What coordinator and silos tell each other of their logs, as JSON text within the messages they exchange anyway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from audit.entry import JSON
from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.statement import Publication, Statement, expect_object, expect_text
from audit.witness import Cosignature


@dataclass(frozen=True)
class Told:
    """A log's statement, and the acknowledgement of its last rollback where there was one."""

    statement: Statement
    acknowledged: Publication | None = None

    def to_json(self) -> dict[str, JSON]:
        """The form that travels."""
        known = None if self.acknowledged is None else self.acknowledged.to_json()
        return {"statement": self.statement.to_json(), "acknowledged": known}

    def dump(self) -> str:
        """As text."""
        return _dump(self.to_json())

    @staticmethod
    def from_json(data: object) -> Told:
        """Read one back without verifying it; raises VerificationError."""
        fields = expect_object(data, {"statement", "acknowledged"})
        statement, known = Statement.from_json(fields["statement"]), fields["acknowledged"]
        return Told(statement, None if known is None else Publication.from_json(known, statement))


@dataclass(frozen=True)
class Call:
    """From the coordinator: its own log, the entry that publishes a model, and other members' logs.

    `peers` are to be cosigned; `cosigned` are earlier checkpoints with the lines that came for them; `wanted` says,
    by origin, which sizes of a log its witnesses hold, so that it proves that it extends them.
    """

    own: Told
    published: Publication | None = None
    peers: tuple[Told, ...] = ()
    cosigned: tuple[str, ...] = ()
    wanted: Mapping[str, tuple[int, ...]] | None = None

    def dump(self) -> str:
        """As text."""
        return _dump(
            {
                "own": self.own.to_json(),
                "published": None if self.published is None else self.published.to_json(),
                "peers": [peer.to_json() for peer in self.peers],
                "cosigned": list(self.cosigned),
                "wanted": None if self.wanted is None else {k: list(v) for k, v in self.wanted.items()},
            }
        )

    @staticmethod
    def load(text: str) -> Call:
        """Read it back without verifying anything; raises VerificationError."""
        fields = expect_object(_load(text), {"own", "published", "peers", "cosigned", "wanted"})
        own, published, wanted = Told.from_json(fields["own"]), fields["published"], fields["wanted"]
        return Call(
            own,
            None if published is None else Publication.from_json(published, own.statement),
            tuple(Told.from_json(item) for item in _list(fields["peers"])),
            tuple(expect_text(item) for item in _list(fields["cosigned"])),
            None
            if wanted is None
            else {name: tuple(map(_number, _list(v))) for name, v in expect_object(wanted, None).items()},
        )


@dataclass(frozen=True)
class Answer:
    """From a silo: its own log where it was asked for, its lines on others, and what it holds of each.

    `newest` is the last checkpoint of the coordinator's log that this silo cosigned.
    """

    own: Told | None = None
    cosignatures: tuple[Cosignature, ...] = ()
    held: Mapping[str, int] = field(default_factory=dict)
    newest: str | None = None

    def dump(self) -> str:
        """As text."""
        return _dump(
            {
                "own": None if self.own is None else self.own.to_json(),
                "cosignatures": [[item.origin, item.size, item.line] for item in self.cosignatures],
                "held": dict(self.held),
                "newest": self.newest,
            }
        )

    @staticmethod
    def load(text: str) -> Answer:
        """Read it back without verifying anything; raises VerificationError."""
        fields = expect_object(_load(text), {"own", "cosignatures", "held", "newest"})
        own, newest = fields["own"], fields["newest"]
        return Answer(
            None if own is None else Told.from_json(own),
            tuple(_cosignature(item) for item in _list(fields["cosignatures"])),
            {name: _number(size) for name, size in expect_object(fields["held"], None).items()},
            None if newest is None else expect_text(newest),
        )


def _cosignature(data: object) -> Cosignature:
    match data:
        case [str() as origin, int() as size, str() as line]:
            return Cosignature(expect_text(origin), _number(size), expect_text(line))
    raise VerificationError(f"got {repr(data)[:60]}, expected origin, size and line of a cosignature")


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > LIMITS.gossip_items:
        raise VerificationError(f"got {repr(value)[:60]}, expected a list of at most {LIMITS.gossip_items}")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LIMITS.tree_size:
        raise VerificationError(f"got {repr(value)[:40]}, expected the size of a tree")
    return value


def _dump(data: JSON) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def _load(text: str) -> object:
    if len(text) > LIMITS.gossip:
        raise VerificationError(f"got {len(text)} characters of evidence, expected at most {LIMITS.gossip}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VerificationError("the evidence in a message is not JSON") from error
