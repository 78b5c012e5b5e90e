"""Private and partial training; each test is a function of private_training_checks.py, run in one process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from .tensorflow_process import checks_of, program, run_check, started

PROGRAM = program("private_training_checks.py")
CHECKS = checks_of(PROGRAM)

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    yield from started(PROGRAM)


@pytest.mark.parametrize("name", CHECKS)
def test_training(process: subprocess.Popen[str], name: str) -> None:
    run_check(process, name)


def test_there_are_checks() -> None:
    assert len(CHECKS) == len(set(CHECKS)) > 15
