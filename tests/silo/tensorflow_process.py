"""Checks that need TensorFlow, run one by one in a process that has it: a program's functions named `check_…`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def program(name: str) -> Path:
    """A program beside this file."""
    return Path(__file__).with_name(name)


def checks_of(path: Path) -> list[str]:
    """The names of a program's checks, in its order."""
    return re.findall(r"^def check_(\w+)\(", path.read_text(), re.MULTILINE)


def started(path: Path) -> Iterator[subprocess.Popen[str]]:
    """The process, until the iterator goes on."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        yield process
        process.stdin.close()


def run_check(process: subprocess.Popen[str], name: str) -> None:
    """Have one check run; fails the test with its problem."""
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
