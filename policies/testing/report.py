"""The result of tests as text."""

from collections.abc import Iterator, Sequence

from policies.explanation import trace_lines
from policies.testing.coverage import Coverage
from policies.testing.runner import Outcome, Tested
from policies.wording import counted

TRACED = 5
"""How many failed cases are shown with what every rule said: many fail of one cause, and the first tell it."""


def failures(tested: Sequence[Tested]) -> Iterator[str]:
    """The lines about every case that failed: where it stands, what differs, what decided and why.

    The first `TRACED` of them with what every rule said.
    """
    failed = [outcome for one in tested for outcome in one.outcomes if not outcome.passed]
    for number, outcome in enumerate(failed):
        yield from _failure(outcome)
        if number < TRACED:
            yield from (f"  {line}" for line in trace_lines(outcome.steps))
    if len(failed) > TRACED:
        yield f"what every rule said is shown of the first {TRACED} failed cases; mend those, and run the tests again"


def gaps(coverages: Sequence[Coverage]) -> Iterator[str]:
    """The lines about what tests do not cover."""
    for coverage in coverages:
        for rule in coverage.missing:
            yield f"{coverage.policy.source}: no passing case is decided by {rule}"
        if not coverage.allows:
            yield f"{coverage.policy.source}: no passing case is allowed"


def summary(tested: Sequence[Tested]) -> str:
    """`12 passed, 1 failed in 2 files`."""
    outcomes = [outcome for one in tested for outcome in one.outcomes]
    failed = sum(not outcome.passed for outcome in outcomes)
    return f"{len(outcomes) - failed} passed, {failed} failed in {counted(len(tested), 'file')}"


def covered(coverages: Sequence[Coverage]) -> str:
    """`11 of 12 rules seen to decide in 1 policy`."""
    used = sum(len(coverage.used) for coverage in coverages)
    missing = sum(len(coverage.missing) for coverage in coverages)
    return f"{used - missing} of {counted(used, 'rule')} seen to decide in {counted(len(coverages), 'policy')}"


def _failure(outcome: Outcome) -> Iterator[str]:
    decision = outcome.decision
    yield f"{outcome.location}: {outcome.name}"
    for difference in outcome.differences:
        yield f"    {difference}"
    yield f"    {decision.location}: {decision.reason}"
    if decision.remedy:
        yield f"    remedy: {decision.remedy}"
