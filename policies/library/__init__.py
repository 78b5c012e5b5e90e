"""Starter policies with tests, one folder each. They are starting points and no legal advice."""

from pathlib import Path

from policies.errors import PolicyError
from policies.wording import listed, nearest, suggestion

FOLDER = Path(__file__).parent
POLICY = "policy.yaml"
TEST = "policy.test.yaml"


class UnknownStarterError(PolicyError):
    """A name that no starter policy has."""


def starters() -> dict[str, str]:
    """The starter policies: name, and the first line of its comment."""
    found = {}
    for path in sorted(FOLDER.glob(f"*/{POLICY}")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.parent.name] = first.lstrip("# ").rstrip(".")
    return found


def starter(name: str) -> tuple[str, str]:
    """The text of a starter policy and of its test; raises UnknownStarterError."""
    known = starters()
    if name not in known:
        meant = suggestion(nearest(name, known))
        raise UnknownStarterError(f"got {name}, expected one of the starter policies: {listed(known)}{meant}")
    folder = FOLDER / name
    return (folder / POLICY).read_text(encoding="utf-8"), (folder / TEST).read_text(encoding="utf-8")
