"""The examination of a silo: the gate's side and the worker's, each where it runs. Neither looks at the other's."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography import x509

from federation.doctor.checks import (
    check_certificate,
    check_coordinator,
    check_disk,
    check_manifest,
    check_name,
    check_permissions,
    check_retention,
)
from federation.doctor.findings import Finding, examine, failure, ok, warning
from federation.home import Home, read_limited
from federation.limits import LIMITS, MIB
from federation.manifest import load_manifest
from policies.model import load_policy
from silo.config import (
    ChannelEnd,
    ContractSource,
    CsvSource,
    ParquetSource,
    SiloConfig,
    WorkerConfig,
    load_silo_config,
    load_worker_config,
)
from silo.dataset.loading import load_contract
from silo.dataset.sources import files_of
from silo.devices import check_device, gpu_nodes
from silo.gate.fleet import signed_headers
from silo.gate.place import REGION_VARIABLE, check_place
from silo.transport import check_key_file

LITTLE_SCRATCH = 128 * MIB


def examine_gate(home: Home, path: Path) -> list[Finding]:
    """Examine a gate's home and configuration. It opens no data."""
    found = list(
        examine(
            [
                ("permissions", lambda: check_permissions(home)),
                ("certificate", lambda: check_certificate(home)),
                ("manifest", lambda: check_manifest(home)),
                ("disk", lambda: check_disk(home)),
                ("policy", lambda: _check_policy(home, load_silo_config(path))),
                ("retention", lambda: check_retention(home)),
                ("worker's door", lambda: _check_door(load_silo_config(path))),
            ]
        )
    )
    try:
        address = load_manifest(home).federation.coordinator.addresses[0]
    except Exception:  # noqa: BLE001  the manifest's own check has said what is wrong with it
        return found
    reach = [("name service", lambda: check_name(address)), ("coordinator", lambda: _ask_coordinator(home, address))]
    return found + list(examine(reach))


def examine_worker(path: Path) -> list[Finding]:
    """Examine a worker's configuration and data. Of the data it reads the names of columns and nothing else."""
    config = load_worker_config(path)
    checks = [("scratch", lambda: _check_scratch(config)), ("gate's door", lambda: _check_way(config))]
    checks += [("device", lambda: _check_gpu(config))] if config.device == "gpu" else []
    checks += [(f"dataset {name}", partial(_check_dataset, name, source)) for name, source in config.datasets.items()]
    return list(examine(checks))


def _ask_coordinator(home: Home, address: str) -> Iterator[Finding]:
    return check_coordinator(home, address, signed_headers(home.private_key(), datetime.now(UTC)))


def _check_policy(home: Home, config: SiloConfig) -> Iterator[Finding]:
    policy = load_policy(config.policy, source=config.policy.name)
    named = policy.model.residency.silo
    country = load_manifest(home).federation.member(home.identity().name).country
    if named != country:
        remedy = "correct the one that is wrong; the gate does not start"
        yield failure("policy", f"it places this silo in {named}, the manifest in {country}", remedy)
        return
    check_place(config.place, os.environ.get(REGION_VARIABLE, ""), policy)
    yield ok("policy", f"{policy.model.metadata.name} version {policy.model.metadata.version} loads, silo in {named}")


def _check_door(config: SiloConfig) -> Iterator[Finding]:
    if config.listen is not None:
        yield from _check_channel("worker's door", config.listen)
        return
    assert config.socket is not None  # noqa: S101  the configuration names one of the two
    directory = config.socket.parent
    if directory.exists() and not os.access(directory, os.W_OK):
        yield failure("worker's door", f"{directory} cannot be written", "give it to the gate's user")
    else:
        yield ok("worker's door", f"the worker finds it at {config.socket}")


def _check_channel(check: str, end: ChannelEnd) -> Iterator[Finding]:
    check_key_file(end.key)
    certificate = x509.load_pem_x509_certificate(read_limited(end.certificate, LIMITS.certificate))
    authority = x509.load_pem_x509_certificate(read_limited(end.authority, LIMITS.certificate))
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception as error:  # noqa: BLE001  of the library's several kinds each means the same here
        detail = f"{end.certificate} does not come from {end.authority}: {error or type(error).__name__}"
        yield failure(check, detail, "issue both ends' certificates by one authority")
        return
    yield ok(check, f"{end.address}, certificate until {certificate.not_valid_after_utc:%Y-%m-%d}, for {end.peer}")


def _check_scratch(config: WorkerConfig) -> Iterator[Finding]:
    # What does not exist yet the worker makes, with the directories above it.
    place = next(place for place in (config.scratch, *config.scratch.absolute().parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        yield failure("scratch", f"{place} is no directory that can be written", "give it to the worker's user")
        return
    free = shutil.disk_usage(place).free
    detail = f"{free / (1 << 30):.1f} GiB free at {place}"
    yield (
        ok("scratch", detail) if free > LITTLE_SCRATCH else warning("scratch", detail, "an app's files need room there")
    )


def _check_gpu(config: WorkerConfig) -> Iterator[Finding]:
    check_device(config.device)
    yield ok("device", f"{', '.join(map(str, gpu_nodes()))}; whether TensorFlow can use it, a run shows")


def _check_way(config: WorkerConfig) -> Iterator[Finding]:
    if config.connect is not None:
        yield from _check_channel("gate's door", config.connect)
        return
    assert config.socket is not None  # noqa: S101  the configuration names one of the two
    if config.socket.exists():
        yield ok("gate's door", f"the gate listens at {config.socket}")
    else:
        yield warning("gate's door", f"nobody listens at {config.socket}", "start the gate; the worker waits for it")


def _check_dataset(name: str, source: CsvSource | ParquetSource | ContractSource) -> Iterator[Finding]:
    check = f"dataset {name}"
    if isinstance(source, ContractSource):
        contract = load_contract(source.path)
        names = ", ".join(contract.dataset.columns)
        yield ok(check, f"contract {contract.name}, {len(contract.dataset.columns)} columns: {names}"[:300])
        missing = [file for file in files_of(contract.dataset.source) if not os.access(file, os.R_OK)]
        if missing:
            remedy = "correct the contract's source, or grant the worker's user read access to it"
            yield failure(check, f"{missing[0]} is missing or may not be read", remedy)
        return
    if not source.path.exists():
        yield failure(check, f"{source.path} is missing", "correct datasets in worker.yaml, or mount the data")
        return
    if not os.access(source.path, os.R_OK):
        yield failure(check, f"{source.path} may not be read by this user", "grant the worker's user read access to it")
        return
    columns = _columns(source)
    if len(set(columns)) < len(columns):
        yield failure(check, f"a column's name comes twice in {source.path}", "give every column a name of its own")
    elif len(columns) < 2:
        detail = f"{source.path} has one column"
        yield failure(check, detail, "see whether separator in worker.yaml is the file's")
    else:
        yield ok(check, f"{len(columns)} columns: {', '.join(columns)}"[:300])


def _columns(source: CsvSource | ParquetSource) -> list[str]:
    if isinstance(source, ParquetSource):
        import pyarrow.parquet as pq  # noqa: PLC0415  only where there is such a file

        try:
            return [str(column) for column in pq.read_schema(source.path).names]
        except ValueError as error:
            raise OSError(f"{source.path} is no Parquet file: {type(error).__name__}") from None
    if source.columns:
        return list(source.columns)
    with source.path.open(encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader([file.readline(MIB)], delimiter=source.separator), [])
