"""`concordat policy validate` and `concordat policy rules`."""

from pathlib import Path
from typing import Annotated

import typer


def validate(
    files: Annotated[list[Path], typer.Argument(help="Policy files (kind: SiloPolicy).", show_default=False)],
    floor: Annotated[
        Path | None,
        typer.Option(help="The federation's floor (kind: FederationPolicy): none may be looser.", show_default=False),
    ] = None,
) -> None:
    """Check policy files and print every problem with its line and column.

    An unknown field is an error: a policy never promises what is not enforced. So is a policy below what the laws
    under `applies` ask for, or looser than the federation's floor. Exit status 1 if any file is refused.
    """
    from policies.errors import DocumentError
    from policies.floor import load_floor, looser_than
    from policies.model import load_policy
    from policies.wording import counted, visible

    try:
        bound = load_floor(floor).model if floor else None
    except DocumentError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    failed = False
    for path in files:
        try:
            document = load_policy(path)
            looser = looser_than(document, bound) if bound else []
            if looser:
                raise DocumentError(looser)
        except DocumentError as error:
            failed = True
            typer.echo(str(error), err=True)
            typer.echo(f"{visible(path)}: refused, {counted(len(error.problems), 'problem')}", err=True)
        else:
            metadata = document.model.metadata
            typer.echo(f"{visible(path)}: ok, {metadata.name} version {metadata.version}, {document.digest}")
    if failed:
        raise typer.Exit(1)


def rules() -> None:
    """List the rules: the id that decisions name, where it is checked, what it protects.

    A mandatory rule refuses even where the gate is told to observe it.
    """
    from rich.console import Console
    from rich.table import Table

    from policies.rules import EVERY, RULES

    table = Table("rule", "checked at", "mandatory", "protects", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for rule in RULES.values():
        stages = "every stage" if rule.stages == EVERY else ", ".join(rule.stages)
        table.add_row(rule.id, stages, "yes" if rule.mandatory else "", rule.protects)
    Console().print(table)
