"""The size limits of documents and of what decisions print."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a document, each refused when passed."""

    document_bytes: int = 1 << 20
    depth: int = 32
    nodes: int = 20_000
    scalar_characters: int = 8_192
    integer_digits: int = 18
    shown_characters: int = 80
    shown_items: int = 12
    cases: int = 2_000
    test_files: int = 1_000


LIMITS = Limits()
