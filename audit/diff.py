"""Two copies of one party's log compared: is one the continuation of the other, or did the party tell two stories?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from audit.errors import VerificationError
from audit.snapshot import Leaf, Snapshot


@dataclass(frozen=True)
class Difference:
    """`common` entries are the same in both; `first` are the leaves after them, None where a copy ends.

    Two copies of which neither ends there were both signed and contradict each other. What was purged from a copy
    is compared by its hash.
    """

    origin: str
    sizes: tuple[int, int]
    common: int
    first: tuple[Leaf | None, Leaf | None]

    @property
    def consistent(self) -> bool:
        """Whether one copy is a prefix of the other."""
        return None in self.first


def compare(one: Snapshot, other: Snapshot) -> Difference:
    """Read both logs to their ends and find where they part; VerificationError where they are two parties' logs."""
    if one.vkey != other.vkey:
        raise VerificationError(f"got logs of {one.vkey} and {other.vkey}, expected two copies of one log")
    common, first = 0, None
    for left, right in zip_longest(one.leaves(), other.leaves()):
        if first is None and left is not None and right is not None and left.hash == right.hash:
            common += 1
        elif first is None:
            first = (left, right)
    return Difference(one.origin, (one.size, other.size), common, first or (None, None))
