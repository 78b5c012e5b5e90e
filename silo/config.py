"""`kind: Silo` and `kind: Worker`: what a silo's two processes are told. Neither file tells the other's secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from federation.errors import UsageError
from federation.home import read_limited
from federation.identity import NAME
from federation.limits import LIMITS
from policies.document import Closed, Kind, load_document

MAX_SOCKET_PATH = 100


class SiloConfig(Kind):
    """`kind: Silo`, read by the gate: policy and the socket its worker connects to. It never names data."""

    kind: Literal["Silo"]
    policy: Path
    socket: Path
    worker_uid: Annotated[int, Field(ge=0)] | None = None


class CsvSource(Closed):
    """A table in a CSV file; without `columns` the first line names them."""

    format: Literal["csv"]
    path: Path
    columns: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ("", "NA", "NaN")
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","


class ParquetSource(Closed):
    """A table in a Parquet file."""

    format: Literal["parquet"]
    path: Path


class WorkerConfig(Kind):
    """`kind: Worker`: the data sources, the gate's socket, a scratch directory and the number of threads."""

    kind: Literal["Worker"]
    silo: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    socket: Path
    scratch: Path
    datasets: Annotated[
        dict[str, Annotated[CsvSource | ParquetSource, Field(discriminator="format")]], Field(min_length=1)
    ]
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


def load_silo_config(path: Path) -> SiloConfig:
    """Read a gate's configuration, its paths taken relative to the file."""
    config = load_document(read_limited(path, LIMITS.document), SiloConfig, source=str(path)).model
    base = path.resolve().parent
    resolved = config.model_copy(update={"policy": base / config.policy, "socket": base / config.socket})
    _check_socket(resolved.socket)
    return resolved


def load_worker_config(path: Path) -> WorkerConfig:
    """Read a worker's configuration, its paths taken relative to the file."""
    config = load_document(read_limited(path, LIMITS.document), WorkerConfig, source=str(path)).model
    base = path.resolve().parent
    datasets = {
        name: source.model_copy(update={"path": base / source.path}) for name, source in config.datasets.items()
    }
    resolved = config.model_copy(
        update={"socket": base / config.socket, "scratch": base / config.scratch, "datasets": datasets}
    )
    _check_socket(resolved.socket)
    return resolved


def _check_socket(path: Path) -> None:
    size = len(str(path).encode())
    if size > MAX_SOCKET_PATH:
        raise UsageError(
            f"the socket path {path} has {size} bytes, expected at most {MAX_SOCKET_PATH}",
            advice="choose a shorter path; the kernel allows no longer one",
        )
