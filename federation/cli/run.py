"""`concordat run`: for data scientists and operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from federation.terminal import say

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Submit, follow and fetch training runs.\n\n"
    "A run is a run.yaml beside a Flower app. Every command but `digest` and `simulate` uses the operator's home.",
)

HomePath = Annotated[Path, typer.Option("--home", help="The operator's home.")]
RunFile = Annotated[Path, typer.Argument(help="The run.yaml (kind: Run).")]
ValidFor = Annotated[
    str, typer.Option(metavar="SPAN", help="How long silos may still begin with it: 90m, 12h or 7d, at most 30d.")
]
RunId = Annotated[str, typer.Argument(help="The run's id, as submit printed it.")]


@app.command()
def submit(
    run_file: RunFile,
    home: HomePath,
    bundle: Annotated[
        Path | None, typer.Option(help="The app's bundle that the silos approved (.fab), in place of a new one.")
    ] = None,
    valid_for: ValidFor = "7d",
    follow: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = True,
) -> None:
    """Bundle the app, sign it with the run, submit both, and show progress.

    What is signed is one submission: to train again, submit the run again.
    """
    from federation.durations import parse_duration
    from federation.home import Home, read_limited
    from federation.limits import LIMITS
    from federation.operator import OperatorClient

    client = OperatorClient(Home(home))
    app_bundle = None if bundle is None else read_limited(bundle, LIMITS.app)
    run_id = client.submit(run_file, app_bundle, parse_duration(valid_for))
    say(f"submitted {run_id}")
    if follow:
        show_progress(client, run_id)


@app.command("follow")
def follow_run(run_id: RunId, home: HomePath) -> None:
    """Show a run's progress from its beginning until it ends, also where the coordinator is started anew meanwhile."""
    from federation.home import Home
    from federation.operator import OperatorClient

    show_progress(OperatorClient(Home(home)), run_id)


@app.command()
def watch(run_id: RunId, home: HomePath) -> None:
    """Show how a run stands, and from then on its progress until it ends."""
    from federation.home import Home
    from federation.operator import OperatorClient
    from federation.progress import standing_lines

    client = OperatorClient(Home(home))
    standing = client.show(run_id)
    for line in standing_lines(standing):
        typer.echo(line)
    if standing["state"] in ("pending", "running"):  # a list says that of anything
        show_progress(client, run_id, int(standing.get("number", 0)))


def show_progress(client: object, run_id: str, after: int = 0, say: Callable[[str], None] | None = typer.echo) -> None:
    """Say a run's events after a number; raises RefusedError or RunFailedError where it did not complete."""
    from federation.errors import RefusedError, RunFailedError
    from federation.operator import OperatorClient
    from federation.progress import line_of

    assert isinstance(client, OperatorClient)  # noqa: S101  narrowing for the type checker
    last: dict[str, object] = {}
    try:
        for last in client.follow_on(run_id, after=after):
            line = line_of(last)
            if line is not None and say is not None:
                say(line)
    except KeyboardInterrupt:
        typer.echo(f"\nthe run goes on: concordat run watch {run_id}, or concordat run stop {run_id}", err=True)
        raise
    if last.get("event") == "run.refused":
        raise RefusedError(str(last.get("problem", "")))
    if last.get("event") != "run.completed":
        raise RunFailedError(f"run {run_id} did not complete: {last.get('problem', 'the coordinator stopped')}")


@app.command("list")
def list_runs(home: HomePath) -> None:
    """List the coordinator's runs: states, closed rounds, metrics of the newest model."""
    from federation.home import Home
    from federation.operator import OperatorClient
    from federation.progress import list_line

    for run in OperatorClient(Home(home)).runs():
        say(list_line(run))


@app.command()
def members(home: HomePath) -> None:
    """List the federation's members and who is connected."""
    from federation.home import Home
    from federation.operator import OperatorClient
    from federation.progress import member_line

    for member in OperatorClient(Home(home)).members():
        say(member_line(member))


@app.command()
def stop(run_id: RunId, home: HomePath) -> None:
    """End a run now."""
    from federation.home import Home
    from federation.operator import OperatorClient

    OperatorClient(Home(home)).stop(run_id)
    say(f"{run_id} is asked to stop")


@app.command()
def resume(
    run_id: RunId,
    home: HomePath,
    follow: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = True,
) -> None:
    """Go on with a run that failed or was stopped, from its last closed round."""
    from federation.home import Home
    from federation.operator import OperatorClient

    client = OperatorClient(Home(home))
    told = int(client.show(run_id).get("number", 0))
    client.resume(run_id)
    say(f"{run_id} goes on")
    if follow:
        show_progress(client, run_id, told)


@app.command("show")
def show_run(
    run_id: RunId,
    home: HomePath,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show how a run stands: its state, its closed rounds, its metrics, and what can be fetched of it."""
    import json

    from federation.home import Home
    from federation.operator import OperatorClient
    from federation.progress import standing_lines

    standing = OperatorClient(Home(home)).show(run_id)
    for line in [json.dumps(standing)] if as_json else standing_lines(standing):
        typer.echo(line)


@app.command()
def model(
    run_id: RunId,
    home: HomePath,
    out: Annotated[Path, typer.Option(help="Where to write it: weights by layer (.npz), or a model (.keras).")],
    round_number: Annotated[
        int | None, typer.Option("--round", help="Of a closed round in place of the end (.npz).", min=1)
    ] = None,
) -> None:
    """Fetch the final model of a completed run, verified against its passport.

    A .keras file is made here, by the app that the passport names, in a process that may open no other files; this
    takes TensorFlow. A closed round's model comes from its checkpoint, as long as that is kept; it has no passport.
    """
    from federation.errors import UsageError
    from federation.home import Home, replace_file
    from federation.model_file import KERAS, fetch_verified, write_keras
    from federation.operator import OperatorClient

    if out.suffix not in {".npz", KERAS}:
        raise UsageError(f"got {out} to write to, expected a name that ends in .npz or {KERAS}")
    place = Home(home)
    client = OperatorClient(place)
    if round_number is not None:
        if out.suffix == KERAS:
            raise UsageError("a closed round's model has no passport", advice="take it as .npz")
        replace_file(out, client.checkpoint(run_id, round_number))
        say(f"{out.stat().st_size} bytes in {out}, of round {round_number}; not verified: it has no passport")
        return
    fetched = fetch_verified(client, place, run_id)
    if out.suffix == KERAS:
        write_keras(client, place, run_id, fetched, out)
    else:
        replace_file(out, fetched.content)
    say(f"{out.stat().st_size} bytes in {out}; its passport is verified")


@app.command()
def stats(
    statistics_file: Annotated[Path, typer.Argument(metavar="FILE", help="What is asked for (kind: Statistics).")],
    home: HomePath,
    out: Annotated[
        Path | None, typer.Option(help="Write statistics.json and statistics.svg into this directory.")
    ] = None,
    json_only: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON and nothing else.")] = False,
    valid_for: ValidFor = "7d",
) -> None:
    """Ask the silos for statistics of their data, and show them merged.

    Counts, means, variances, histograms, quantiles and correlations, as far as each silo's policy allows. No app runs.
    """
    import json

    from federation.durations import parse_duration
    from federation.home import Home, replace_file
    from federation.operator import OperatorClient
    from federation.progress import drawn
    from federation.statistics.plot import svg
    from federation.statistics.table import lines

    client = OperatorClient(Home(home))
    run_id = client.submit_statistics(statistics_file, parse_duration(valid_for))
    show_progress(client, run_id, say=None if json_only else typer.echo)
    found = client.statistics(run_id)
    if json_only:
        typer.echo(json.dumps(found, indent=1))
    else:
        for line in drawn(lambda: list(lines(found))):
            say(line)
    if out is not None:
        picture = drawn(lambda: svg(found))
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / "statistics.json", json.dumps(found, indent=1).encode() + b"\n", mode=0o644)
        replace_file(out / "statistics.svg", picture.encode(), mode=0o644)


@app.command()
def release(run_id: RunId, home: HomePath) -> None:
    """Ask the silos that keep a completed run's model to release it to you.

    A silo's policy may say who has to agree first. Exit status 3 unless all of them released it.
    """
    from federation.errors import RefusedError
    from federation.home import Home
    from federation.manifest import load_manifest
    from federation.operator import OperatorClient
    from federation.passport import verify
    from federation.progress import release_line

    client, manifest = OperatorClient(Home(home)), load_manifest(Home(home))
    predicate = verify(client.passport(run_id), manifest).statement.predicate
    said = client.release(run_id, predicate.run.digest, predicate.weights)
    for silo, fields in said.items():
        say(release_line(silo, fields))
    waiting = [silo for silo, fields in said.items() if fields["status"] != "released"]
    if waiting:
        raise RefusedError(f"not released by {', '.join(waiting)}")
    say(f"released: concordat run model {run_id}")


@app.command()
def passport(
    run_id: RunId, home: HomePath, out: Annotated[Path, typer.Option(help="Where to write the passport (.json).")]
) -> None:
    """Fetch the signed passport of a completed run's model."""
    from federation.home import Home, replace_file
    from federation.operator import OperatorClient

    content = OperatorClient(Home(home)).passport(run_id)
    replace_file(out, content)
    say(f"{len(content)} bytes in {out}")


@app.command("verify-passport")
def verify_passport(
    passport_file: Annotated[Path, typer.Argument(metavar="PASSPORT", help="The passport (.json).")],
    home: Annotated[
        Path,
        typer.Option(help="A member's home, or any directory with ca.pem, manifest.yaml and manifest.sig."),
    ],
    model: Annotated[
        Path | None, typer.Option(help="The model file (.npz) that the passport has to be of.", show_default=False)
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Write each log's checkpoint into this directory, for audit verify --witness.", show_default=False
        ),
    ] = None,
) -> None:
    """Verify the passport of a model, offline, and print what it says.

    Its signature has to be the coordinator's, by the federation's signed manifest, and the logs' checkpoints in it
    those of the manifest's members. The statement is the coordinator's word; each log's entries show what it rests on.
    """
    from urllib.parse import quote

    from federation.home import Home, read_limited, replace_file
    from federation.limits import LIMITS
    from federation.manifest import load_manifest
    from federation.passport import file_digest, lines, verify

    content = read_limited(passport_file, LIMITS.passport)
    found = verify(content, load_manifest(Home(home)), None if model is None else file_digest(model))
    for line in lines(found):
        say(line)
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        for origin, note in found.statement.predicate.logs.items():
            replace_file(checkpoints / quote(origin, safe=""), note.encode())
    say("verified" if model else "verified; no model was given, so which file it is of was not checked")


@app.command()
def simulate(
    run_file: RunFile,
    data: Annotated[
        list[Path],
        typer.Option(help="A table (.csv, .parquet) a silo, a directory of them, or a worker's .yaml; repeatable."),
    ],
    silos: Annotated[int | None, typer.Option(help="Deal the rows of the one table out to so many silos.")] = None,
    sample: Annotated[int | None, typer.Option(help="Silos in a round; all of them without it.")] = None,
    threads: Annotated[int | None, typer.Option(help="TensorFlow's threads; all cores without it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the final model (.npz).")] = None,
) -> None:
    """Try a run here, in one process, with the silos' training and the coordinator's strategies, over local tables.

    No policy is asked and nothing is logged or sent. The app's code runs unconfined, as you: try only your own.
    """
    import importlib

    # By name: this package knows none of those that use it.
    importlib.import_module("simulation.cli").simulate(run_file, data, silos, sample, threads, out, typer.echo)


@app.command()
def digest(run_file: RunFile) -> None:
    """Print the digest of the run's app, as a policy's `apps.allow` names it."""
    from federation.home import read_limited
    from federation.limits import LIMITS
    from federation.operator import build_app
    from federation.run import app_digest, load_run

    run = load_run(read_limited(run_file, LIMITS.document), source=str(run_file)).model
    say(app_digest(build_app(run_file.resolve().parent / run.app.path)))
