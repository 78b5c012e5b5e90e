"""Commands that write to a log: for the member that keeps it; its gate or coordinator does it where it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from audit.cli.terminal import say, sentences

Home = Annotated[
    str, typer.Option("--home", metavar="HOME", help="The member's home; where its process runs, it does the work.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded, so it must hold no personal data.")]


def acknowledge_rollback(home: Home, reason: Reason) -> None:
    """Let a member act again whose log is behind what its witnesses saw of it.

    A gate or coordinator whose log was restored from an older copy refuses to act. Find out why before you run this:
    entries that others have seen are gone. That they are, and your reason, is recorded, and each witness records
    that it took the log up again.
    """
    _do(home, "acknowledge-rollback", reason=reason)


def erase(
    seq: Annotated[int, typer.Argument(metavar="SEQ", help="The number of the entry whose payload is to go.")],
    home: Home,
    reason: Reason,
    despite_minimum: Annotated[
        bool, typer.Option("--despite-minimum", help="Also before the policy's or the rule's minimum; recorded.")
    ] = False,
) -> None:
    """Erase the payload of one entry, as a request of a data subject may demand.

    The erasure is recorded first. The entry itself stays, and so does every proof: it holds only a salted commitment
    to the payload, which tells nothing once payload and salt are gone. Copies of the log that others made are theirs
    to erase.
    """
    _do(home, "erase", reason=reason, seq=seq, despite_minimum=despite_minimum)


def retention(
    home: Home,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="RULE", help="Set the rules: <class>=<minimum>..<maximum>; may be repeated."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Remove what is due, not only show it.")] = False,
) -> None:
    """Show the retention rules of a log and what is due by them, set them, or remove what is due.

    A class is `payload:` with a pattern of actions, the first match counting, or `entries`, which purges whole sealed
    segments, from the oldest on. Periods are those of the calendar: `payload:round.*=P30D..P2Y`, `entries=P10Y..P12Y`;
    without a maximum nothing is removed. What a silo's policy says of retention, as the gate had it active last, holds
    beside the rules: before its minimum nothing is due, after its maximum every payload is. Each removal is recorded
    before it is done; the hashes of purged entries stay, so that the log still verifies.
    """
    _do(home, "retention", rules=tuple(rule or ()), apply=apply)


def _do(home: str, action: str, **fields: Any) -> None:
    from pathlib import Path

    from audit.custody import look_after
    from audit.upkeep import Wanted

    with sentences():
        for line in look_after(Path(home), Wanted(action, **fields)):
            say(line)
