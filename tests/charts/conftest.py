"""The images' trees, made once by the script that the Containerfiles call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .rendering import ROOT

TARGETS = ("coordinator", "gate", "worker")


@pytest.fixture(scope="session")
def images() -> Iterator[Mapping[str, Path]]:
    """The trees of the three images; hard links into the installer's cache where the file system allows."""
    place = Path(tempfile.mkdtemp(prefix="c-images-", dir=ROOT / ".venv"))
    try:
        with ThreadPoolExecutor(len(TARGETS)) as pool:
            list(pool.map(lambda target: install(target, place / target), TARGETS))
        yield {target: place / target for target in TARGETS}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def install(target: str, prefix: Path) -> None:
    """Run the script; everything is in the installer's cache where the set-up ran, else it is fetched."""
    uv, python = Path(sys.executable).with_name("uv"), Path(sys.executable)
    environment = {**os.environ, "UV": str(uv), "PYTHON": str(python), "COMPILE": "no"}
    command = [str(ROOT / "images" / "install"), target, str(prefix)]
    done = subprocess.run(command, env={**environment, "UV_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(prefix, ignore_errors=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
