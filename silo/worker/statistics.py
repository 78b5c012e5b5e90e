"""Answers a gate that asks for statistics of a policy view: the data are read apart, and no app is unpacked."""

from __future__ import annotations

from collections.abc import Mapping

from federation.statistics.document import Statistics, load_statistics
from silo.channel import Frame
from silo.config import ContractSource, WorkerConfig
from silo.constraint import parse_constraint
from silo.dataset.contract import Contract
from silo.worker.errors import WorkError


def summarised(frame: Frame, config: WorkerConfig, contracts: Mapping[str, Contract]) -> Frame:
    """The statistics that a run asks for, within the view that the policy leaves of its dataset; raises WorkError."""
    from silo.worker.data.reader import summarise_apart  # noqa: PLC0415

    text, constraint = str(frame.fields["run"]), parse_constraint(frame.fields["view"])
    asked = load_statistics(text).model
    source = config.datasets.get(asked.dataset)
    if source is None:
        raise WorkError(f"this worker has no dataset {asked.dataset}")
    if not set(asked.names) <= set(constraint.allow):
        raise WorkError("the run asks for columns that the policy does not allow")
    contract = contracts[asked.dataset] if isinstance(source, ContractSource) else None
    if contract is not None:
        _require_ranges(asked, contract)
    origin = contracts[asked.dataset] if isinstance(source, ContractSource) else source
    found = summarise_apart(origin, text, constraint, config.pseudonym_key, int(frame.fields["cell"]))
    report = {
        "constraint": constraint.digest,
        "consent": constraint.consent,
        "opt_out": constraint.opt_out,
        "contract": None if contract is None else contract.digest,
    }
    return Frame("summarised", {**found, **report})


def _require_ranges(asked: Statistics, contract: Contract) -> None:
    """Raise WorkError where a range has nothing in common with what the contract declares, as in another unit."""
    for name, column in asked.columns.items():
        declared = contract.dataset.columns.get(name)
        reach = None if declared is None else declared.reach
        if reach is None or column.range is None:
            continue
        if column.range[1] < reach[0] or column.range[0] > reach[1]:
            got, expected = (f"{low:g} to {high:g}" for low, high in (column.range, reach))
            raise WorkError(
                f"column {name}: got the range {got}, expected one that overlaps the contract's {expected}",
                advice="the contract says in which unit the column is",
            )
