"""`concordat policy explain`."""

from pathlib import Path
from typing import Annotated

import typer

from policies.cli.reading import AtOption, moment, names, party
from policies.request import Admission

REFUSED = 3


def explain(  # noqa: PLR0917  options are named
    file: Annotated[Path, typer.Argument(help="The policy.", show_default=False)],
    request_file: Annotated[
        Path | None,
        typer.Argument(metavar="[REQUEST]", help="The request (kind: PolicyRequest).", show_default=False),
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="Purpose of the run, as HMB.", show_default=False)] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset of the run.", show_default=False)] = None,
    columns: Annotated[str | None, typer.Option(help="Columns, with commas: age,sex.", show_default=False)] = None,
    app_digest: Annotated[str | None, typer.Option(help="App digest, sha256:<64 hex>.", show_default=False)] = None,
    rounds: Annotated[int, typer.Option(help="Planned rounds.")] = 1,
    metrics: Annotated[str, typer.Option(help="Declared metrics, with commas: loss,auc.")] = "",
    parties: Annotated[
        list[str] | None,
        typer.Option(
            "--party",
            help="A party as name:role:country, role coordinator, operator or silo. Repeat it for each.",
            show_default=False,
        ),
    ] = None,
    silo: Annotated[str | None, typer.Option(help="Which of the parties this silo is.", show_default=False)] = None,
    at: AtOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision and its trace as JSON.")] = False,
) -> None:
    """Ask what a policy would decide, and why: of a request in a file, or of a run described by options.

    Prints the rule that decides, its place in the policy, the reason and what would have to change, then what every
    other rule says. A request in a file may be of any stage; options describe a run that asks to be admitted.
    Exit status 0 if allowed, 3 if refused, 1 if a file has problems.

    Example: concordat policy explain policy.yaml --purpose HMB --dataset heart --columns age,sex
    --app-digest sha256:... --rounds 50 --metrics loss --party hub:coordinator:DE --party lyon:silo:FR
    """
    import json

    from policies.errors import DocumentError
    from policies.explanation import explain as explain_request
    from policies.explanation import lines, plain
    from policies.model import load_policy
    from policies.testing.model import request_of

    needed = {"--purpose": purpose, "--dataset": dataset, "--columns": columns, "--app-digest": app_digest}
    given = [name for name, value in needed.items() if value is not None]
    if request_file is None and len(given) < len(needed):
        missing = ", ".join(name for name in needed if name not in given)
        raise typer.BadParameter(f"got no request, expected a file or the options {missing}")
    if request_file is not None and given:
        raise typer.BadParameter(f"got a request in a file and {given[0]}, expected one of them")
    now = moment(at)
    try:
        policy = load_policy(file)
        if request_file is not None:
            request, of_file = request_of(request_file)
            now = of_file if at is None and of_file is not None else now
        else:
            request = Admission(
                purpose=str(purpose),
                dataset=str(dataset),
                columns=names(columns or ""),
                app_digest=str(app_digest),
                rounds=rounds,
                metrics=names(metrics),
                parties=tuple(party(text) for text in parties or ()),
                silo=silo,
            )
    except DocumentError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    explanation = explain_request(policy, request, now)
    if as_json:
        typer.echo(json.dumps(plain(explanation), indent=2, ensure_ascii=False))
    else:
        for line in lines(explanation):
            typer.echo(line)
    if not explanation.decision.allowed:
        raise typer.Exit(REFUSED)
