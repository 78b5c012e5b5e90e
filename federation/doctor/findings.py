"""A finding, and how findings are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from audit.errors import AuditError
from federation.errors import ConcordatError
from policies.errors import PolicyError


class State(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is, how it is, and what to do where it is not well."""

    check: str
    state: State
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line."""
        text = f"{self.state.value:8} {self.check:14} {self.detail}"
        return f"{text}; {self.remedy}" if self.remedy else text


def ok(check: str, detail: str) -> Finding:
    """A finding that asks for nothing."""
    return Finding(check, State.OK, detail)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """Something that will be a problem, or may be one."""
    return Finding(check, State.WARNING, detail, remedy)


def failure(check: str, detail: str, remedy: str) -> Finding:
    """Something that has to be mended."""
    return Finding(check, State.FAILURE, detail, remedy)


def examine(checks: Iterable[tuple[str, Callable[[], Iterable[Finding]]]]) -> Iterator[Finding]:
    """Make every check, also after one that could not be made: that one is a failure."""
    for name, check in checks:
        try:
            yield from check()
        except ConcordatError as error:
            yield failure(name, error.args[0], error.advice or "mend what is named")
        except (PolicyError, AuditError) as error:
            yield failure(name, str(error), "mend what is named")
        except OSError as error:
            yield failure(name, str(error), "see that the file is there and that this user may read it")


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing has to be mended."""
    return all(finding.state is not State.FAILURE for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """The findings as one JSON object."""
    return json.dumps({"well": is_well(findings), "findings": [asdict(finding) for finding in findings]}, indent=1)
