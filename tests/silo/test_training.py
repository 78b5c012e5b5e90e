"""FedProx on a Keras model; each test is a function of training_checks.py, run in one process that has TensorFlow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("training_checks.py")
CHECKS = re.findall(r"^def check_(\w+)\(", PROGRAM.read_text(), re.MULTILINE)

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ) as started:
        assert started.stdin is not None
        yield started
        started.stdin.close()


@pytest.mark.parametrize("name", CHECKS)
def test_training(process: subprocess.Popen[str], name: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    print(f"check_{name}", file=process.stdin, flush=True)
    for line in process.stdout:
        said = json.loads(line) if line.startswith("{") else {}
        if "problem" in said:
            if said["problem"] is not None:
                pytest.fail(said["problem"], pytrace=False)
            return
    pytest.fail("the process with TensorFlow ended")


def test_there_are_checks() -> None:
    assert len(CHECKS) == len(set(CHECKS)) > 20
