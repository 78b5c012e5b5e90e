"""What can go wrong with a document, each problem with its position."""

from collections.abc import Iterable
from dataclasses import dataclass

from policies.wording import visible


class PolicyError(Exception):
    """The root of this package's errors."""


class UndecidableError(PolicyError):
    """A request from which no decision can be drawn; the engine turns it into a refusal."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong at one place; line and column count from 1, and line 0 means the file as a whole."""

    line: int
    column: int
    message: str
    source: str

    @property
    def location(self) -> str:
        """`file:line:column`, or the file alone."""
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    def __str__(self) -> str:
        return f"{visible(self.location)}: {self.message}"


class DocumentError(PolicyError):
    """A document that is not accepted, with every problem found in it, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))
