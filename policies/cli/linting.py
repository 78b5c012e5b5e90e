"""`concordat policy lint`."""

from pathlib import Path
from typing import Annotated

import typer

from policies.cli.reading import AtOption, moment


def lint(
    files: Annotated[list[Path], typer.Argument(help="Policy files (kind: SiloPolicy).", show_default=False)],
    soon: Annotated[int, typer.Option(help="Days before its end from which something ends soon.", min=0)] = 30,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    at: AtOption = None,
) -> None:
    """Say what is valid in a policy and probably not meant.

    Rules that can match nothing or lie in the shadow of others, documents that have ended or end soon, bounds that are
    missing. Each finding has a place, a remedy and an id. Exit status 1 if a file is not valid or there is an error;
    with --strict also if there is a warning.
    """
    import json

    from policies.errors import DocumentError
    from policies.lint.checks import lint as find
    from policies.lint.finding import Finding
    from policies.model import load_policy

    failing = ("error", "warning") if strict else ("error",)
    failed = False
    found: list[Finding] = []
    for path in files:
        try:
            found += find(load_policy(path), moment(at), soon)
        except DocumentError as error:
            failed = True
            typer.echo(str(error), err=True)
    if as_json:
        rows = [
            {
                "lint": one.lint.id,
                "severity": one.lint.severity,
                "location": one.location,
                "message": one.message,
                "remedy": one.remedy,
            }
            for one in found
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for one in found:
            typer.echo(str(one))
    if failed or any(one.lint.severity in failing for one in found):
        raise typer.Exit(1)
