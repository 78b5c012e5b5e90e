"""Builds a view from a contract's source, chunk by chunk: what memory holds is one chunk, beside the view itself."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from silo.constraint import Constraint
from silo.dataset.contract import Contract
from silo.dataset.sources import name_of
from silo.worker.data.cells import FALSE, TRUE, FaultError, Numbers, Typed, refused
from silo.worker.data.generalise import as_text, generalised, pseudonyms, viewable
from silo.worker.data.keyed import NO_KEY, keyed
from silo.worker.data.sources import typed_chunks
from silo.worker.errors import DataError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """What a run and the policy ask of a dataset with a contract."""

    contract: Contract
    features: tuple[str, ...]
    label: str
    positive_above: float
    constraint: Constraint

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the view, features first."""
        return tuple(dict.fromkeys((*self.features, self.label)))

    @property
    def consents(self) -> tuple[str, ...]:
        """The columns that must say yes: the policy's and the contract's."""
        found = (self.constraint.consent, self.contract.dataset.consent)
        return tuple(name for name in dict.fromkeys(found) if name is not None)

    @property
    def deciding(self) -> tuple[str, ...]:
        """The columns that decide on rows."""
        opt_out = self.constraint.opt_out
        return tuple(dict.fromkeys((*self.consents, *((opt_out,) if opt_out else ()))))

    @property
    def read(self) -> tuple[str, ...]:
        """Every column that is read, each once."""
        key = self.contract.dataset.key
        return tuple(dict.fromkeys((*self.columns, *self.deciding, *((key,) if key else ()))))

    def check(self, *, key: bool) -> None:
        """Raise DataError where the contract has not what is asked, or where it cannot be part of a view."""
        columns = self.contract.dataset.columns
        for name in self.read:
            if name not in columns:
                raise DataError(f"the contract of {self.contract.name} has no column {name}")
        for name in self.columns:
            pseudonymized = name in self.constraint.pseudonymize
            if pseudonymized and not key:
                raise DataError(NO_KEY)
            viewable(name, columns[name], pseudonymized=pseudonymized, key=key)


@dataclass
class Tally:
    """What was left out, and a digest of which rows were not."""

    withheld: int = 0
    kept: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    """Chunk by chunk, for each row that was not withheld, whether it is complete."""
    _lengths: Any = field(default_factory=hashlib.sha256)
    _texts: Any = field(default_factory=hashlib.sha256)
    rows: int = 0

    def take(self, identities: pa.Array, start: hmac.HMAC | None) -> None:
        """Count rows in; their lengths go into one digest and their texts into another, so that no two lists agree."""
        if self.rows == 0 and start is not None:
            self._lengths, self._texts = start.copy(), start.copy()
        self.rows += len(identities)
        lengths = pc.fill_null(pc.binary_length(identities), -1).to_numpy(zero_copy_only=False)
        self._lengths.update(np.ascontiguousarray(lengths, dtype="<i4").data.cast("B"))
        self._texts.update(_bytes_of(pc.fill_null(identities, "")))

    @property
    def identities(self) -> str:
        """The digest of the rows' identities, in order; keyed where the worker has a key."""
        return hashlib.sha256(self._lengths.digest() + self._texts.digest()).hexdigest()


@dataclass(frozen=True)
class Part:
    """Rows of a view: features float32 (rows, columns), labels float32 0 or 1 (rows,)."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]


def parts(asked: Asked, key: Path | None, tally: Tally) -> Iterator[Part]:
    """The view chunk by chunk; raises DataError with file, row and column."""
    asked.check(key=key is not None)
    with keyed(key) if key is not None else nullcontext() as start:
        before = 0
        for chunk in typed_chunks(asked.contract, asked.read):
            rows = len(chunk[asked.read[0]])
            yield _part(asked, chunk, before, start, tally)
            before += rows


def _part(asked: Asked, chunk: dict[str, Typed], before: int, start: hmac.HMAC | None, tally: Tally) -> Part:
    rows = len(chunk[asked.read[0]])
    consenting = np.ones(rows, dtype=bool)
    for name in asked.consents:
        consenting &= said(chunk[name], yes=True)
    if asked.constraint.opt_out is not None:
        consenting &= said(chunk[asked.constraint.opt_out], yes=False)
    kept = consenting.copy()
    for name in asked.columns:
        kept &= ~absent(chunk[name])
    tally.withheld += rows - int(consenting.sum())
    tally.kept.append(kept[consenting])
    key = asked.contract.dataset.key
    identities = None if key is None else _chosen(as_text(chunk[key], asked.contract.dataset.columns[key]), kept)
    named = identities
    if named is None or start is None:
        named = pa.array(np.flatnonzero(kept) + before).cast(pa.string())
    tally.take(named, start)
    features = np.empty((len(named), len(asked.features)), dtype=np.float32)
    columns = asked.contract.dataset.columns

    def numbers(name: str) -> Numbers:
        values = _chosen(chunk[name], kept)
        if name in asked.constraint.pseudonymize and start is not None:
            return pseudonyms(values, name, columns[name], start)
        try:
            return generalised(values, columns[name], identities, start)
        except FaultError as fault:
            row = before + int(np.flatnonzero(kept)[fault.index]) + 1
            raise refused(name_of(asked.contract.dataset.source), row, name, fault.message) from None

    for index, name in enumerate(asked.features):
        features[:, index] = numbers(name)
    labels = (numbers(asked.label) > asked.positive_above).astype(np.float32)
    return Part(features, labels)


def _bytes_of(texts: pa.Array) -> memoryview:
    """The texts' own bytes, one after another, as Arrow holds them."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return memoryview(b"")
    ends = np.frombuffer(offsets, dtype="<i4")[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[ends[0] : ends[-1]]


def absent(found: Typed) -> Mask:
    """Which values are missing."""
    mask: Mask = found.is_null().to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else np.isnan(found)
    return mask


def said(found: Typed, *, yes: bool) -> Mask:
    """Which rows say a clear yes, or a clear no; every other value says neither."""
    if isinstance(found, pa.Array):
        words = pc.utf8_lower(pc.utf8_trim_whitespace(found))
        clear: Mask = pc.is_in(words, value_set=pa.array(TRUE if yes else FALSE)).to_numpy(zero_copy_only=False)
        return clear
    answer: Mask = found == (1.0 if yes else 0.0)
    return answer


def _chosen(found: Typed, kept: Mask) -> Typed:
    if kept.all():
        return found
    return found.filter(pa.array(kept)) if isinstance(found, pa.Array) else found[kept]
