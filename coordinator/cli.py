"""`concordat federation` and `concordat coordinator`: for the consortium's operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

federation = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Found a federation, enrol members, show the manifest.\n\n"
    "The directory of `init` holds the authority's key: keep it on a machine of its own.",
)
coordinator = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Directory = Annotated[Path, typer.Argument(help="The authority's directory.")]
HomePath = Annotated[Path, typer.Option("--home", help="The member's home: keys, certificate, manifest, audit log.")]


@federation.command()
def init(
    directory: Directory,
    name: Annotated[str, typer.Option(help="The federation's name, such as cardio.example.org.")],
) -> None:
    """Found a federation: the authority's key and certificate, and the first, empty manifest."""
    from coordinator.authority import Authority

    manifest = Authority(directory).found(name)
    typer.echo(f"founded {name} in {directory} (manifest version {manifest.version})")
    typer.echo("next, at each member: concordat federation request, or concordat silo enroll")


@federation.command()
def request(
    federation_name: Annotated[str, typer.Argument(metavar="FEDERATION", help="The federation's name.")],
    name: Annotated[str, typer.Option(help="The member's name.")],
    role: Annotated[str, typer.Option(help="coordinator, silo, operator or auditor.")],
    country: Annotated[str, typer.Option(help="ISO 3166 code of the country where the member's machines stand.")],
    home: HomePath,
    address: Annotated[
        list[str] | None,
        typer.Option(help="host:port at which the coordinator is reached; repeat for several."),
    ] = None,
) -> None:
    """At a member: make its keys here and write the request for a certificate."""
    from federation.addresses import split_address
    from federation.enrolment import request_enrolment
    from federation.errors import UsageError
    from federation.home import Home
    from federation.identity import Role

    if role not in {known.value for known in Role}:
        raise UsageError(f"got role {role!r}, expected one of {', '.join(known.value for known in Role)}")
    for one in address or []:
        split_address(one)
    place = Home(home)
    request_enrolment(place, federation_name, name, Role(role), country, tuple(address or ()))
    typer.echo(f"keys made in {home}; send the operator: {place.request}")


@federation.command()
def enroll(
    directory: Directory,
    request_file: Annotated[Path, typer.Argument(metavar="REQUEST", help="The member's request.json.")],
    out: Annotated[Path, typer.Option(help="Where to write the bundle for the member.")],
    days: Annotated[int, typer.Option(min=1, max=825, help="Days the certificate is valid.")] = 30,
) -> None:
    """Certify a member's key, enter it in the manifest, and write the bundle to send back."""
    from coordinator.authority import Authority, request_fingerprint
    from federation.enrolment import parse_request
    from federation.home import read_limited
    from federation.limits import LIMITS

    authority = Authority(directory)
    asked = parse_request(read_limited(request_file, LIMITS.document))
    certificate, manifest = authority.enrol(asked, days)
    out.write_text(json.dumps(authority.bundle(certificate), indent=1) + "\n")
    typer.echo(f"enrolled {asked.name} as {asked.role} in {asked.country} (manifest version {manifest.version})")
    typer.echo(f"fingerprint to compare by telephone: {request_fingerprint(asked)}")
    typer.echo(f"send the member: {out}")


@federation.command()
def revoke(
    directory: Directory,
    name: Annotated[str, typer.Argument(help="The member that is to leave.")],
    reason: Annotated[str, typer.Option(help="Why; it is in the manifest, for every member to read.")],
    home: Annotated[list[Path] | None, typer.Option(help="A home on this machine to bring up to date; repeat.")] = None,
) -> None:
    """Take a member out of the manifest, for good. Its connections are cut once the coordinator has the new one."""
    from coordinator.authority import Authority
    from federation.home import Home
    from federation.manifest import accept_manifest

    manifest = Authority(directory).revoke(name, reason)
    for path in home or []:
        accept_manifest(Home(path), manifest.document.text, manifest.signature)
    typer.echo(f"revoked {name} (manifest version {manifest.version})")
    if not home:
        typer.echo("it takes effect when the coordinator has the manifest: concordat federation manifest")


@federation.command("manifest")
def write_manifest(
    directory: Directory,
    home: Annotated[list[Path], typer.Option(help="A home to bring up to date; repeat.")],
) -> None:
    """Bring homes on this machine up to the authority's newest manifest."""
    from coordinator.authority import Authority
    from federation.home import Home
    from federation.manifest import accept_manifest

    newest = Authority(directory).manifest()
    for path in home:
        accept_manifest(Home(path), newest.document.text, newest.signature)
    typer.echo(f"{len(home)} homes have manifest version {newest.version}")


@federation.command()
def show(
    directory: Annotated[Path, typer.Argument(help="The authority's directory, or a member's home.")],
) -> None:
    """Verify and print the manifest."""
    from federation.home import Home
    from federation.manifest import load_manifest

    signed = load_manifest(Home(directory))
    content = signed.federation
    typer.echo(f"{content.metadata.name}, manifest version {signed.version}, {signed.document.digest}")
    for member in content.members:
        place = " ".join(member.addresses)
        typer.echo(f"  {member.name:24} {member.role.value:12} {member.country}  {place}".rstrip())


@federation.command()
def join(
    bundle: Annotated[Path, typer.Argument(help="The bundle that the operator returned.")], home: HomePath
) -> None:
    """At a member: install the certificate and the signed manifest."""
    from federation.enrolment import join as join_federation
    from federation.home import Home, read_limited
    from federation.limits import LIMITS

    signed = join_federation(Home(home), read_limited(bundle, 4 * LIMITS.document))
    typer.echo(f"joined {signed.federation.metadata.name} (manifest version {signed.version})")


@coordinator.callback()
def _coordinator() -> None:
    """Run the coordinator: the gateway, and the executor of runs."""


@coordinator.command()
def serve(
    home: HomePath,
    listen: Annotated[str | None, typer.Option(help="host:port to listen on, if not the manifest's address.")] = None,
) -> None:
    """Run the coordinator: gateway, run executor, audit log. Stops on Ctrl-C or SIGTERM."""
    from coordinator.service import Coordinator, prepare_home

    Coordinator(prepare_home(home), listen).serve(lambda place: typer.echo(f"listening on {place}", err=True))
