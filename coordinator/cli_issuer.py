"""`concordat federation issuer`: the issuing authority is replaced by another that the root certifies, and retired."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.terminal import say

if TYPE_CHECKING:
    from cryptography import x509

    from coordinator.authority import Authority
    from federation.manifest import SignedManifest

issuer = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Replace the issuing authority before it expires, or at once where its key was stolen; retire the old one.",
)

Directory = Annotated[Path, typer.Argument(help="The authority's directory.")]
Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="0600 file whose first line is the passphrase of the issuing keys."),
]
IssuingKey = Annotated[
    str | None, typer.Option(help="pkcs11: URI of the token in which the new issuing key is to be made.")
]
RootKey = Annotated[str, typer.Option(help="The root's key: a file, or the pkcs11: URI of a token.")]
RootPassphrase = Annotated[
    Path | None, typer.Option(help="0600 file whose first line is the passphrase of the root's key.")
]
Homes = Annotated[list[Path] | None, typer.Option("--home", help="A home on this machine to bring up to date; repeat.")]


@issuer.command()
def request(
    directory: Directory,
    out: Annotated[Path, typer.Option(help="Where to write the request, to be carried to the root.")],
    issuing_key: IssuingKey = None,
    passphrase_file: Passphrase = None,
) -> None:
    """Make the key of the next issuing authority, and the request that the root is to certify."""
    out.write_bytes(_authority(directory, passphrase_file).request_issuer(issuing_key))
    say(f"where the root's key is: concordat federation issuer certify {out} --root ca.pem --root-key KEY --out …")


@issuer.command()
def certify(
    request_file: Annotated[Path, typer.Argument(metavar="REQUEST", help="The request made at the authority.")],
    root: Annotated[Path, typer.Option(help="The root's certificate, ca.pem.")],
    root_key: RootKey,
    out: Annotated[Path, typer.Option(help="Where to write the certificate, to be carried back.")],
    root_passphrase_file: RootPassphrase = None,
) -> None:
    """Where the root's key is, off the network: certify the next issuing authority."""
    from cryptography.hazmat.primitives import serialization

    from federation.home import read_limited
    from federation.identity import fingerprint, load_certificate, public_key_pem
    from federation.limits import LIMITS
    from federation.trust import generation_of

    authority = load_certificate(read_limited(root, LIMITS.certificate))
    content = read_limited(request_file, LIMITS.certificate)
    certificate = _certified(content, authority, root_key, root_passphrase_file)
    out.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    expires = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    say(f"certified {certificate.subject.rfc4514_string()} until {expires}")
    say(f"fingerprint of its key: {fingerprint(public_key_pem(certificate.public_key()))}")
    say(f"back at the authority: concordat federation issuer replace DIRECTORY --certificate {out}")
    say(f"keep count in the safe: this was issuing authority number {generation_of(certificate)}")


@issuer.command()
def replace(
    directory: Directory,
    certificate: Annotated[
        Path | None, typer.Option(help="What the root made of the request; else the root's key is to be at hand.")
    ] = None,
    root_key: Annotated[
        str | None, typer.Option(help="The root's key, where it is at hand: a file, or a pkcs11: URI.")
    ] = None,
    stolen: Annotated[
        str | None, typer.Option(help="The key of the one so far was stolen: retire it at once, for this reason.")
    ] = None,
    issuing_key: IssuingKey = None,
    home: Homes = None,
    passphrase_file: Passphrase = None,
    root_passphrase_file: RootPassphrase = None,
) -> None:
    """Issue and sign with another issuing authority from now on; certificates of the one so far count until retired."""
    from federation.errors import UsageError
    from federation.home import read_limited
    from federation.identity import load_certificate
    from federation.limits import LIMITS

    if (certificate is None) == (root_key is None):
        raise UsageError("got both or neither of --certificate and --root-key, expected one of them")
    authority = _authority(directory, passphrase_file)
    if root_key is not None:
        root = load_certificate(read_limited(authority.certificate, LIMITS.certificate))
        new = _certified(authority.request_issuer(issuing_key), root, root_key, root_passphrase_file)
    else:
        assert certificate is not None  # noqa: S101  one of the two
        new = load_certificate(read_limited(certificate, LIMITS.certificate))
    before = authority.key
    manifest = authority.replace_issuer(new, stolen)
    _bring(manifest, home)
    number = manifest.edition[0]
    say(f"issuing authority {number} signs from now on (manifest version {manifest.version})")
    if before.exists():
        say(f"destroy {before}: it signs nothing any more")
    if stolen is not None:
        say("the one before counts for nothing; members come back with a request by courier or an invitation:")
        say("at the member: concordat federation renew --offline, or concordat federation enroll-online")
        return
    _say_remaining(authority)
    say(f"once nobody is left: concordat federation issuer retire {directory} --reason …")


@issuer.command()
def retire(
    directory: Directory,
    reason: Annotated[str, typer.Option(help="Why; it is in the manifest, for every member to read.")],
    number: Annotated[int | None, typer.Option(help="Which one; else all that were replaced.")] = None,
    stolen: Annotated[
        bool, typer.Option("--stolen", help="Its key was stolen: what was signed under it before counts neither.")
    ] = False,
    leave_behind: Annotated[
        bool, typer.Option("--leave-behind", help="Also where members have no certificate of a later one yet.")
    ] = False,
    home: Homes = None,
    passphrase_file: Passphrase = None,
) -> None:
    """Let the certificates of issuing authorities that were replaced count no more."""
    from federation.errors import UsageError

    authority = _authority(directory, passphrase_file)
    remaining = authority.remaining(number)
    if remaining and not (leave_behind or stolen):
        raise UsageError(
            f"{', '.join(remaining)} would be shut out: their certificates are of an issuing authority to be retired",
            advice="wait for their renewal, or give --leave-behind",
        )
    manifest = authority.retire_issuer(reason, number, stolen=stolen)
    _bring(manifest, home)
    say(f"retired (manifest version {manifest.version})")


@issuer.command()
def show(directory: Annotated[Path, typer.Argument(help="The authority's directory, or a member's home.")]) -> None:
    """List the issuing authorities, how long they are valid, and at an authority who still depends on a former one."""
    from coordinator.authority import Authority
    from federation.home import Home
    from federation.manifest import load_manifest

    manifest = load_manifest(Home(directory), expired=True)
    for one in manifest.federation.former_issuers:
        state = f"retired {one.retired:%Y-%m-%d}: {one.reason}" if one.retired else "replaced, its certificates count"
        say(f"{one.generation:6}  until {one.x509.not_valid_after_utc:%Y-%m-%d}  {state}")
    say(f"{manifest.edition[0]:6}  until {manifest.issuer.not_valid_after_utc:%Y-%m-%d}  issues and signs")
    authority = Authority(directory)
    if authority.configuration.exists():
        _say_remaining(authority)


def _authority(directory: Path, passphrase_file: Path | None) -> Authority:
    from coordinator.authority import Authority
    from coordinator.authority.keys import read_passphrase

    return Authority(directory, read_passphrase(passphrase_file))


def _certified(
    request_content: bytes, root: x509.Certificate, root_key: str, passphrase_file: Path | None
) -> x509.Certificate:
    from datetime import UTC, datetime

    from coordinator.authority.issuers import certify_issuer
    from coordinator.authority.keys import load_key, read_passphrase

    reference = root_key if root_key.startswith("pkcs11:") else None
    key = load_key(Path(root_key), reference, read_passphrase(passphrase_file))
    return certify_issuer(request_content, root, key, datetime.now(UTC))


def _bring(manifest: SignedManifest, homes: list[Path] | None) -> None:
    from federation.home import Home
    from federation.manifest import accept_manifest

    for path in homes or []:
        accept_manifest(Home(path), manifest.document.text, manifest.signature)


def _say_remaining(authority: Authority) -> None:
    remaining = authority.remaining()
    if remaining:
        say(f"with a certificate of a former one: {', '.join(remaining)}")
