"""No secret is compared byte by byte: how long that takes would say how much of a guess was right."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("audit", "coordinator", "demo", "federation", "policies", "silo", "simulation")
SECRET = re.compile(r"token|secret|hmac|\bmac\b|passphrase|password|pseudonym|private|seed|\bpin\b", re.I)
NO_SECRET = re.compile(r"public|tokenize\.")
"""Public keys, and the tokens of Python's own grammar."""
CONSTANTS = (ast.Constant, ast.List, ast.Tuple, ast.Set)

LOOKED_AT = {
    "federation/joining.py": {"request.token != invitation.token"},  # both of one's own files, at the invited member
    "coordinator/unmasking.py": {"commitment(secret) == advert.commitment"},  # the commitment is published
}
"""Comparisons whose words look like a secret's, and why nobody learns anything by their time."""


def comparisons(path: Path) -> Iterator[str]:
    """Each `==` and `!=` of two values that are not written out in the program."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            continue
        if not isinstance(node.left, CONSTANTS) and not isinstance(node.comparators[0], CONSTANTS):
            yield ast.unparse(node)


def found() -> dict[str, set[str]]:
    """By file, the comparisons that speak of a secret."""
    out: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            suspect = {one for one in comparisons(path) if SECRET.search(one) and not NO_SECRET.search(one)}
            if suspect:
                out[str(path.relative_to(ROOT))] = suspect
    return out


def test_every_comparison_that_speaks_of_a_secret_was_looked_at():
    assert found() == LOOKED_AT


def test_the_search_finds_what_it_is_for(tmp_path: Path):
    """The control of the test above."""
    path = tmp_path / "m.py"
    path.write_text("if offered.token == kept.token or mode == 'token' or given_hmac != expected: pass\n")
    assert list(comparisons(path)) == ["offered.token == kept.token", "given_hmac != expected"]
