"""A proof that an entry is in a log, offline: c2sp.org/tlog-proof."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.merkle import leaf_hash, verify_inclusion
from audit.note import Checkpoint, VerifierKey, decode_base64, open_checkpoint

_HEAD = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile("index (0|[1-9][0-9]{0,14})")


@dataclass(frozen=True)
class TlogProof:
    """An entry's number, its audit path nearest sibling first, and the signed checkpoint it leads to.

    `extra` is not authenticated; Concordat's own proof files hold the entry there, which is checked by its leaf hash.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    @property
    def text(self) -> str:
        """The content of a `.tlog-proof` file."""
        lines = [_HEAD]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(item).decode() for item in self.path]
        return "\n".join(lines) + "\n\n" + self.checkpoint


def parse_proof(data: bytes) -> TlogProof:
    """Read a proof without verifying it; raises VerificationError for anything that is not one."""
    if len(data) > LIMITS.proof_file:
        raise VerificationError(f"got a proof of {len(data)} bytes, expected at most {LIMITS.proof_file}")
    try:
        head, blank, checkpoint = data.decode().partition("\n\n")
    except UnicodeDecodeError as error:
        raise VerificationError("the proof is not UTF-8 text") from error
    lines = head.split("\n")
    if lines.pop(0) != _HEAD or not blank:
        raise VerificationError(f"got something else, expected a proof that begins with {_HEAD}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "))
    match = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if match is None or len(lines) > LIMITS.proof:
        raise VerificationError(f"expected the line `index <number>` and at most {LIMITS.proof} hashes in the proof")
    path = tuple(decode_base64(line) for line in lines)
    return TlogProof(int(match[1]), path, checkpoint, extra)


def verify_proof(proof: TlogProof, entry: bytes, key: VerifierKey) -> Checkpoint:
    """The checkpoint that `key` signed and that the entry (without its line feed) is in; raises VerificationError."""
    checkpoint = open_checkpoint(proof.checkpoint.encode(), key)
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.path, checkpoint.root)
    return checkpoint
