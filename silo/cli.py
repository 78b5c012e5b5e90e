"""`concordat silo`: for an institution's IT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Join a federation as a silo; run its gate and its worker.\n\n"
    "The gate holds the identity and reaches the coordinator; it never opens data. "
    "The worker opens the data and has no network.",
)

HomePath = Annotated[Path, typer.Option("--home", help="The gate's home: keys, certificate, manifest, audit log.")]


@app.command()
def enroll(
    federation: Annotated[str, typer.Argument(help="The federation's name, from its operator.")],
    name: Annotated[str, typer.Option(help="This silo's member name, such as hospital-a.")],
    country: Annotated[str, typer.Option(help="ISO 3166 code of the country where this silo's machines stand.")],
    home: HomePath,
) -> None:
    """Make this silo's keys here and write the request for a certificate, to send to the operator."""
    from federation.enrolment import request_enrolment
    from federation.home import Home
    from federation.identity import Role, fingerprint, public_key_pem

    place = Home(home)
    request_enrolment(place, federation, name, Role.SILO, country)
    key = public_key_pem(place_key(place))
    typer.echo(f"keys made in {home}; they stay there")
    typer.echo(f"send the operator: {place.request}")
    typer.echo(f"fingerprint to compare by telephone: {fingerprint(key)}")


def place_key(home: object) -> object:
    """The public key of a home's private key."""
    from federation.home import Home
    from federation.identity import load_private_key

    assert isinstance(home, Home)  # noqa: S101  narrowing for the type checker
    return load_private_key(home.key).public_key()


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
    typer.echo(f"joined {manifest.federation.metadata.name} (manifest version {manifest.version})")


@app.command()
def gate(
    config: Annotated[Path, typer.Argument(help="The gate's configuration (kind: Silo).")],
    home: HomePath,
) -> None:
    """Run the gate: admission, ingress and egress decisions, audit log. Stops on Ctrl-C or SIGTERM."""
    from federation.home import Home
    from silo.gate.service import Gate

    Gate(Home(home), config).serve(lambda text: typer.echo(text, err=True))


@app.command()
def worker(
    config: Annotated[Path, typer.Argument(help="The worker's configuration (kind: Worker).")],
) -> None:
    """Run the worker: reads the data, trains, has no network. Stops on Ctrl-C or SIGTERM."""
    from silo.worker.service import run_worker

    run_worker(config, lambda text: typer.echo(text, err=True))
