"""Checks whatever a party hands over: a log, an export, a bundle or a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit import verify
from audit.errors import VerificationError
from audit.limits import LIMITS

BY_KEY = "by the key that was given"
BESIDE = "consistent, but the key lay beside the entries: to show who signed, give --key"


@dataclass(frozen=True)
class Result:
    """What held: as fields for machines and as lines for people."""

    fields: Mapping[str, Any]
    text: str


def check(path: str, keys: Sequence[str] = (), copies: Sequence[str] = ()) -> list[Result]:
    """Verify what lies at `path`; raises VerificationError or VerificationFailure, and FileNotFoundError.

    Where keys are given, everything must be signed with one of them. `copies` are checkpoints that witnesses hold, as
    files or directories; a log must lead to those of it.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(path)
    if place.is_dir():
        return [_export(place, keys) if (place / "manifest.json").exists() else _log(place, keys, copies)]
    with place.open("rb") as file:
        start = file.read(4)
    if start == b"PK\3\4":
        return [_described(report) for report in verify.verify_bundle(place, keys)]
    return _report(place, keys)


def _log(place: Path, keys: Sequence[str], copies: Sequence[str]) -> Result:
    if not keys:
        return _described(verify.verify(place, copies=copies))
    try:
        with (place / "checkpoint").open("rb") as file:
            name = file.readline(LIMITS.name + 1).rstrip(b"\n").decode("latin-1")
    except OSError as error:
        raise VerificationError(f"cannot read {error.filename}: {error.strerror}") from error
    return _described(verify.verify(place, verify.choose_key(keys, name), copies=copies))


def _described(report: verify.Report) -> Result:
    return Result({"kind": "log", **vars(report)}, verify.describe(report))


def _export(place: Path, keys: Sequence[str]) -> Result:
    from audit.export import package  # noqa: PLC0415  the formats are loaded only for an export

    exported = package.check(place, keys)
    text = (
        f"verified: {exported.format} export of {exported.origin}, {exported.entries} entries, "
        f"each proved in a tree of {exported.size}\nroot: {exported.root}\n"
        f"signature: {BY_KEY if keys else BESIDE}"
    )
    return Result({"kind": "export", **vars(exported)}, text)


def _report(place: Path, keys: Sequence[str]) -> list[Result]:
    from audit.report import page  # noqa: PLC0415  as above

    with place.open("rb") as file:
        logs = page.check(file.read(LIMITS.report + 1), keys)
    results = []
    for log in logs:
        which = "all entries" if log.complete else "selected entries, each proved"
        fields = {
            "kind": "report",
            "origin": log.key.name,
            "size": log.checkpoint.size,
            "root": log.checkpoint.root.hex(),
            "entries": log.entries,
            "complete": log.complete,
        }
        text = (
            f"verified: report with {log.entries} of {log.checkpoint.size} entries of {log.key.name} ({which})\n"
            f"root: {log.checkpoint.root.hex()}\nsignature: {BY_KEY if keys else BESIDE}"
        )
        results.append(Result(fields, text))
    return results
