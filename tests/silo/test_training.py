"""Training; each test is a function of one of MODULES, which tensorflow_checks.py runs in one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = ("training_checks", "weighting_checks", "model_checks", "private_training_checks")
HERE = Path(__file__).parent
CHECKS = [
    f"{module}.{name}"
    for module in MODULES
    for name in re.findall(r"^def (check_\w+)\(", (HERE / f"{module}.py").read_text(), re.MULTILINE)
]

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, str(HERE / "tensorflow_checks.py"), *MODULES]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        yield process
        process.stdin.close()


@pytest.mark.parametrize("name", CHECKS)
def test_training(process: subprocess.Popen[str], name: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    print(name, file=process.stdin, flush=True)
    for line in process.stdout:
        said = json.loads(line) if line.startswith("{") else {}
        if "problem" in said:
            if said["problem"] is not None:
                pytest.fail(said["problem"], pytrace=False)
            return
    pytest.fail("the process with TensorFlow ended")


def test_there_are_checks() -> None:
    assert len(CHECKS) == len(set(CHECKS))
    found = {module: sum(name.startswith(f"{module}.") for name in CHECKS) for module in MODULES}
    assert min(found.values()) > 9, found
