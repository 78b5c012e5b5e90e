"""Small datasets with their contracts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from silo.dataset.contract import Contract
from silo.dataset.loading import load_contract

HEAD = "apiVersion: concordat/v1\nkind: Dataset\nmetadata: {name: heart, version: 1}\n"
COLUMNS = """\
columns:
  pid: {type: text, sensitivity: medical_record}
  age: {type: integer, sensitivity: none, unit: a, range: [0, 120]}
  sex: {type: text, sensitivity: none, values: [F, M]}
  sick: {type: boolean, sensitivity: none, required: true}
key: pid
label: sick
"""
CSV = "source: {format: csv, path: heart.csv}\n"
ROWS = "pid,age,sex,sick\nP1,50,F,yes\nP2,,M,no\nP3,70,M,1\n"

Write = Callable[..., Contract]


@pytest.fixture
def contract(tmp_path: Path) -> Write:
    """Writes a contract, and a CSV file of this content beside it, and loads it."""

    def write(source: str = CSV, columns: str = COLUMNS, data: str | bytes | None = ROWS) -> Contract:
        if data is not None:
            content = data.encode() if isinstance(data, str) else data
            (tmp_path / "heart.csv").write_bytes(content)
        path = tmp_path / "heart.dataset.yaml"
        path.write_text(HEAD + source + columns)
        return load_contract(path)

    return write


@pytest.fixture
def pseudonym_key(tmp_path: Path) -> Path:
    path = tmp_path / "pseudonym.key"
    path.write_bytes(b"k" * 32)
    path.chmod(0o600)
    return path
