"""The page on confinement lists the system calls that the filter allows."""

from __future__ import annotations

import re
from pathlib import Path

from silo.system_calls import ALLOWED, CONDITIONAL, OWN_IPC, TOLD_ABSENT

PAGE = (Path(__file__).parents[2] / "docs" / "confinement.md").read_text()


def _row(name: str) -> set[str]:
    (row,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", PAGE, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row))


def test_every_group_of_allowed_calls_is_in_the_table() -> None:
    for group, calls in ALLOWED.items():
        assert _row(group) == {call.name for call in calls}
    listed = PAGE[PAGE.index("| for | allowed |") : PAGE.index("Allowed for some")]
    assert listed.count("\n|") == 1 + len(ALLOWED), "a row that the code does not have"


def test_conditional_and_absent_calls_are_listed() -> None:
    table = PAGE[PAGE.index("| call | for |") : PAGE.index("Answered as by a kernel")]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [call.name for call in CONDITIONAL]
    line = next(line for line in PAGE.splitlines() if line.startswith("Answered as by a kernel"))
    assert re.findall(r"`(\w+)`", line) == [call.name for call in TOLD_ABSENT]


def test_calls_of_an_ipc_namespace_of_the_runs_own_are_listed() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("Allowed in an IPC namespace"))
    assert re.findall(r"`(\w+)`", line) == [call.name for call in OWN_IPC]
