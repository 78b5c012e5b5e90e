"""`concordat policy diff`."""

from pathlib import Path
from typing import Annotated

import typer

from policies.cli.reading import AtOption, moment


def diff(
    before: Annotated[Path, typer.Argument(help="The policy as it is.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="The policy as it would be.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, as JSON.")] = False,
    at: AtOption = None,
) -> None:
    """Say what a second policy newly allows and newly denies.

    Both are asked about every request that could tell them apart: each purpose, country and party, column, app, metric,
    range of a number, day and minute of the week of which either speaks, and one of which neither does. Exit status 0
    if nothing is newly allowed (the second is the same or stricter), 1 if anything is.
    """
    import json

    from policies.diff.compare import compare
    from policies.diff.groups import lines, plain
    from policies.model import load_policy

    difference = compare(load_policy(before), load_policy(after), moment(at))
    if as_json:
        typer.echo(json.dumps(plain(difference), indent=2, ensure_ascii=False))
    else:
        for line in lines(difference):
            typer.echo(line)
    if difference.looser:
        raise typer.Exit(1)
