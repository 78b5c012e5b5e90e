"""An extract for the record of processing activities of GDPR Article 30(1), from what a log recorded.

A log knows what was processed, for what, under which rules and with whom. What it cannot know (who the controller's
representative is, whom the data is about, when it is erased) is named as missing and left to the controller.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from audit.export.rendering import Source
from audit.merkle import leaf_hash
from audit.snapshot import Entry

SCHEMA = "concordat/processing-record/v1"
_BASES = ("legal_basis", "art9_condition", "permit", "permit_ref", "dpia_ref", "arrangement_ref", "transfer_basis")


@dataclass
class Activity:
    """One processing activity: a purpose on a dataset."""

    purpose: str
    dataset: str
    runs: dict[str, str] = field(default_factory=dict)  # run and the decision on it
    first: str = ""
    last: str = ""
    columns: set[str] = field(default_factory=set)
    rows: list[int] = field(default_factory=list)
    recipients: dict[str, str] = field(default_factory=dict)  # party and country
    policies: set[str] = field(default_factory=set)
    references: dict[str, str] = field(default_factory=dict)
    measures: set[str] = field(default_factory=set)
    releases: int = 0
    refusals: int = 0
    entries: list[tuple[int, str]] = field(default_factory=list)  # number and leaf hash


def activities(entries: Iterable[Entry]) -> list[Activity]:
    """The activities in the entries of one log, in the order of their purposes and datasets."""
    found: dict[tuple[str, str], Activity] = {}
    of_run: dict[str, Activity] = {}
    measures: set[str] = set()
    for entry in entries:
        fields, detail = entry.fields, entry.fields["detail"]
        if fields["action"] == "worker.connected":
            kept = {name: detail[name] for name in ("network", "files", "processes") if detail.get(name)}
            measures = {f"{name} of the training process: {value}" for name, value in kept.items()}
        if fields["run"] is None:
            continue
        if fields["action"] == "run.admit" and "purpose" in detail and "dataset" in detail:
            place = (str(detail["purpose"]), str(detail["dataset"]))
            of_run[fields["run"]] = found.setdefault(place, Activity(*place))
        activity = of_run.get(fields["run"])
        if activity is not None:
            _add(activity, entry)
            if fields["action"] == "view.build":
                activity.measures |= measures
    return [found[place] for place in sorted(found)]


def render_json(entries: Iterable[Entry], source: Source) -> Iterator[str]:
    """The extract as JSON."""
    yield json.dumps(_document(activities(entries), source), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def render_text(entries: Iterable[Entry], source: Source) -> Iterator[str]:
    """The extract as Markdown, in the order of Article 30(1)."""
    yield "# Extract for the record of processing activities (GDPR Article 30(1))\n\n"
    yield f"Source: transparency log {_cell(source.origin)}, {source.size} entries, root `{source.root}`.\n"
    yield "Whatever the log cannot know is marked **to be completed by the controller**.\n"
    for activity in _document(activities(entries), source)["activities"]:
        yield f"\n## {_cell(activity['purpose'])} on {_cell(activity['dataset'])}\n\n"
        yield "| Article 30(1) | |\n|---|---|\n"
        for name, value in _articles(activity, source):
            yield f"| {name} | {value} |\n"
        yield "\n| run | decision |\n|---|---|\n"
        for run, decision in activity["runs"].items():
            yield f"| {_cell(run)} | {decision} |\n"


def _add(activity: Activity, entry: Entry) -> None:
    fields, detail = entry.fields, entry.fields["detail"]
    activity.first, activity.last = activity.first or fields["time"], fields["time"]
    activity.entries.append((entry.seq, leaf_hash(entry.line).hex()))
    activity.policies |= {fields["policy"]} - {None}
    activity.references |= {name: str(detail[name]) for name in _BASES if name in detail}
    activity.refusals += fields["decision"] == "deny"
    if fields["action"] == "run.admit":
        activity.runs[fields["run"]] = {"allow": "admitted", "deny": "refused"}.get(fields["decision"], "recorded")
        if fields["decision"] == "allow":
            for party in str(detail.get("parties", "")).split(","):
                name, _, country = party.partition(":")
                activity.recipients |= {name: country} if name else {}
    if fields["action"] == "view.build" and fields["decision"] == "allow":
        activity.columns |= set(str(detail.get("columns", "")).split(",")) - {""}
        activity.rows += [detail["rows"]] if type(detail.get("rows")) is int else []
    if fields["action"].endswith((".egress", ".release")) and fields["decision"] == "allow":
        activity.releases += 1


def _document(found: list[Activity], source: Source) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "log": {"origin": source.origin, "size": source.size, "root": source.root},
        "to_be_completed": [
            "name and contact details of the controller, its representative and its data protection officer",
            "categories of data subjects",
            "envisaged time limits for erasure",
            "safeguards for each transfer to a third country",
        ],
        "activities": [
            {
                "purpose": item.purpose,
                "dataset": item.dataset,
                "runs": item.runs,
                "first": item.first,
                "last": item.last,
                "columns": sorted(item.columns),
                "rows": {"least": min(item.rows), "most": max(item.rows)} if item.rows else None,
                "recipients": item.recipients,
                "countries": sorted(set(item.recipients.values())),
                "policies": sorted(item.policies),
                "references": item.references,
                "measures": sorted(item.measures),
                "releases": item.releases,
                "refusals": item.refusals,
                "entries": [{"seq": seq, "leaf_hash": leaf} for seq, leaf in item.entries],
            }
            for item in found
        ],
    }


def _articles(activity: dict[str, Any], source: Source) -> Iterator[tuple[str, str]]:
    rows, open_point = activity["rows"], "**to be completed by the controller**"
    recipients = ", ".join(f"{_cell(name)} ({_cell(country)})" for name, country in activity["recipients"].items())
    countries = _list(activity["countries"])
    yield "(a) controller", f"party {_cell(source.member)}; name, contact, data protection officer: {open_point}"
    yield "(b) purposes", _cell(activity["purpose"])
    yield "(b) references recorded", _list(f"{name} {value}" for name, value in activity["references"].items())
    yield "(c) categories of personal data", _list(activity["columns"])
    yield "(c) rows used in a view", f"{rows['least']} to {rows['most']}" if rows else "none"
    yield "(c) categories of data subjects", open_point
    yield "(d) recipients (of model updates and metrics)", recipients or "none: no run was admitted"
    yield (
        "(e) countries of the recipients",
        f"{countries}; safeguards for third countries: {open_point}",
    )
    yield "(f) time limits for erasure", open_point
    yield "(g) measures recorded", _list(["a signed transparency log of every decision", *activity["measures"]])
    yield "first and last entry", f"{activity['first']} to {activity['last']}"
    yield "releases, refusals", f"{activity['releases']}, {activity['refusals']}"
    yield "policies in force", _list(f"`{digest}`" for digest in activity["policies"])


def _list(items: Iterable[str]) -> str:
    return ", ".join(item if item.startswith("`") else _cell(item) for item in items) or "none recorded"


def _cell(text: str) -> str:
    """Text that stays in its cell and is no markup."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return "".join(f"\\{c}" if c in "\\|`*_<>[]#" else c for c in text)
