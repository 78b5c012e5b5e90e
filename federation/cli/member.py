"""What every member does at its own home: join with an invitation, renew, look how it stands."""

from __future__ import annotations

import json
from pathlib import Path

import click

from federation.enrolment import Invitation, parse_invitation, request_enrolment
from federation.errors import Exit, UsageError
from federation.home import Home, replace_file
from federation.identity import Role, fingerprint, load_private_key, public_key_pem, read_private
from federation.joining import enrol, prepare
from federation.manifest import load_manifest
from federation.membership import coordinator_context
from federation.renewal import renew, request_by_courier
from federation.status import status_of
from federation.terminal import say
from federation.trust import serial_of


def enrol_by_invitation(file: Path, path: Path, role: Role | None = None, *, offline: bool = False) -> None:
    """Join with an invitation, on line or by a request to carry; the same fingerprint shows on both sides."""
    if not file.exists():
        raise UsageError(f"{file} is missing", advice="give the file that the operator handed over")
    invitation: Invitation = parse_invitation(read_private(file))
    if role is not None and invitation.role is not role:
        raise UsageError(f"the invitation is for a {invitation.role}, expected a {role}")
    home = Home(path)
    prepare(home, invitation)
    say_key(home)
    if offline:
        say(f"send the operator: {home.request}")
        return
    manifest = enrol(home, invitation)
    say(f"joined {manifest.federation.metadata.name} as {invitation.name} (manifest version {manifest.version})")


def write_request(path: Path, federation: str, name: str, role: Role, country: str) -> None:
    """Make the keys and write the request for the operator."""
    home = Home(path)
    request_enrolment(home, federation, name, role, country)
    say_key(home)
    say(f"send the operator: {home.request}")


def renew_certificate(path: Path, offline: Path | None) -> None:
    """Get a certificate for a new key, from the coordinator or by courier."""
    home = Home(path)
    if offline is not None:
        replace_file(offline, request_by_courier(home))
        say(f"send the operator: {offline}")
        say(f"then install what comes back: concordat federation join BUNDLE --home {path}")
        return
    manifest = load_manifest(home)
    coordinator = manifest.federation.coordinator
    if not coordinator.addresses:
        raise UsageError(f"the manifest has no address for {coordinator.name}")
    certificate = renew(home, coordinator.addresses[0], coordinator_context(home))
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    say(f"renewed: certificate {serial_of(certificate)[:16]}, valid until {until}")


def show_status(path: Path, as_json: bool) -> None:
    """Print how a member stands; exits with code 1 where there is a problem."""
    status = status_of(Home(path))
    if as_json:
        click.echo(json.dumps(status.fields()))
    else:
        for line in status.lines():
            say(line)
    if status.problem:
        raise click.exceptions.Exit(Exit.FAILED)


def say_key(home: Home) -> None:
    """Say where the keys are, and the fingerprint by which the operator knows them."""
    say(f"keys made in {home.path}; they stay there")
    key = public_key_pem(load_private_key(home.key).public_key())
    say(f"fingerprint to compare by telephone: {fingerprint(key)}")
