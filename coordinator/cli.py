"""`concordat federation` and `concordat coordinator`: for the consortium's operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli_issuer import issuer
from federation.logs import LogFormat, speaker
from federation.terminal import printable, say

if TYPE_CHECKING:
    from coordinator.authority import Authority
    from federation.identity import Role

federation = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Found a federation, enrol members, show the manifest.\n\n"
    "The directory of `init` holds the authority's keys. Keep it on a machine of its own, or beside the coordinator "
    "where certificates are to be renewed on line; the root's key belongs in a safe either way.",
)
federation.add_typer(issuer, name="issuer")
coordinator = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Directory = Annotated[Path, typer.Argument(help="The authority's directory.")]
HomePath = Annotated[Path, typer.Option("--home", help="The member's home: keys, certificate, manifest, audit log.")]


Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="0600 file whose first line is the passphrase of the authority's keys."),
]


def _authority(directory: Path, passphrase_file: Path | None) -> Authority:
    from coordinator.authority import Authority
    from coordinator.authority.keys import read_passphrase

    return Authority(directory, read_passphrase(passphrase_file))


@federation.command()
def init(
    directory: Directory,
    name: Annotated[str, typer.Option(help="The federation's name, such as cardio.example.org.")],
    lifetime: Annotated[str, typer.Option(help="How long members' certificates are valid: 30d, 12h, 90m.")] = "30d",
    passphrase_file: Passphrase = None,
    root_key: Annotated[
        str | None, typer.Option(help="pkcs11: URI of the token in which the root's key is to be made.")
    ] = None,
    issuing_key: Annotated[
        str | None, typer.Option(help="pkcs11: URI of the token in which the issuing key is to be made.")
    ] = None,
) -> None:
    """Found a federation: a root, an issuing authority that it certifies, and the first, empty manifest."""
    authority = _authority(directory, passphrase_file)
    manifest = authority.found(name, lifetime, root_key, issuing_key)
    say(f"founded {name} in {directory} (manifest version {manifest.version})")
    if root_key is None:
        say(f"move {authority.root_key} to a safe: it is needed again only to certify another issuing key")
    say("next, at each member: concordat federation request, or concordat silo enroll")


@federation.command()
def invite(
    directory: Directory,
    name: Annotated[str, typer.Argument(help="The name the member is to have.")],
    country: Annotated[str, typer.Option(help="ISO 3166 code of the country where the member's machines stand.")],
    at: Annotated[str, typer.Option(help="host:port of the coordinator's enrolment interface.")],
    out: Annotated[Path, typer.Option(help="Where to write the invitation. It holds a secret: hand it over safely.")],
    role: Annotated[str, typer.Option(help="silo, operator or auditor.")] = "silo",
    lifetime: Annotated[str, typer.Option(help="How long the token is valid: 7d, 12h.")] = "7d",
    passphrase_file: Passphrase = None,
) -> None:
    """Make a one-time token for a member that is to come, or for one that lost its key."""
    from federation.addresses import split_address
    from federation.durations import parse_duration
    from federation.identity import write_private

    split_address(at)
    span = parse_duration(lifetime)
    _check_new(out)
    authority = _authority(directory, passphrase_file)
    invitation = authority.invite(name, _role(role), country, at, lifetime=span)
    write_private(out, json.dumps(invitation.model_dump(mode="json"), indent=1).encode() + b"\n")
    say(f"invited {name} as {role} in {country} until {invitation.expires:%Y-%m-%d %H:%M} UTC")
    say(f"hand over {out}; then, there: concordat silo enroll --invitation FILE, or federation enroll-online")


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
    certificate: Annotated[
        Path | None, typer.Option(help="A certificate of your own authority, with its chain, in place of a request.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The key of that certificate, mode 0600.")] = None,
) -> None:
    """At a member: make its keys here and write the request for a certificate."""
    from federation.addresses import split_address
    from federation.cli.member import say_key
    from federation.enrolment import request_enrolment
    from federation.errors import UsageError
    from federation.home import Home
    from federation.identity import Role

    for one in address or []:
        split_address(one)
    if (certificate is None) != (key is None):
        raise UsageError("got one of --certificate and --key, expected both or neither")
    own = (certificate, key) if certificate is not None and key is not None else None
    if _role(role) is Role.COORDINATOR and not address:
        raise UsageError("got a coordinator without an address", advice="give --address host:port, as members reach it")
    place = Home(home)
    request_enrolment(place, federation_name, name, _role(role), country, tuple(address or ()), own=own)
    say_key(place)
    say(f"send the operator: {place.request}")


@federation.command()
def enroll(
    directory: Directory,
    request_file: Annotated[Path, typer.Argument(metavar="REQUEST", help="The member's request or renewal request.")],
    out: Annotated[Path, typer.Option(help="Where to write the bundle for the member.")],
    lifetime: Annotated[
        str | None, typer.Option(help="How long the certificate is valid: 30d, 12h; else as founded.")
    ] = None,
    passphrase_file: Passphrase = None,
) -> None:
    """Certify a member's key, enter it in the manifest, and write the bundle to send back. Also renews by courier."""
    from coordinator.authority import request_fingerprint
    from federation.durations import parse_duration
    from federation.enrolment import parse_request
    from federation.home import read_limited
    from federation.identity import fingerprint
    from federation.limits import LIMITS
    from federation.renewal import is_renewal_request, verify_courier

    authority = _authority(directory, passphrase_file)
    _check_new(out)
    content = read_limited(request_file, LIMITS.document)
    if is_renewal_request(content):
        peer, csr = verify_courier(content, authority.manifest(), authority.issued.is_newest)
        certificate = authority.renew(peer, csr)
        say(f"renewed the certificate of {peer.name}: the key of the one it was issued last signed the request")
        say(f"where that one counts no more, compare its fingerprint by telephone: {fingerprint(peer.public_key)}")
    else:
        asked = parse_request(content)
        certificate, manifest = authority.enrol(asked, parse_duration(lifetime) if lifetime else None)
        say(f"enrolled {asked.name} as {asked.role} in {asked.country} (manifest version {manifest.version})")
        say(f"fingerprint to compare by telephone: {request_fingerprint(asked)}")
    out.write_text(json.dumps(authority.bundle(certificate), indent=1) + "\n")
    say(f"send the member: {out}")


@federation.command()
def revoke(
    directory: Directory,
    reason: Annotated[str, typer.Option(help="Why; it is in the manifest, for every member to read.")],
    name: Annotated[str | None, typer.Argument(help="The member that is to leave.")] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            help="Serial number of one certificate of a member that stays; with NAME for one of its own authority."
        ),
    ] = None,
    home: Annotated[list[Path] | None, typer.Option(help="A home on this machine to bring up to date; repeat.")] = None,
    passphrase_file: Passphrase = None,
) -> None:
    """Take a member out of the manifest, for good, or one of its certificates; writes crl.pem for other software.

    Its connections are cut once the coordinator has the new manifest.
    """
    from federation.errors import UsageError
    from federation.home import Home
    from federation.manifest import accept_manifest, load_manifest

    authority = _authority(directory, passphrase_file)
    for path in home or []:
        load_manifest(Home(path))
    if certificate is not None:
        manifest = authority.revoke_certificate(certificate, reason, name)
    elif name is not None:
        manifest = authority.revoke(name, reason)
    else:
        raise UsageError("got neither a member nor a certificate, expected one of them")
    for path in home or []:
        accept_manifest(Home(path), manifest.document.text, manifest.signature)
    say(f"revoked {certificate or name} (manifest version {manifest.version})")
    if not home:
        say("it takes effect once the coordinator has the manifest: at once beside this directory, else")
        say("bring it there: concordat federation manifest")


@federation.command()
def trust(
    directory: Directory,
    name: Annotated[str, typer.Option(help="A name for the institution's authority.")],
    certificate: Annotated[Path, typer.Option(help="The certificate (PEM) of the authority that issues.")],
    member: Annotated[list[str], typer.Option(help="A member that it may vouch for; repeat for several.")],
    passphrase_file: Passphrase = None,
) -> None:
    """Accept certificates of an institution's own authority, for the members named and no others."""
    from federation.home import read_limited
    from federation.limits import LIMITS

    authority = _authority(directory, passphrase_file)
    manifest = authority.trust(name, read_limited(certificate, LIMITS.certificate), tuple(member))
    say(f"{name} may vouch for {', '.join(member)} (manifest version {manifest.version})")


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
    say(f"{', '.join(map(str, home))}: manifest version {newest.version}")


@federation.command()
def show(
    directory: Annotated[Path, typer.Argument(help="The authority's directory, or a member's home.")],
) -> None:
    """Verify and print the manifest; at an authority also who is invited."""
    from coordinator.authority import Authority
    from federation.home import Home
    from federation.manifest import load_manifest

    signed = load_manifest(Home(directory))
    content = signed.federation
    say(f"{content.metadata.name}, manifest version {signed.version}, {signed.document.digest}")
    for member in content.members:
        place = " ".join(member.addresses)
        say(f"  {member.name:24} {member.role.value:12} {member.country}  {place}".rstrip())
    for one in content.revoked:
        say(f"  {one.name:24} revoked {one.date}: {one.reason}")
    for gone in content.revoked_certificates:
        say(f"  {gone.name:24} certificate {gone.serial[:16]} revoked {gone.date}: {gone.reason}")
    for authority in content.authorities:
        say(f"  {authority.name:24} authority    vouches for {', '.join(authority.members)}")
    for former in content.former_issuers:
        state = f"retired {former.retired:%Y-%m-%d}: {former.reason}" if former.retired else "replaced, still counts"
        say(f"  issuing authority {former.generation:<6} {state}")
    for promise in Authority(directory).invitations.open():
        say(f"  {promise.name:24} invited      {promise.country}  until {promise.expires:%Y-%m-%d %H:%M} UTC")


@federation.command()
def join(
    bundle: Annotated[Path, typer.Argument(help="The bundle that the operator returned.")], home: HomePath
) -> None:
    """At a member: install the certificate and the signed manifest."""
    from federation.enrolment import join as join_federation
    from federation.home import Home, read_limited
    from federation.limits import LIMITS

    signed = join_federation(Home(home), read_limited(bundle, 4 * LIMITS.document))
    say(f"joined {signed.federation.metadata.name} (manifest version {signed.version})")


@federation.command("enroll-online")
def enroll_online(
    invitation: Annotated[Path, typer.Argument(help="The invitation from the operator.")], home: HomePath
) -> None:
    """At an operator or auditor: make the keys here and join with an invitation. A silo does: concordat silo enroll."""
    from federation.cli.member import enrol_by_invitation

    enrol_by_invitation(invitation, home)


@federation.command()
def renew(
    home: HomePath,
    offline: Annotated[
        Path | None, typer.Option(help="Write a renewal request to this file, for the operator, and ask nobody.")
    ] = None,
) -> None:
    """At a member: get a certificate for a new key now. A gate does so itself, half-way through its life."""
    from federation.cli.member import renew_certificate

    renew_certificate(home, offline)


@federation.command()
def status(
    home: HomePath,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """At a member: show its identity and how long its certificate is valid. Exit code 1 where there is a problem."""
    from federation.cli.member import show_status

    show_status(home, as_json)


def _check_new(out: Path) -> None:
    """Refuse a file that cannot be written before anything is issued that was to stand in it; raises UsageError."""
    from federation.errors import UsageError

    _check_directory(out.parent)
    if out.exists():
        raise UsageError(f"{out} exists", advice="give another file; nothing was issued")


def _check_directory(place: Path) -> None:
    from federation.errors import UsageError

    if not place.is_dir():
        raise UsageError(f"{place} is not a directory", advice="make it, or write elsewhere")


def _role(text: str) -> Role:
    from federation.errors import UsageError
    from federation.identity import Role

    if text not in {known.value for known in Role}:
        raise UsageError(f"got role {text!r}, expected one of {', '.join(known.value for known in Role)}")
    return Role(text)


@coordinator.callback()
def _coordinator() -> None:
    """Run the coordinator: the gateway, and the executor of runs."""


@coordinator.command()
def serve(
    home: HomePath,
    listen: Annotated[str | None, typer.Option(help="host:port to listen on, if not the manifest's address.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="host:port for metrics, health and readiness over plain HTTP; off without.")
    ] = None,
    await_enrolment: Annotated[
        bool, typer.Option("--await-enrolment", help="Where the home has no certificate yet, wait for one.")
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="Lines for people, or one JSON object a line.")
    ] = LogFormat.TEXT,
    authority: Annotated[
        Path | None, typer.Option(help="The authority's directory: renew certificates and take its manifests on line.")
    ] = None,
    enrolment: Annotated[
        str | None, typer.Option(help="host:port of the enrolment interface, for invitations. Needs --authority.")
    ] = None,
    passphrase_file: Passphrase = None,
) -> None:
    """Run the coordinator: gateway, run executor, audit log. Stops on Ctrl-C or SIGTERM."""
    from coordinator.service import Coordinator, prepare_home
    from federation.errors import UsageError
    from federation.home import Home
    from federation.waiting import wait_for_certificate

    if enrolment is not None and authority is None:
        raise UsageError("got --enrolment without --authority, expected the authority that is to certify")
    beside = _authority(authority, passphrase_file) if authority is not None else None

    say = speaker(log_format, "coordinator")
    if await_enrolment:
        wait_for_certificate(Home(home), metrics, say)
    Coordinator(prepare_home(home), listen, beside, enrolment, metrics).serve(
        lambda place: say(f"listening on {place}")
    )


@coordinator.command()
def probe(
    ready: Annotated[list[str], typer.Option(help="host:port whose /readyz has to say ok; repeat.")],
) -> None:
    """Ask a coordinator's readiness: the test of an installation. Exit code 1 where one is not ready."""
    from federation.errors import Exit
    from federation.probe import try_all

    findings = try_all(ready, (), (), ())
    for finding in findings:
        say(str(finding))
    if not all(finding.as_expected for finding in findings):
        raise typer.Exit(Exit.FAILED)


@coordinator.command()
def doctor(
    home: HomePath,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Examine an installation: each finding with a remedy. Exit code 1 where something has to be mended."""
    from coordinator.doctor import examine_coordinator
    from federation.doctor.findings import as_json as shown_as_json
    from federation.doctor.findings import is_well
    from federation.errors import Exit
    from federation.home import Home

    findings = examine_coordinator(Home(home))
    typer.echo(shown_as_json(findings) if as_json else "\n".join(map(printable, findings)))
    if not is_well(findings):
        raise typer.Exit(Exit.FAILED)
