"""A finding, and the table of lints."""

from dataclasses import dataclass
from typing import Literal

from policies.document import Document
from policies.model import SiloPolicy
from policies.tree import PathKey

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Lint:
    """One lint: its stable id, how bad it is, and what to do. `message` and `remedy` are templates."""

    id: str
    severity: Severity
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A lint at a place of a policy."""

    lint: Lint
    location: str
    position: tuple[int, int]
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.location}: {self.lint.severity}: {self.message}; {self.remedy} [{self.lint.id}]"


_TABLE = (
    Lint("refuses-all", "error", "the policy refuses every {what}", "widen it, or remove what it contradicts"),
    Lint("dataset-unusable", "error", "no column of dataset {dataset} can be read", "allow a column, or remove it"),
    Lint("ended", "error", "{what} ended on {date}", "renew it, or remove what rests on it"),
    Lint("placeholder", "error", "the digest {digest} is a placeholder", "enter what `concordat run digest` prints"),
    Lint("reserved-purpose", "error", "purpose {purpose} is reserved to public bodies, and none is named",
         "name one in purposes.public_bodies, or remove the purpose"),
    Lint("ends-soon", "warning", "{what} ends on {date}, in {days}", "renew it"),
    Lint("purpose-contained", "warning", "purpose {purpose} is contained in {outer}, which is allowed too",
         "remove the narrower one, or the wider one if it was not meant"),
    Lint("place-contained", "note", "{place} lies in {outer}, which is listed too", "remove it"),
    Lint("column-denied", "warning", "column {column} is allowed, and denied as {class_name}",
         "remove it from allow, or correct its class"),
    Lint("column-unknown", "warning", "classes has the column {column}, which is not allowed", "remove it"),
    Lint("window-contained", "warning", "the window {window} lies in {outer}", "remove it"),
    Lint("person-unnamed", "warning", "public body {name} is not in purposes.persons, so it may submit nothing",
         "add it there, or remove it"),
    Lint("epsilon-beyond-budget", "warning", "max_epsilon {epsilon:g} is above the budget of {budget:g}",
         "lower it: the budget refuses such a run"),
    Lint("rows-below-count", "warning", "{rows} rows suffice for a view, and a reply needs {count} examples",
         "raise rows.minimum: the replies of so small a view are refused"),
    Lint("one-person", "warning", "{what} asks for one person", "ask for two, so that no one decides alone"),
    Lint("small-count", "warning", "{what} is {count}, below 10", "raise it: small groups point at persons"),
    Lint("no-maximum-retention", "warning", "no retention maximum: payloads are kept without end",
         "set audit.retention.maximum"),
    Lint("approval-without-end", "note", "the approval of app {digest} has no end", "set expires"),
    Lint("no-law", "note", "no law is named, so no floor is checked", "name the laws that apply in applies"),
    Lint("not-yet", "note", "the policy takes effect on {date}, and allows nothing before",
         "nothing, if that is meant"),
)  # fmt: skip

LINTS = {lint.id: lint for lint in _TABLE}
"""Every lint by its id, the worst first."""


def finding(policy: Document[SiloPolicy], lint_id: str, path: tuple[PathKey, ...], **facts: object) -> Finding:
    """A finding at a field of a policy, or at its nearest ancestor that is there."""
    lint = LINTS[lint_id]
    return Finding(
        lint,
        policy.locate(path),
        policy.root.locate(path),
        lint.message.format_map(facts),
        lint.remedy.format_map(facts),
    )
