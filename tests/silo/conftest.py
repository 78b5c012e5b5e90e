"""A short directory for sockets, and a consortium whose silo's gate is under test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .limited_gate import Clock, limit
from .simulator import Consortium, GateBench, found_consortium


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a short path, as a Unix socket needs it, that every user may enter."""
    memory = Path("/dev/shm")  # where a log's fsync costs nothing
    path = Path(tempfile.mkdtemp(prefix="cc-", dir=memory if os.access(memory, os.W_OK) else None))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return found_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Another authority's consortium, of the same name and with members of the same names."""
    return found_consortium(tmp_path_factory.mktemp("foreign"))


@pytest.fixture
def bench(consortium: Consortium, short_path: Path) -> Iterator[GateBench]:
    bench = GateBench(consortium, short_path)
    yield bench
    bench.close()


@pytest.fixture
def clock() -> Clock:
    """The clock of a gate with a privacy budget."""
    return Clock()


@pytest.fixture
def limited(bench: GateBench, clock: Clock) -> Iterator[GateBench]:
    """A gate with a privacy budget, a ledger, replies and a clock that the test sets."""
    limit(bench, clock)
    yield bench
    assert bench.ledger is not None
    bench.ledger.close()
