"""`concordat policy`: check a policy, explain a decision, list the rules."""

import contextlib
import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from policies.request import Admission, Party

REFUSED = 3

app = typer.Typer(
    add_completion=False,
    name="policy",
    no_args_is_help=True,
    help="Check a silo's policy before it is live, and ask it why something is refused.",
    epilog="Start with: concordat policy validate policy.yaml",
)


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Policy files (kind: SiloPolicy).", show_default=False)],
) -> None:
    """Check policy files and print every problem with its line and column.

    An unknown field is an error: a policy never promises what is not enforced. Exit status 1 if any file is
    refused.
    """
    from policies.errors import DocumentError
    from policies.model import load_policy

    failed = False
    for path in files:
        try:
            document = load_policy(path)
        except DocumentError as error:
            failed = True
            typer.echo(str(error), err=True)
            typer.echo(f"{path}: refused, {_counted(len(error.problems))}", err=True)
        else:
            metadata = document.model.metadata
            typer.echo(f"{path}: ok, {metadata.name} version {metadata.version}, {document.digest}")
    if failed:
        raise typer.Exit(1)


@app.command()
def schema(
    kind: Annotated[str, typer.Option(help="Kind of document.")] = "SiloPolicy",
) -> None:
    """Print the JSON Schema for editors.

    Save it as policy.schema.json and begin a policy with: # yaml-language-server: $schema=policy.schema.json
    """
    import json

    from policies.document import json_schema
    from policies.model import SiloPolicy

    if kind != SiloPolicy.__name__:
        raise typer.BadParameter(f"got {kind}, expected {SiloPolicy.__name__}", param_hint="--kind")
    typer.echo(json.dumps(json_schema(SiloPolicy), indent=2, ensure_ascii=False))


@app.command()
def rules() -> None:
    """List the rules: the id that decisions name, where it is checked, what it protects."""
    from rich.console import Console
    from rich.table import Table

    from policies.rules import EVERY, RULES

    table = Table("rule", "checked at", "protects", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for rule in RULES.values():
        stages = "every stage" if rule.stages == EVERY else ", ".join(rule.stages)
        table.add_row(rule.id, stages, rule.protects)
    Console().print(table)


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="The policy.", show_default=False)],
    purpose: Annotated[str, typer.Option(help="Purpose of the run, as HMB.", show_default=False)],
    dataset: Annotated[str, typer.Option(help="Dataset of the run.", show_default=False)],
    columns: Annotated[str, typer.Option(help="Columns, with commas: age,sex.", show_default=False)],
    app_digest: Annotated[str, typer.Option(help="App digest, sha256:<64 hex>.", show_default=False)],
    rounds: Annotated[int, typer.Option(help="Planned rounds.")] = 1,
    metrics: Annotated[str, typer.Option(help="Declared metrics, with commas: loss,auc.")] = "",
    party: Annotated[
        list[str] | None,
        typer.Option(
            help="A party as name:role:country, role coordinator, operator or silo. Repeat it for each.",
            show_default=False,
        ),
    ] = None,
    silo: Annotated[str | None, typer.Option(help="Which of the parties this silo is.", show_default=False)] = None,
    at: Annotated[
        str | None, typer.Option(help="Time of the decision, ISO 8601 with zone.", show_default="now")
    ] = None,
) -> None:
    """Ask whether a run would be admitted, and why, before anyone submits it.

    Prints the rule that decided, its place in the policy, the reason and what would have to change.
    Exit status 0 if allowed, 3 if refused, 1 if the policy itself has problems.

    Example: concordat policy explain policy.yaml --purpose HMB --dataset heart --columns age,sex
    --app-digest sha256:... --rounds 50 --metrics loss --party hub:coordinator:DE --party lyon:silo:FR
    """
    from policies.engine import decide
    from policies.errors import DocumentError
    from policies.model import load_policy

    parties = tuple(_party(text) for text in party or ())
    moment = _moment(at)
    try:
        document = load_policy(file)
    except DocumentError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    request = Admission(
        purpose=purpose,
        dataset=dataset,
        columns=_names(columns),
        app_digest=app_digest,
        rounds=rounds,
        metrics=_names(metrics),
        parties=parties,
        silo=silo,
    )
    decision = decide(document, request, moment)
    typer.echo(f"{'allowed' if decision.allowed else 'refused'} by {decision.rule} at {decision.location}")
    typer.echo(f"reason: {decision.reason}")
    if decision.remedy:
        typer.echo(f"remedy: {decision.remedy}")
    if not decision.allowed:
        raise typer.Exit(REFUSED)


def _counted(number: int) -> str:
    return "1 problem" if number == 1 else f"{number} problems"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _party(text: str) -> Party:
    parts = text.split(":")
    if len(parts) != 3 or not all(parts):
        raise typer.BadParameter(f"got {text}, expected name:role:country such as hub:coordinator:DE")
    return Party(*parts)


def _moment(text: str | None) -> dt.datetime:
    if text is None:
        return dt.datetime.now(dt.UTC)
    moment: dt.datetime | None = None
    with contextlib.suppress(ValueError):
        moment = dt.datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter(f"got {text}, expected a time such as 2026-11-20T12:00:00Z", param_hint="--at")
    return moment
