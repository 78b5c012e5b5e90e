"""Runs the cases of a test against a policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.decision import Decision
from policies.document import Document
from policies.engine import Step, decide, trace
from policies.errors import DocumentError, Problem
from policies.facts import MissingFactsError, build, given, merged
from policies.limits import LIMITS
from policies.model import SiloPolicy, load_policy
from policies.request import Request
from policies.testing.model import PolicyTest, load_test, stages_given
from policies.tree import Node, PathKey, Position
from policies.wording import listed

SUFFIX = ".test.yaml"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case: the decision, and how it differs from the expected one."""

    name: str
    location: str
    stage: str
    request: Request
    expected: str
    decision: Decision
    steps: tuple[Step, ...]
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Tested:
    """A test file that was run: its policy and what became of its cases."""

    test: Document[PolicyTest]
    policy: Document[SiloPolicy]
    outcomes: tuple[Outcome, ...]


def run_file(path: Path) -> Tested:
    """Run the cases of a test file against the policy it names; raises DocumentError with what is wrong in either."""
    test = load_test(path)
    policy = load_policy(path.parent / test.model.policy)
    return run(test, policy)


def run(test: Document[PolicyTest], policy: Document[SiloPolicy]) -> Tested:
    """Run every case against a policy; raises DocumentError where a case lacks facts or points at no field."""
    outcomes: list[Outcome] = []
    problems: list[Problem] = []
    for index in range(len(test.model.cases)):
        try:
            outcomes.append(_case(test, policy, index))
        except DocumentError as error:
            problems += error.problems
    if problems:
        raise DocumentError(problems)
    return Tested(test, policy, tuple(outcomes))


def find(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The test files and the policies under files and directories; raises DocumentError for more than the limit.

    A file that is named is taken as it is; in a directory test files end in .test.yaml, and a policy is a
    .yaml file whose kind is SiloPolicy.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*.yaml")) if path.is_dir() else [path])]
    if len(files) > LIMITS.test_files:
        message = f"got {len(files)} files, expected at most {LIMITS.test_files}"
        raise DocumentError([Problem(0, 0, message, str(paths[0]))])
    named = {path for path in paths if not path.is_dir()}
    tests = [file for file in files if file.name.endswith(SUFFIX) or (file in named and not _is_policy(file))]
    policies = [file for file in files if file not in tests and _is_policy(file)]
    return list(dict.fromkeys(tests)), list(dict.fromkeys(policies))


def _is_policy(path: Path) -> bool:
    """Whether a file says that it is a policy, be it valid or not."""
    try:
        with path.open("rb") as file:
            head = file.read(LIMITS.document_bytes)
    except OSError:
        return False
    return any(line.split(b"#")[0].split() == [b"kind:", b"SiloPolicy"] for line in head.splitlines())


def _case(test: Document[PolicyTest], policy: Document[SiloPolicy], index: int) -> Outcome:
    case = test.model.cases[index]
    (stage,) = stages_given(case)
    facts = given(getattr(case, stage))
    base = test.model.requests[case.base] if case.base is not None else None
    if base is not None and stage in stages_given(base):
        facts = merged(given(getattr(base, stage)), facts)
    try:
        request = build(stage, facts)
    except MissingFactsError as error:
        where = f'neither here nor in "{case.base}"' if case.base else "here"
        raise _problem(test, ("cases", index, stage), f"got no {listed(error.names)} {where}, expected it") from None
    now = case.now or test.model.now
    decision = decide(policy, request, now)
    differences = []
    if decision.effect != case.expect or (case.rule is not None and decision.rule != case.rule):
        differences.append(f"expected {_expected(case.expect, case.rule)}, got {decision.effect} by {decision.rule}")
    if case.at is not None:
        place = policy.root.locate(_path(test, policy, index, case.at))
        found = decision.location.rsplit(":", 2)[-2:]
        if [str(number) for number in place] != found:
            differences.append(f"expected the place of {case.at} ({place[0]}:{place[1]}), got {':'.join(found)}")
    return Outcome(
        case.name,
        test.locate(("cases", index)),
        stage,
        request,
        _expected(case.expect, case.rule),
        decision,
        trace(policy, request, now) if differences else (),
        tuple(differences),
    )


def _expected(effect: str, rule: str | None) -> str:
    return f"{effect} by {rule}" if rule else effect


def _path(test: Document[PolicyTest], policy: Document[SiloPolicy], index: int, text: str) -> tuple[PathKey, ...]:
    path = path_of(policy.root, text)
    if path is None:
        message = f'got "{text}", expected a field that is in {policy.source}, as datasets.heart.rows.minimum'
        raise _problem(test, ("cases", index, "at"), message)
    return path


def path_of(root: Node, text: str) -> tuple[PathKey, ...] | None:
    """The path of a field written with dots, items of lists by their number from 0; None where there is none.

    A key may itself hold dots, so every split of the text is tried, the longest key first.
    """
    parts = text.split(".")
    for size in range(len(parts), 0, -1):
        head = ".".join(parts[:size])
        key: PathKey = int(head) if root.items is not None and head.isdecimal() and len(head) < 6 else head
        found = root.child(key)
        if found is None:
            continue
        if size == len(parts):
            return (key,)
        rest = path_of(found[1], ".".join(parts[size:]))
        if rest is not None:
            return (key, *rest)
    return None


def _problem(test: Document[PolicyTest], path: tuple[PathKey, ...], message: str) -> DocumentError:
    position: Position = test.root.locate(path)
    return DocumentError([Problem(*position, message, test.source)])
