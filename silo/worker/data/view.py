"""The policy view: a run's columns of a source, complete rows, training and validation. App code sees nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from federation.run import Run
from silo.config import CsvSource, ParquetSource
from silo.worker.data.regular import require_regular
from silo.worker.errors import DataError


@dataclass(frozen=True)
class PolicyView:
    """Training and validation rows: features float32 (rows, columns), labels float32 0 or 1 (rows, 1)."""

    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.float32]
    validation_x: npt.NDArray[np.float32]
    validation_y: npt.NDArray[np.float32]
    dropped: int
    """Rows left out because a value was missing in one of the columns."""
    digest: str
    """SHA-256 over the columns' names and the values of the view, in order; over contract and rows too, if any."""

    @property
    def rows(self) -> int:
        """The rows of the view, training and validation together."""
        return len(self.train_x) + len(self.validation_x)


def read_columns(
    source: CsvSource | ParquetSource, columns: tuple[str, ...], free: Collection[str] = ()
) -> pd.DataFrame:
    """Read these columns of a source, and no others; missing values are NaN. Raises DataError.

    Every column must hold numbers, but for those in `free`, which are read as they are (from CSV as text).
    """
    require_regular(source.path, pipe=isinstance(source, CsvSource))
    try:
        if isinstance(source, ParquetSource):
            frame = _read_parquet(source.path, columns)
        else:
            frame = pd.read_csv(
                source.path,
                sep=source.separator,
                header=None if source.columns else 0,
                names=list(source.columns) if source.columns else None,
                usecols=list(columns),
                index_col=False,  # else a row longer than the header shifts every column by one
                na_values=list(source.missing),
                keep_default_na=False,
                dtype=dict.fromkeys(free, "str"),
                skipinitialspace=True,
                compression="gzip" if source.path.suffix == ".gz" else None,
            )
        frame = frame[list(columns)]
    except FileNotFoundError:
        raise DataError("the file of the data source is missing") from None
    except PermissionError:
        raise DataError("the file of the data source may not be read by the worker") from None
    except (ValueError, OSError, KeyError) as error:
        raise DataError(
            f"the data source has not the columns or the form the run needs: {type(error).__name__}"
        ) from None
    not_numbers = [name for name in columns if name not in free and not pd.api.types.is_numeric_dtype(frame[name])]
    if not_numbers:
        raise DataError(f"column {not_numbers[0]} holds text, expected numbers; declare its missing-value codes")
    return frame


def _read_parquet(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read on this thread alone: the threads of Arrow's pools would keep the right to the source, and run app code."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        table: pd.DataFrame = file.read(columns=list(columns), use_threads=False).to_pandas(use_threads=False)
        return table


def build_view(frame: pd.DataFrame, run: Run, silo: str) -> PolicyView:
    """Drop incomplete rows and split the rest by the run's seed, the classes in the same share on both sides.

    In a run with privacy each row's side depends on its place in the source and on nothing else, so that no row decides
    whether another is trained on.

    Deterministic for a run's seed, a silo's name and the source's rows. Raises DataError where a side would be empty.
    """
    kept = frame.notna().all(axis="columns").to_numpy(dtype=bool)
    complete = frame[kept]
    features = complete[list(run.features)].to_numpy(dtype=np.float32)
    labels = (complete[run.label.column].to_numpy(dtype=np.float64) > run.label.positive_above).astype(np.float32)
    return split_view(features, labels, run, silo, kept)


def split_view(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    run: Run,
    silo: str,
    kept: npt.NDArray[np.bool_],
    basis: bytes = b"",
) -> PolicyView:
    """Split complete rows by the run's seed; `basis` is what else the view's digest covers. Raises DataError.

    Features are (rows, columns), labels (rows,) of 0 and 1; `kept` says for each row of the source that was not
    withheld whether it is among them.
    """
    generator = np.random.default_rng([run.seed, int.from_bytes(hashlib.sha256(silo.encode()).digest()[:8])])
    if run.privacy is None:
        chosen = _stratified(labels, run.validation.fraction, generator)
    else:
        chosen = (generator.random(len(kept)) < run.validation.fraction)[kept]
    if not 0 < chosen.sum() < len(labels):
        raise DataError(f"the view has {len(labels)} complete rows, too few to train and to validate")
    digest = hashlib.sha256("\0".join(run.columns).encode())
    digest.update(basis)
    for array in (features, labels, chosen):
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return PolicyView(
        train_x=features[~chosen],
        train_y=labels[~chosen, None],
        validation_x=features[chosen],
        validation_y=labels[chosen, None],
        dropped=len(kept) - len(labels),
        digest="sha256:" + digest.hexdigest(),
    )


def _stratified(
    labels: npt.NDArray[np.float32], fraction: float, generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Choose validation rows: the fraction of each class, rounded to whole rows."""
    chosen = np.zeros(len(labels), dtype=bool)
    for value in (0.0, 1.0):
        rows = np.flatnonzero(labels == value)
        chosen[generator.permutation(rows)[: round(fraction * len(rows))]] = True
    return chosen
