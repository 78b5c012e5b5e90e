"""Runs every test under some paths and says whether all is well."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.document import Document
from policies.errors import DocumentError
from policies.model import SiloPolicy, load_policy
from policies.testing.coverage import Coverage, coverage
from policies.testing.runner import Tested, find, run_file


@dataclass(frozen=True, slots=True)
class Suite:
    """What running some tests gave: the cases, the files that could not be read, what is covered if that was asked."""

    files: tuple[Path, ...]
    tested: tuple[Tested, ...]
    problems: tuple[tuple[str, str], ...]
    coverages: tuple[Coverage, ...]

    @property
    def passed(self) -> bool:
        """Whether there was a test, every file was read, every case passed and, if asked, everything is covered."""
        cases = all(outcome.passed for one in self.tested for outcome in one.outcomes)
        return bool(self.files) and not self.problems and cases and all(one.complete for one in self.coverages)


def run_paths(paths: Sequence[Path], *, require_tests: bool = False) -> Suite:
    """Run the tests under files and directories; raises DocumentError for more files than the limit."""
    files, policies = find(paths)
    tested: list[Tested] = []
    problems: list[tuple[str, str]] = []
    for file in files:
        try:
            tested.append(run_file(file))
        except DocumentError as error:
            problems.append((str(file), str(error)))
    coverages = _coverages(tested, policies, problems) if require_tests else []
    return Suite(tuple(files), tuple(tested), tuple(problems), tuple(coverages))


def _coverages(tested: Sequence[Tested], policies: Sequence[Path], problems: list[tuple[str, str]]) -> list[Coverage]:
    """What is covered of each policy that a test names or that lies under the paths."""
    loaded: dict[Path, Document[SiloPolicy]] = {Path(one.policy.source).resolve(): one.policy for one in tested}
    for path in policies:
        if path.resolve() in loaded:
            continue
        try:
            loaded[path.resolve()] = load_policy(path)
        except DocumentError as error:
            problems.append((str(path), str(error)))
    coverages = []
    for path, policy in loaded.items():
        own = [one for one in tested if Path(one.policy.source).resolve() == path]
        now = own[0].test.model.now if own else dt.datetime.now(dt.UTC)
        coverages.append(coverage(policy, [outcome for one in own for outcome in one.outcomes], now))
    return coverages
