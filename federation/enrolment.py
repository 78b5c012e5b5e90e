"""The member's side of enrolment: make the keys here, ask for a certificate, take over what comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import AwareDatetime, Field, ValidationError

from audit import keys as log_keys
from federation.addresses import Address, Addresses
from federation.errors import IdentityError, UsageError
from federation.home import Home, read_limited, replace_file
from federation.identity import (
    FEDERATION_NAME,
    Role,
    check_name,
    fingerprint,
    load_certificate,
    load_private_key,
    new_key,
    peer_of,
    public_key_pem,
    read_private,
    save_private_key,
    signing_request,
    write_private,
)
from federation.json_text import without_mark
from federation.limits import LIMITS
from federation.manifest import SignedManifest, accept_manifest, verify_manifest
from federation.member_logs import log_origin
from federation.membership import identify
from federation.trust import load_chain
from policies.document import Closed
from policies.scalars import Misfit
from policies.vocabulary.places import Country

REQUEST_FORMAT: Literal["concordat/enrolment-request/v1"] = "concordat/enrolment-request/v1"
BUNDLE_FORMAT: Literal["concordat/enrolment-bundle/v1"] = "concordat/enrolment-bundle/v1"
INVITATION_FORMAT: Literal["concordat/invitation/v1"] = "concordat/invitation/v1"

Pem = Annotated[str, Field(max_length=LIMITS.certificate)]


class Invitation(Closed):
    """What an operator hands to a future member: who it is to be, where to ask, whom to trust, and a secret."""

    format: Literal["concordat/invitation/v1"]
    federation: Annotated[str, Field(pattern=f"^{FEDERATION_NAME.pattern}$")]
    name: str
    role: Role
    country: Country
    addresses: Addresses = ()
    coordinator: Address
    authority: Pem
    token: Annotated[str, Field(min_length=40, max_length=100, repr=False)]
    expires: AwareDatetime


class EnrolmentRequest(Closed):
    """What a member hands to the operator: a signing request and what the manifest will say of it.

    In place of the signing request there is a certificate where the institution's own authority made one.
    """

    format: Literal["concordat/enrolment-request/v1"]
    name: str
    role: Role
    country: Country
    addresses: Addresses = ()
    log: Annotated[str, Field(max_length=512)]
    csr: Pem = ""
    certificate: Pem | None = None
    token: str | None = Field(default=None, max_length=100, repr=False)


class EnrolmentBundle(Closed):
    """What comes back: the certificate with its chain, the root's certificate, the signed manifest."""

    format: Literal["concordat/enrolment-bundle/v1"]
    certificate: Pem
    authority: Pem
    manifest: Annotated[str, Field(max_length=LIMITS.document)]
    manifest_signature: Annotated[str, Field(max_length=LIMITS.manifest_signature)]


def request_enrolment(
    home: Home,
    federation: str,
    name: str,
    role: Role,
    country: str,
    addresses: tuple[str, ...] = (),
    token: str | None = None,
    own: tuple[Path, Path] | None = None,
) -> EnrolmentRequest:
    """Make the keys in the home and write the request beside them; returns the request.

    `own` is a certificate chain and its key from the institution's own authority, copied into the home in place of a
    new key. Raises UsageError where the home already has keys.
    """
    check_name(name)
    if not FEDERATION_NAME.fullmatch(federation):
        raise UsageError(
            f"got federation name {federation[:200]!r}, expected lower-case letters, digits, dots and hyphens"
        )
    if home.key.exists():
        raise UsageError(f"{home.path} already has a key", advice="use another home, or move the old one away")
    request = _checked(format=REQUEST_FORMAT, name=name, role=role, country=country, addresses=addresses, log="")
    brought = _own_certificate(*own) if own is not None else None
    home.create()
    log_key = log_keys.load_key(home.log_key) if home.log_key.exists() else log_keys.create_key(home.log_key)
    if brought is None:
        key = new_key()
        save_private_key(home.key, key)
        request = request.model_copy(update={"csr": signing_request(key, name).decode()})
    else:
        write_private(home.key, brought[1])
        request = request.model_copy(update={"certificate": brought[0].decode()})
    log = log_keys.vkey_of(log_origin(federation, role, name), log_key.public_key())
    request = request.model_copy(update={"log": log, "token": token})
    store_request(home, request)
    return request


def store_request(home: Home, request: EnrolmentRequest) -> None:
    """Write the request beside the keys, for its owner alone where it holds a token."""
    content = json.dumps(request.model_dump(mode="json", exclude_none=True), indent=1) + "\n"
    replace_file(home.request, content.encode(), 0o600 if request.token else 0o644)


def _checked(**fields: object) -> EnrolmentRequest:
    try:
        return EnrolmentRequest.model_validate(fields)
    except ValidationError as error:
        raise UsageError(_first_problem("the request", error)) from None


def draft_invitation(**fields: object) -> Invitation:
    """An invitation with no token in it yet; raises UsageError that says which field is wrong."""
    try:
        return Invitation.model_validate({**fields, "format": INVITATION_FORMAT, "token": "-" * 40})
    except ValidationError as error:
        raise UsageError(_first_problem("the invitation", error)) from None


def _own_certificate(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """A certificate chain and its key as the institution made them; raises IdentityError where they do not fit."""
    chain = read_limited(certificate, LIMITS.certificate)
    if load_chain(chain)[0].public_key() != load_private_key(key).public_key():
        raise IdentityError(f"the key {key} does not belong to the certificate {certificate}")
    return chain, read_private(key)


def parse_request(content: bytes) -> EnrolmentRequest:
    """Read an enrolment request; raises IdentityError that says which field is wrong."""
    try:
        return EnrolmentRequest.model_validate_json(without_mark(content))
    except ValidationError as error:
        raise IdentityError(_first_problem("the enrolment request", error)) from None


def parse_invitation(content: bytes) -> Invitation:
    """Read an invitation; raises IdentityError that says which field is wrong."""
    try:
        return Invitation.model_validate_json(without_mark(content))
    except ValidationError as error:
        raise IdentityError(_first_problem("the invitation", error)) from None


def join(home: Home, content: bytes) -> SignedManifest:
    """Install certificate, root and manifest after checking that they fit this home's key and each other.

    Raises IdentityError or ManifestError; on either the home is left as it was.
    """
    bundle = parse_bundle(content)
    if home.next_key.exists():
        certified = load_chain(bundle.certificate.encode())[0].public_key()
        if certified == load_private_key(home.next_key).public_key():
            manifest = join_renewed(home, content)
            home.private_key()
            return manifest
    manifest = _check_bundle(home, bundle, load_private_key(home.key).public_key())
    store_root(home, load_certificate(bundle.authority.encode()))
    accept_manifest(home, bundle.manifest, bundle.manifest_signature)
    replace_file(home.certificate, bundle.certificate.encode())
    return manifest


def join_renewed(home: Home, content: bytes) -> SignedManifest:
    """Install a bundle issued for the home's next key; `Home.private_key` then moves the key to its place.

    Raises IdentityError or ManifestError; on either the home is left as it was.
    """
    before = home.identity()
    bundle = parse_bundle(content)
    manifest = _check_bundle(home, bundle, load_private_key(home.next_key).public_key())
    after = peer_of(load_chain(bundle.certificate.encode())[0])
    if (after.federation, after.role, after.name) != (before.federation, before.role, before.name):
        raise IdentityError(f"the renewed certificate is for {after.uri}, expected {before.uri}")
    accept_manifest(home, bundle.manifest, bundle.manifest_signature)
    replace_file(home.certificate, bundle.certificate.encode())
    return manifest


def parse_bundle(content: bytes) -> EnrolmentBundle:
    """Read an enrolment bundle; raises IdentityError that says which field is wrong."""
    try:
        return EnrolmentBundle.model_validate_json(without_mark(content))
    except ValidationError as error:
        raise IdentityError(_first_problem("the enrolment bundle", error)) from None


def _check_bundle(home: Home, bundle: EnrolmentBundle, key: object) -> SignedManifest:
    certificate = load_chain(bundle.certificate.encode())[0]
    authority = load_certificate(bundle.authority.encode())
    if certificate.public_key() != key:
        raise IdentityError(
            f"the certificate is for key {fingerprint(public_key_pem(certificate.public_key()))}, expected "
            f"{fingerprint(public_key_pem(key))}, the key of {home.path}",
            advice="take the bundle that was issued for this home's request",
        )
    check_root(home, authority)
    manifest = verify_manifest(bundle.manifest, bundle.manifest_signature, authority)
    identify(manifest, certificate)
    return manifest


def check_root(home: Home, root: x509.Certificate) -> None:
    """Check that a home may join under a root; raises IdentityError where it has another."""
    if home.authority.exists() and load_certificate(read_limited(home.authority, LIMITS.certificate)) != root:
        raise IdentityError(f"{home.path} belongs to another federation", advice="use a home of its own for each")


def store_root(home: Home, root: x509.Certificate) -> None:
    """Write the one root that a home trusts; TLS would trust every certificate in the file."""
    replace_file(home.authority, root.public_bytes(serialization.Encoding.PEM))


def _first_problem(what: str, error: ValidationError) -> str:
    first: Any = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    misfit: Misfit | None = next(iter(first.get("ctx", {}).get("misfits", ())), None)
    problem = f"got {str(first['input'])[:40]!r}, expected {misfit.expected}" if misfit else first["msg"]
    return f"{what} is not usable: {where}: {problem}"
