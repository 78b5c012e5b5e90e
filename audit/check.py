"""Checks whatever a party hands over: a log, an export, a bundle or a report."""

from __future__ import annotations

from collections.abc import Mapping
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


def check(path: str, given: verify.Given) -> list[Result]:
    """Verify what lies at `path`; raises VerificationError or VerificationFailure, and FileNotFoundError.

    Where keys are given, everything must be signed with one of them. A log must lead to the copies of it.
    """
    try:
        place = Path(path).resolve(strict=True)  # a link that the user gave may be followed, never one within
        is_export = (place / "manifest.json").exists() if place.is_dir() else False
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:  # a loop of links is the latter before Python 3.13
        reason = getattr(error, "strerror", None) or "a loop of links"
        raise VerificationError(f"cannot read {path}: {reason}") from None
    if place.is_dir():
        if is_export:
            return [_export(place, given)]
        return [_described(verify.check_log(place, given), given)]
    try:
        with verify.open_plain(place) as file:
            start = file.read(4)
    except OSError as error:
        raise VerificationError(f"cannot read {place}: {error.strerror}") from error
    if start == b"PK\3\4":
        return [_described(report, given) for report in verify.check_bundle(place, given)]
    return _report(place, given)


def _described(report: verify.Report, given: verify.Given) -> Result:
    return Result({"kind": "log", **verify.as_fields(report, given)}, verify.describe(report, given))


def _refuse_copies(place: Path, what: str, given: verify.Given) -> None:
    if given.paths:
        raise VerificationError(
            f"{place} is {what}, which is not compared with witnesses' copies: give --witness with the logs or a bundle"
        )


def _export(place: Path, given: verify.Given) -> Result:
    from audit.export import package  # noqa: PLC0415  the formats are loaded only for an export

    _refuse_copies(place, "an export", given)
    exported = package.check(place, given.keys)
    text = (
        f"verified: {exported.format} export of {exported.origin}, {exported.entries} entries, "
        f"each proved in a tree of {exported.size}\nroot: {exported.root}\n"
        f"signature: {BY_KEY if given.keys else BESIDE}"
    )
    return Result({"kind": "export", **vars(exported)}, text)


def _report(place: Path, given: verify.Given) -> list[Result]:
    from audit.report import page  # noqa: PLC0415  as above

    _refuse_copies(place, "a report", given)
    with verify.open_plain(place) as file:
        logs = page.check(file.read(LIMITS.report + 1), given.keys)
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
            f"root: {log.checkpoint.root.hex()}\nsignature: {BY_KEY if given.keys else BESIDE}"
        )
        results.append(Result(fields, text))
    return results
