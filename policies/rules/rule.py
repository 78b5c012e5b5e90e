"""What a rule is."""

from dataclasses import dataclass

PathKey = str | int

EVERY = ("admission", "view", "ingress", "egress", "release")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its stable id, where it is checked, what it protects and how it speaks.

    `message` and `remedy` are templates over the facts of a decision; `path` is the field of the policy that
    decides, unless the check names a closer one. A `mandatory` rule refuses even where the gate is told to record
    its refusals only.
    """

    id: str
    stages: tuple[str, ...]
    title: str
    protects: str
    message: str
    remedy: str | None = None
    path: tuple[PathKey, ...] = ()
    mandatory: bool = False
