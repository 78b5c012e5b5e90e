"""`kind: Silo` and `kind: Worker`: what a silo's two processes are told. Neither file tells the other's secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from federation.addresses import split_address
from federation.errors import UsageError
from federation.home import read_limited
from federation.identity import NAME
from federation.limits import LIMITS
from policies.document import Closed, Kind, load_document
from policies.rules import RULES
from policies.scalars import Misfit, Unique, misfit, misfits
from policies.vocabulary.places import Country
from policies.wording import nearest
from silo.dataset.contract import Contract
from silo.dataset.loading import load_contract
from silo.devices import Device

MAX_SOCKET_PATH = 100

HostPort = Annotated[str, Field(max_length=300)]
"""`host:port`, or `[v6]:port`."""

DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""A DNS name as a certificate carries it."""


class ChannelEnd(Closed):
    """One end of the channel between gate and worker where they run in two pods: TLS 1.3, a certificate on both sides.

    `authority` is a small certificate authority of this silo's own; `peer` is the DNS name that the other end's
    certificate has to carry.
    """

    address: HostPort
    certificate: Path
    key: Path
    authority: Path
    peer: DnsName


class Place(Closed):
    """Where the institution says that this silo's machines stand; checked against the policy and what can be seen."""

    country: Country
    regions: tuple[Annotated[str, Field(min_length=1, max_length=63)], ...] = ()


def _observable(rule: str) -> str:
    """A rule whose refusals may be recorded only; one that is mandatory always refuses."""
    known = {name: found for name, found in RULES.items() if not found.mandatory and name.split(".")[-1] != "allow"}
    if rule not in known:
        advice = f"{rule} is mandatory: it always refuses" if rule in RULES else None
        raise misfit("the id of a rule that is not mandatory", meant=nearest(rule, known), advice=advice)
    return rule


class ApprovalsConfig(Closed):
    """Where reviewers' approvals lie, and the public key of each reviewer."""

    directory: Path
    reviewers: Annotated[
        dict[Annotated[str, Field(pattern=f"^{NAME.pattern}$")], Path], Field(min_length=1, max_length=100)
    ]


class SiloConfig(Kind):
    """`kind: Silo`, read by the gate: policy and where its worker connects to. It never names data."""

    kind: Literal["Silo"]
    policy: Path
    socket: Path | None = None
    worker_uid: Annotated[int, Field(ge=0)] | None = None
    observe: Annotated[tuple[Annotated[str, AfterValidator(_observable)], ...], Unique] = ()
    policy_signer: Path | None = None
    approvals: ApprovalsConfig | None = None
    listen: ChannelEnd | None = None
    place: Place | None = None
    metrics: HostPort | None = None

    @model_validator(mode="after")
    def _one_channel(self) -> SiloConfig:
        _check_one(self.socket, self.listen, "listen")
        if self.listen is not None and self.worker_uid is not None:
            misfits([Misfit("no worker_uid beside listen: another pod's user id cannot be seen", ("worker_uid",))])
        return self


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


class ContractSource(Closed):
    """A dataset that a contract describes (kind: Dataset, or an Open Data Contract Standard file)."""

    format: Literal["contract"]
    path: Path


DatasetSource = Annotated[CsvSource | ParquetSource | ContractSource, Field(discriminator="format")]


class WorkerConfig(Kind):
    """`kind: Worker`: the data sources, the gate's socket, a scratch directory, threads and device."""

    kind: Literal["Worker"]
    silo: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    socket: Path | None = None
    connect: ChannelEnd | None = None
    scratch: Path
    datasets: Annotated[dict[str, DatasetSource], Field(min_length=1)]
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    device: Device = "auto"
    pseudonym_key: Path | None = None

    @model_validator(mode="after")
    def _one_channel(self) -> WorkerConfig:
        _check_one(self.socket, self.connect, "connect")
        return self


def load_silo_config(path: Path) -> SiloConfig:
    """Read a gate's configuration, its paths taken relative to the file."""
    config = load_document(read_limited(path, LIMITS.document), SiloConfig, source=str(path)).model
    base = path.resolve().parent
    approvals = config.approvals and ApprovalsConfig(
        directory=base / config.approvals.directory,
        reviewers={name: base / key for name, key in config.approvals.reviewers.items()},
    )
    if config.metrics is not None:
        split_address(config.metrics)
    return config.model_copy(
        update={
            "policy": base / config.policy,
            "socket": _socket(base, config.socket),
            "listen": _channel_end(base, config.listen),
            "policy_signer": config.policy_signer and base / config.policy_signer,
            "approvals": approvals,
        }
    )


def load_worker_config(path: Path, gate: str | None = None) -> WorkerConfig:
    """Read a worker's configuration, its paths taken relative to the file; `gate` replaces the address in `connect`."""
    config = load_document(read_limited(path, LIMITS.document), WorkerConfig, source=str(path)).model
    base = path.resolve().parent
    datasets = {
        name: source.model_copy(update={"path": base / source.path}) for name, source in config.datasets.items()
    }
    connect = config.connect
    if gate is not None:
        if connect is None:
            raise UsageError(f"got the gate's address {gate[:300]!r}, expected none: {path} names a socket")
        connect = connect.model_copy(update={"address": gate})
    return config.model_copy(
        update={
            "socket": _socket(base, config.socket),
            "connect": _channel_end(base, connect),
            "scratch": base / config.scratch,
            "datasets": datasets,
            "pseudonym_key": config.pseudonym_key and base / config.pseudonym_key,
        }
    )


def contracts_of(config: WorkerConfig) -> dict[str, Contract]:
    """The contracts of a worker's datasets, by the dataset's name; raises DocumentError."""
    sources = config.datasets.items()
    return {name: load_contract(source.path) for name, source in sources if isinstance(source, ContractSource)}


def _check_one(socket: Path | None, end: ChannelEnd | None, name: str) -> None:
    if (socket is None) == (end is None):
        misfits([Misfit(f"either socket (one host) or {name} (two pods)", ("socket",) if socket else ())])


def _channel_end(base: Path, end: ChannelEnd | None) -> ChannelEnd | None:
    """A channel's end with its paths taken relative to `base`; raises UsageError for an address that is none."""
    if end is None:
        return None
    split_address(end.address)
    return end.model_copy(update={name: base / getattr(end, name) for name in ("certificate", "key", "authority")})


def _socket(base: Path, path: Path | None) -> Path | None:
    if path is None:
        return None
    socket = base / path
    size = len(str(socket).encode())
    if size > MAX_SOCKET_PATH:
        raise UsageError(
            f"the socket path {socket} has {size} bytes, expected at most {MAX_SOCKET_PATH}",
            advice="choose a shorter path; the kernel allows no longer one",
        )
    return socket
