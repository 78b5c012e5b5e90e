"""What a log says of itself to its witnesses and to those who act on its entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from audit.entry import JSON
from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.merkle import leaf_hash, verify_inclusion
from audit.note import Checkpoint, decode_base64, encode_base64
from audit.verify import VerificationFailure, check_entry


@dataclass(frozen=True)
class Statement:
    """A signed checkpoint and, for older sizes of the same log, the proof that it extends them."""

    checkpoint: str
    proofs: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """The form that travels."""
        proofs: dict[str, JSON] = {str(size): [encode_base64(item) for item in p] for size, p in self.proofs.items()}
        return {"checkpoint": self.checkpoint, "proofs": proofs}

    @staticmethod
    def from_json(data: object) -> Statement:
        """Read one back without verifying it; raises VerificationError."""
        fields = expect_object(data, {"checkpoint", "proofs"})
        proofs = expect_object(fields["proofs"], None)
        if len(proofs) > LIMITS.statement_proofs:
            raise VerificationError(f"got {len(proofs)} proofs, expected at most {LIMITS.statement_proofs}")
        return Statement(
            expect_text(fields["checkpoint"]), {_size(name): expect_hashes(path) for name, path in proofs.items()}
        )


@dataclass(frozen=True)
class Publication:
    """An entry (its line without the line feed), its number, its audit path, and the statement it leads to."""

    entry: bytes
    index: int
    path: tuple[bytes, ...]
    statement: Statement

    def to_json(self) -> dict[str, JSON]:
        """The form that travels beside its statement."""
        return {
            "entry": self.entry.decode(),
            "index": self.index,
            "path": [encode_base64(item) for item in self.path],
        }

    @staticmethod
    def from_json(data: object, statement: Statement) -> Publication:
        """Read one back without verifying it; raises VerificationError."""
        fields = expect_object(data, {"entry", "index", "path"})
        index = fields["index"]
        if type(index) is not int or not 0 <= index <= LIMITS.tree_size:
            raise VerificationError(f"got {repr(index)[:40]} for an index, expected a number")
        return Publication(
            expect_text(fields["entry"], LIMITS.entry).encode(), index, expect_hashes(fields["path"]), statement
        )


def prove_publication(publication: Publication, checkpoint: Checkpoint) -> dict[str, object]:
    """The entry's content, once it is shown to be in the tree of a checkpoint whose signature was verified."""
    verify_inclusion(
        leaf_hash(publication.entry), publication.index, checkpoint.size, publication.path, checkpoint.root
    )
    try:
        return check_entry(publication.entry + b"\n", publication.index)
    except VerificationFailure as failure:
        raise VerificationError(str(failure)) from failure


def expect_object(data: object, names: set[str] | None) -> dict[str, object]:
    """An object with exactly these names, or with any; raises VerificationError."""
    if not isinstance(data, dict) or (names is not None and data.keys() != names):
        expected = "an object" if names is None else f"an object with {', '.join(sorted(names))}"
        raise VerificationError(f"got {repr(data)[:60]}, expected {expected}")
    return data


def expect_text(value: object, limit: int = LIMITS.note) -> str:
    """A text no longer than a note, or than another limit, which has a UTF-8 form; raises VerificationError."""
    if not isinstance(value, str) or len(value) > limit:
        raise VerificationError(f"got {repr(value)[:60]}, expected a text of at most {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise VerificationError("got a text with lone surrogates, expected one that has a UTF-8 form") from error
    return value


def expect_hashes(value: object) -> tuple[bytes, ...]:
    """A list of hashes in base64; raises VerificationError."""
    if not isinstance(value, list) or len(value) > LIMITS.proof:
        raise VerificationError(f"got {repr(value)[:60]}, expected a list of at most {LIMITS.proof} hashes")
    return tuple(decode_base64(expect_text(item)) for item in value)


def _size(name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > len(str(LIMITS.tree_size)):
        raise VerificationError(f"got {name[:40]!r}, expected the size of a tree")
    return int(name)
