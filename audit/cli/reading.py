"""Commands that list entries: as they stand, selected, as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli.terminal import (
    COLOURS,
    Directory,
    Key,
    check_directory,
    json_text,
    printable,
    read_keys,
    say,
    sentences,
    stop,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from audit.query import Selection

Since = Annotated[str, typer.Option("--from", metavar="TIME", help="First moment: 2026-11-01 or 2026-11-01T08:00Z.")]
Until = Annotated[str, typer.Option("--to", metavar="TIME", help="The first moment after.")]
Run = Annotated[str, typer.Option(help="Only entries of this run.")]
Dataset = Annotated[str, typer.Option(help="Only entries on this dataset and of the runs decided on for it.")]
Actor = Annotated[str, typer.Option(help="Only this actor; * stands for anything.")]
Rule = Annotated[str, typer.Option(help="Only what this rule decided; * stands for anything.")]
Decision = Annotated[str, typer.Option(help="Only allow, deny or record.")]
Action = Annotated[str, typer.Option(help="Only this action; * stands for anything: 'round.*'.")]
AsJson = Annotated[bool, typer.Option("--json", help="The entries as they stand, one JSON object a line.")]


def show(
    directory: Directory, run: Run = "", action: Action = "", decision: Decision = "", as_json: AsJson = False
) -> None:
    """List entries, one a line: number, time, decision, action, actor, resource, and why.

    Listing does not verify, so that it also works on a damaged log: use `query`, which does, or run `verify` on
    the same directory to know that nothing was altered.
    """
    from pathlib import Path

    from audit.query import Matcher
    from audit.verify import VerificationFailure

    matches = Matcher(selection(run=run, action=action, decision=decision))
    check_directory(directory)
    try:
        for entry in _entries(Path(directory)):
            if matches(entry):
                typer.echo(_json(entry) if as_json else line_of(entry))
    except VerificationFailure as failure:
        stop(f"{directory}: {printable(str(failure))}; run `verify` to know more", status=1)
    except BrokenPipeError:
        raise
    except OSError as error:
        stop(f"cannot read {error.filename}: {error.strerror}", status=1)


def query(
    directory: Directory,
    *,
    since: Since = "",
    until: Until = "",
    run: Run = "",
    dataset: Dataset = "",
    actor: Actor = "",
    rule: Rule = "",
    decision: Decision = "",
    action: Action = "",
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Verify the log, then list the entries that meet every condition.

    The verdict goes to standard error and the table to standard output. Nothing is listed where the log does not
    verify.
    """
    from audit.query import Matcher
    from audit.snapshot import take

    wanted = selection(since, until, run, dataset, actor, rule, decision, action)
    check_directory(directory)
    with sentences():
        snapshot, matches = take(directory, read_keys(key)), Matcher(wanted)
        found = [entry for entry in snapshot.entries() if matches(entry.fields)]
    if as_json:
        for entry in found:
            typer.echo(json_text(entry.line.decode()))
    elif found:
        for row in table([entry.fields for entry in found]):
            typer.echo(row)
    say(f"{len(found)} of {snapshot.size} entries of {snapshot.origin}, which verifies", err=True)


def watch(
    directory: Directory,
    *,
    run: Run = "",
    dataset: Dataset = "",
    actor: Actor = "",
    rule: Rule = "",
    decision: Decision = "",
    action: Action = "",
    key: Key = None,
    everything: Annotated[bool, typer.Option("--all", help="Begin with the entries that are there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Follow a log as it grows, verifying each checkpoint against what was seen before. Ctrl-C ends it.

    Ends with exit status 1 where the log no longer continues what was seen: entries were changed, or an older
    copy was put in its place.
    """
    import time

    from audit.follow import Follower
    from audit.query import Matcher
    from audit.snapshot import take

    matches = Matcher(selection("", "", run, dataset, actor, rule, decision, action))
    check_directory(directory)
    with sentences():
        snapshot = take(directory, read_keys(key))
        follower, old = Follower(directory, snapshot.vkey), 0 if everything else snapshot.size
        say(f"{snapshot.size} entries of {snapshot.origin} verify; following", err=True)
        while True:
            for entry in follower.poll():
                if matches(entry.fields) and entry.seq >= old:
                    typer.echo(json_text(entry.line.decode()) if as_json else line_of(entry.fields))
            time.sleep(POLL_SECONDS)


POLL_SECONDS = 0.25


def selection(
    since: str = "",
    until: str = "",
    run: str = "",
    dataset: str = "",
    actor: str = "",
    rule: str = "",
    decision: str = "",
    action: str = "",
) -> Selection:
    """The conditions of the options, or one sentence about the one that cannot be meant."""
    from audit.query import Selection

    with sentences():
        return Selection(since, until, run, dataset, actor, rule, decision, action)


def line_of(fields: Mapping[str, Any]) -> str:
    """An entry on one line, for reading as it comes."""
    decision = str(fields["decision"])
    parts = [f"{fields['seq']:>6}", str(fields["time"]), typer.style(f"{decision:<6}", fg=COLOURS[decision])]
    parts += [printable(str(fields[name])) for name in ("action", "actor", "resource")]
    parts += [f"{name}={printable(str(fields[name]))}" for name in ("run", "round", "rule") if fields[name] is not None]
    parts += [f"{name}={printable(str(value))}" for name, value in fields["detail"].items()]
    if fields["reason"] is not None:
        parts.append(f"- {printable(str(fields['reason']))}")
    return "  ".join(parts)


COLUMNS = ("seq", "time", "decision", "action", "actor", "run", "round", "rule", "reason")


def table(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Entries in aligned columns with a heading; the last column is as long as it has to be."""
    rows = [["" if fields[name] is None else printable(str(fields[name])) for name in COLUMNS] for fields in entries]
    widths = [max(len(name), *(len(row[place]) for row in rows)) for place, name in enumerate(COLUMNS)]
    widths[-1] = 0
    yield "  ".join(name.upper().ljust(width) for name, width in zip(COLUMNS, widths, strict=True)).rstrip()
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[2] = typer.style(cells[2], fg=COLOURS[row[2]])
        yield "  ".join(cells).rstrip()


def _json(fields: Mapping[str, Any]) -> str:
    import json

    return json_text(json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def _entries(folder: Path) -> Iterator[dict[str, object]]:
    from audit.verify import check_entry, read_segments

    for seq, (_, line) in enumerate(read_segments(folder, "jsonl")):
        if line:  # those of a purged segment are empty
            yield check_entry(line, seq)
