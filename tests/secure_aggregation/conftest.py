"""Seven silos with certified keys."""

from __future__ import annotations

import pytest

from .attempt import Silos, found_silos


@pytest.fixture(scope="session")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Silos:
    return found_silos(tmp_path_factory.mktemp("silos"), 7)


@pytest.fixture(scope="session")
def impostors(tmp_path_factory: pytest.TempPathFactory) -> Silos:
    """Another authority's silos, of the same names."""
    return found_silos(tmp_path_factory.mktemp("impostors"), 7)
