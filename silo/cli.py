"""`concordat silo`: for an institution's IT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from federation.logs import LogFormat, speaker
from federation.terminal import printable, say
from silo.governance.cli import approve, approve_release, revoke_approval

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Join a federation as a silo; run its gate and its worker.\n\n"
    "The gate holds the identity and reaches the coordinator; it never opens data. "
    "The worker opens the data and has no network.",
)

Format = Annotated[LogFormat, typer.Option("--log-format", help="Lines for people, or one JSON object a line.")]
HomePath = Annotated[Path, typer.Option("--home", help="The gate's home: keys, certificate, manifest, audit log.")]


@app.command()
def enroll(
    home: HomePath,
    federation: Annotated[str | None, typer.Argument(help="The federation's name, from its operator.")] = None,
    name: Annotated[str | None, typer.Option(help="This silo's member name, such as hospital-a.")] = None,
    country: Annotated[
        str | None, typer.Option(help="ISO 3166 code of the country where this silo's machines stand.")
    ] = None,
    invitation: Annotated[
        Path | None, typer.Option(help="The invitation from the operator, in place of the three above.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="With an invitation: write the request and ask nobody.")
    ] = False,
) -> None:
    """Make this silo's keys here; join with an invitation, or write the request to send to the operator."""
    from federation.cli.member import enrol_by_invitation, write_request
    from federation.errors import UsageError
    from federation.identity import Role

    if invitation is not None and not (federation or name or country):
        enrol_by_invitation(invitation, home, Role.SILO, offline=offline)
    elif federation and name and country and invitation is None:
        write_request(home, federation, name, Role.SILO, country)
    else:
        raise UsageError("expected FEDERATION, --name and --country, or --invitation alone")


@app.command()
def status(
    home: HomePath,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show this silo's identity and how long its certificate is valid. Exit code 1 where there is a problem."""
    from federation.cli.member import show_status

    show_status(home, as_json)


@app.command()
def join(
    bundle: Annotated[Path, typer.Argument(help="The bundle that the operator returned.")],
    home: HomePath,
) -> None:
    """Install the certificate and the signed manifest, after checking that they belong to this home's key."""
    from federation.enrolment import join as join_federation
    from federation.home import Home, read_limited
    from federation.limits import LIMITS

    manifest = join_federation(Home(home), read_limited(bundle, 4 * LIMITS.document))
    say(f"joined {manifest.federation.metadata.name} (manifest version {manifest.version})")


@app.command()
def gate(
    config: Annotated[Path, typer.Argument(help="The gate's configuration (kind: Silo).")],
    home: HomePath,
    await_enrolment: Annotated[
        bool, typer.Option("--await-enrolment", help="Where the home has no certificate yet, wait for one.")
    ] = False,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Run the gate: admission, ingress and egress decisions, audit log. Stops on Ctrl-C or SIGTERM."""
    from federation.home import Home
    from federation.waiting import wait_for_certificate
    from silo.config import load_silo_config
    from silo.gate.service import Gate

    say = speaker(log_format, "gate")
    if await_enrolment:
        wait_for_certificate(Home(home), load_silo_config(config).metrics, say)
    Gate(Home(home), config).serve(say)


@app.command()
def worker(
    config: Annotated[Path, typer.Argument(help="The worker's configuration (kind: Worker).")],
    gate: Annotated[
        str | None, typer.Option(help="host:port of the gate, in place of the one in the configuration.")
    ] = None,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Run the worker: reads the data, trains, has no network. Stops on Ctrl-C or SIGTERM."""
    from silo.worker.service import run_worker

    run_worker(config, speaker(log_format, "worker"), gate)


@app.command()
def probe(
    ready: Annotated[list[str] | None, typer.Option(help="host:port whose /readyz has to say ok; repeat.")] = None,
    reached: Annotated[list[str] | None, typer.Option(help="host:port that has to answer; repeat.")] = None,
    unreached: Annotated[list[str] | None, typer.Option(help="host:port that must not answer; repeat.")] = None,
    unresolved: Annotated[list[str] | None, typer.Option(help="Name that must not be found; repeat.")] = None,
) -> None:
    """Try from here what can be reached: the test of an installation. Exit code 1 where not all is as expected."""
    from federation.errors import Exit
    from federation.probe import try_all

    findings = try_all(ready or (), reached or (), unreached or (), unresolved or ())
    for finding in findings:
        say(str(finding))
    if not all(finding.as_expected for finding in findings):
        raise typer.Exit(Exit.FAILED)


@app.command()
def doctor(
    gate: Annotated[
        Path | None, typer.Option("--gate", help="Where the gate runs: its configuration; with --home.")
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Where the gate runs: its home.")] = None,
    worker: Annotated[Path | None, typer.Option("--worker", help="Where the worker runs: its configuration.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Examine an installation: each finding with a remedy. Exit code 1 where something has to be mended."""
    from federation.doctor.findings import as_json as shown_as_json
    from federation.doctor.findings import is_well
    from federation.errors import Exit, UsageError
    from federation.home import Home
    from silo.doctor import examine_gate, examine_worker

    if (gate is None) != (home is None) or (gate is None and worker is None):
        raise UsageError("expected --gate with --home where the gate runs, --worker where the worker runs")
    findings = examine_gate(Home(home), gate) if gate is not None and home is not None else []
    findings += examine_worker(worker) if worker is not None else []
    typer.echo(shown_as_json(findings) if as_json else "\n".join(map(printable, findings)))
    if not is_well(findings):
        raise typer.Exit(Exit.FAILED)


app.command()(approve)
app.command()(revoke_approval)
app.command()(approve_release)


@app.command()
def ledger(
    home: HomePath,
    dataset: Annotated[str | None, typer.Option(help="Show this dataset alone.")] = None,
    delta: Annotated[float, typer.Option(help="The delta at which epsilon is told.")] = 1e-5,
    days: Annotated[int | None, typer.Option(help="Count only the last so many days.")] = None,
) -> None:
    """Show what of each dataset's privacy was spent, by which run and operator. The gate may be running.

    Epsilons of runs do not add up: the total is composed from all steps together.
    """
    from datetime import UTC, datetime, timedelta

    from federation.home import Home
    from silo.gate.ledger import LEDGER, read_ledger
    from silo.gate.statement import statement

    since = datetime.now(UTC) - timedelta(days=days) if days is not None else None
    for line in statement(read_ledger(Home(home).path / LEDGER), delta, dataset, since):
        say(line)
