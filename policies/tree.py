"""A YAML text as a tree of nodes that know their line and column.

Scalars follow the core schema (YAML 1.2.2 section 10.3.2): `NO` is text, and so is a date.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None
Position = tuple[int, int]
PathKey = str | int

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(slots=True)
class Node:
    """A scalar, a list or a mapping at a position of the text; lines and columns count from 1."""

    position: Position
    value: Scalar = None
    items: "list[Node] | None" = None
    entries: "dict[str, Node] | None" = None
    keys: dict[str, Position] = field(default_factory=dict)
    faulty: bool = False

    def plain(self) -> object:
        """The node as Python values."""
        if self.entries is not None:
            return {key: node.plain() for key, node in self.entries.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.value

    def child(self, key: PathKey) -> "tuple[Position, Node] | None":
        """The child under a key, with the position of its key (in a list, of the item)."""
        if self.entries is not None and isinstance(key, str) and key in self.entries:
            return self.keys[key], self.entries[key]
        if self.items is not None and isinstance(key, int) and 0 <= key < len(self.items):
            return self.items[key].position, self.items[key]
        return None

    def locate(self, path: Sequence[PathKey]) -> Position:
        """The position of a path, or of its nearest ancestor that exists."""
        node, position = self, self.position
        for key in path:
            found = node.child(key)
            if found is None:
                break
            position, node = found
        return position


def core_scalar(text: str) -> Scalar:
    """A plain scalar by the YAML 1.2 core schema."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        # The interpreter refuses to read integers beyond 4300 digits; such a number is over the limit anyhow.
        return int(text[:4000], {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text
