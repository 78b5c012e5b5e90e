"""A founded breast-cancer federation, its directory short enough for sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.founding import Founded, found
from demo.scenarios import SCENARIOS, DataSource


@dataclass(frozen=True)
class Site:
    """What was founded."""

    founded: Founded


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    directory = Path(tempfile.mkdtemp(prefix="cc-")).resolve()
    yield Site(found(directory, SCENARIOS["breast_cancer"], DataSource()))
    shutil.rmtree(directory)
