"""The model of a silo's policy, by theme, and its loader."""

from pathlib import Path

from policies.document import Document, load_document
from policies.errors import DocumentError
from policies.limits import LIMITS, Limits
from policies.model.policy import SiloPolicy

__all__ = ["SiloPolicy", "load_policy"]


def load_policy(
    path_or_text: Path | str | bytes, source: str | None = None, limits: Limits = LIMITS
) -> Document[SiloPolicy]:
    """Read a silo's policy from a file (a Path) or from its content, and hold it against the laws that apply.

    Raises DocumentError with every problem and its position.
    """
    from policies.applies import below_the_law  # noqa: PLC0415  it reads the vocabulary through this package

    document = load_document(path_or_text, SiloPolicy, source, limits)
    problems = below_the_law(document)
    if problems:
        raise DocumentError(problems)
    return document
