"""Drafts a run of statistics from a contract: its columns with the ranges that the contract declares, and no data."""

from __future__ import annotations

import io

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from federation.statistics.document import BINS, COLUMNS
from silo.dataset.contract import Column, Dataset
from silo.worker.errors import DataError

KINDS = ("mean", "variance", "histogram")


def survey(dataset: Dataset, purpose: str) -> str:
    """The text of a run of statistics (kind: Statistics) to be completed by a person; raises DataError.

    Asked for are the columns of class `none` of which the contract says how far they reach, at most COLUMNS.
    """
    asked = {
        name: _asked(column, *column.reach)
        for name, column in dataset.columns.items()
        if column.sensitivity == "none" and column.reach is not None
    }
    if not asked:
        advice = "declare ranges, or lists of values, for columns of class none"
        raise DataError(f"the contract of {dataset.metadata.name} has no column with a range", advice=advice)
    content = CommentedMap(apiVersion="concordat/v1", kind="Statistics")
    content["metadata"] = _flow(name=dataset.metadata.name)
    content["purpose"] = purpose
    content["dataset"] = dataset.metadata.name
    content["columns"] = CommentedMap(list(asked.items())[:COLUMNS])
    content["statistics"] = CommentedSeq(KINDS)
    content["statistics"].fa.set_flow_style()
    left = len(dataset.columns) - len(content["columns"])
    content.yaml_set_start_comment(
        f"Drafted from version {dataset.metadata.version} of the contract. {left} columns are left out: their class is"
        " not none,\nor the contract does not say how far they reach.\n"
    )
    out = io.StringIO()
    writer = YAML()
    writer.width = 200
    writer.dump(content, out)
    return out.getvalue()


def _asked(column: Column, low: float, high: float) -> CommentedMap:
    """The range of a column's histogram; a bin for each value where these are listed."""
    bins = 2 if column.type == "boolean" else len(column.values) if column.values is not None else None
    ends = CommentedSeq(int(end) if end == int(end) else end for end in (low, high))
    ends.fa.set_flow_style()
    return _flow(range=ends, **({"bins": bins} if bins is not None and 2 <= bins <= BINS else {}))


def _flow(**fields: object) -> CommentedMap:
    found = CommentedMap(fields)
    found.fa.set_flow_style()
    return found
