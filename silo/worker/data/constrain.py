"""Keeps what the policy asks of a view: rows left out, values replaced by pseudonyms. Runs before any app code."""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from silo.constraint import Constraint
from silo.worker.data.keyed import NO_KEY, keyed, pseudonym
from silo.worker.errors import DataError

YES = frozenset({"1", "1.0", "true", "yes", "y"})
NO = frozenset({"0", "0.0", "false", "no", "n"})


@dataclass(frozen=True)
class Constrained:
    """The rows that may be used, and how many were left out for want of consent or for an objection."""

    frame: pd.DataFrame
    withheld: int


def constrain(frame: pd.DataFrame, constraint: Constraint, key: Path | None) -> Constrained:
    """Leave out rows, drop the columns that decide on them, and replace values by pseudonyms; raises DataError.

    The frame's columns are those of the view and the deciding ones, which hold any values; so do the columns to be
    replaced. A missing value stays missing.
    """
    keep = pd.Series(data=True, index=frame.index)
    for column, words in ((constraint.consent, YES), (constraint.opt_out, NO)):
        if column is not None:
            keep &= _words(frame[column]).isin(words)
    kept = frame[keep]
    replaced = [column for column in frame.columns if column in constraint.pseudonymize]
    if replaced and key is None:
        raise DataError(NO_KEY)
    if replaced and key is not None:
        kept = kept.copy()
        with keyed(key) as start:
            for column in replaced:
                kept[column] = _pseudonyms(kept[column], column, start)
    view = [column for column in kept.columns if column not in constraint.deciding]
    return Constrained(kept[view], int((~keep).sum()))


def _words(values: pd.Series) -> pd.Series:
    return values.map(lambda value: "" if pd.isna(value) else str(value).strip().lower())


def _pseudonyms(values: pd.Series, column: str, start: hmac.HMAC) -> pd.Series:
    known: dict[str, float] = {}

    def replacement(value: Any) -> float:
        if pd.isna(value):
            return math.nan
        text = str(value).strip()
        if text not in known:
            known[text] = pseudonym(text, column, start)
        return known[text]

    return values.map(replacement).astype("float64")
