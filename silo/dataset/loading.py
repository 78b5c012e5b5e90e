"""Reads a contract from its file: of the kit's own kind, or of the Open Data Contract Standard."""

from __future__ import annotations

from pathlib import Path

from federation.home import read_limited
from federation.limits import LIMITS
from policies.document import load_document
from policies.errors import DocumentError
from policies.reader import parse
from silo.dataset.contract import Contract, Dataset
from silo.dataset.odcs import KIND, OpenContract, dataset_of
from silo.dataset.sources import resolved


def load_contract(path: Path) -> Contract:
    """Read a contract, its paths taken relative to the file; raises DocumentError with file, line and column."""
    content = read_limited(path, LIMITS.document)
    if kind_of(content, str(path)) == KIND:
        open_contract = load_document(content, OpenContract, source=str(path))
        dataset, digest = dataset_of(open_contract), open_contract.digest
    else:
        document = load_document(content, Dataset, source=str(path))
        dataset, digest = document.model, document.digest
    source = resolved(dataset.source, path.resolve().parent)
    return Contract(dataset.model_copy(update={"source": source}), digest, path.resolve())


def kind_of(content: bytes, source: str) -> object:
    """The kind that a document says it is; None where it cannot be read, which is told when it is loaded."""
    try:
        root, _ = parse(content.decode("utf-8-sig"), source)
    except (UnicodeDecodeError, DocumentError):
        return None
    found = root.child("kind") if root is not None and root.entries is not None else None
    return found[1].value if found is not None else None
