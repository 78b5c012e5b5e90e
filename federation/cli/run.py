"""`concordat run`: for data scientists and operators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Submit, follow and fetch training runs.\n\n"
    "A run is a run.yaml beside a Flower app. Every command but `digest` uses the operator's home.",
)

HomePath = Annotated[Path, typer.Option("--home", help="The operator's home.")]
RunFile = Annotated[Path, typer.Argument(help="The run.yaml (kind: Run).")]
RunId = Annotated[str, typer.Argument(help="The run's id, as submit printed it.")]


@app.command()
def submit(
    run_file: RunFile,
    home: HomePath,
    follow: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = True,
) -> None:
    """Bundle the app, sign it with the run, submit both, and show progress."""
    from federation.home import Home
    from federation.operator import OperatorClient

    client = OperatorClient(Home(home))
    run_id = client.submit(run_file)
    typer.echo(f"submitted {run_id}")
    if follow:
        show(client, run_id)


@app.command("follow")
def follow_run(run_id: RunId, home: HomePath) -> None:
    """Show a run's progress from its beginning until it ends."""
    from federation.home import Home
    from federation.operator import OperatorClient

    show(OperatorClient(Home(home)), run_id)


def show(client: object, run_id: str) -> None:
    """Print a run's events; raises RefusedError or RunFailedError where it did not complete."""
    from federation.errors import RefusedError, RunFailedError
    from federation.operator import OperatorClient
    from federation.progress import line_of

    assert isinstance(client, OperatorClient)  # noqa: S101  narrowing for the type checker
    last: dict[str, object] = {}
    for last in client.follow(run_id):
        line = line_of(last)
        if line is not None:
            typer.echo(line)
    if last.get("event") == "run.refused":
        raise RefusedError(str(last.get("problem", "")))
    if last.get("event") != "run.completed":
        raise RunFailedError(f"run {run_id} did not complete: {last.get('problem', 'the coordinator stopped')}")


@app.command("list")
def list_runs(home: HomePath) -> None:
    """List the coordinator's runs and their states."""
    from federation.home import Home
    from federation.operator import OperatorClient

    for run in OperatorClient(Home(home)).runs():
        typer.echo(f"{run['run']:40} {run['state']}")


@app.command()
def members(home: HomePath) -> None:
    """List the federation's members and who is connected."""
    from federation.home import Home
    from federation.operator import OperatorClient

    for member in OperatorClient(Home(home)).members():
        state = "connected" if member["online"] else ""
        typer.echo(f"{member['name']:24} {member['role']:12} {member['country']}  {state}".rstrip())


@app.command()
def stop(run_id: RunId, home: HomePath) -> None:
    """End a run now."""
    from federation.home import Home
    from federation.operator import OperatorClient

    OperatorClient(Home(home)).stop(run_id)
    typer.echo(f"{run_id} is asked to stop")


@app.command()
def model(
    run_id: RunId, home: HomePath, out: Annotated[Path, typer.Option(help="Where to write the model (.npz).")]
) -> None:
    """Fetch the final model of a completed run."""
    from federation.home import Home, replace_file
    from federation.operator import OperatorClient

    content = OperatorClient(Home(home)).model(run_id)
    replace_file(out, content)
    typer.echo(f"{len(content)} bytes in {out}")


@app.command()
def digest(run_file: RunFile) -> None:
    """Print the digest of the run's app, as a policy's `apps.allow` names it."""
    from federation.home import read_limited
    from federation.limits import LIMITS
    from federation.operator import build_app
    from federation.run import app_digest, load_run

    run = load_run(read_limited(run_file, LIMITS.document), source=str(run_file)).model
    typer.echo(app_digest(build_app(run_file.resolve().parent / run.app.path)))
