"""The member's side of enrolment: make the keys here, ask for a certificate, take over what comes back."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives import serialization
from pydantic import Field, ValidationError

from audit import keys as log_keys
from federation.errors import IdentityError, UsageError
from federation.home import Home, replace_file
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
    save_private_key,
    signing_request,
)
from federation.limits import LIMITS
from federation.manifest import SignedManifest, accept_manifest, verify_manifest
from federation.run import verify_issued
from policies.document import Closed
from policies.scalars import Misfit
from policies.vocabulary.places import Country

REQUEST_FORMAT: Literal["concordat/enrolment-request/v1"] = "concordat/enrolment-request/v1"
BUNDLE_FORMAT: Literal["concordat/enrolment-bundle/v1"] = "concordat/enrolment-bundle/v1"


class EnrolmentRequest(Closed):
    """What a member hands to the operator: a signing request and what the manifest will say of it."""

    format: Literal["concordat/enrolment-request/v1"]
    name: str
    role: Role
    country: Country
    addresses: tuple[str, ...] = ()
    log: Annotated[str, Field(max_length=512)]
    csr: Annotated[str, Field(max_length=LIMITS.certificate)]


class EnrolmentBundle(Closed):
    """What comes back: the certificate, the authority's certificate, the signed manifest."""

    format: Literal["concordat/enrolment-bundle/v1"]
    certificate: Annotated[str, Field(max_length=LIMITS.certificate)]
    authority: Annotated[str, Field(max_length=LIMITS.certificate)]
    manifest: Annotated[str, Field(max_length=LIMITS.document)]
    manifest_signature: Annotated[str, Field(max_length=1024)]


def log_origin(federation: str, role: Role, name: str) -> str:
    """The origin line of a member's audit log: `<federation>/<role>/<name>`."""
    return f"{federation}/{role.value}/{name}"


def request_enrolment(
    home: Home, federation: str, name: str, role: Role, country: str, addresses: tuple[str, ...] = ()
) -> EnrolmentRequest:
    """Make both keys in the home and write the request beside them; returns the request.

    Raises UsageError where the home already has keys.
    """
    check_name(name)
    if not FEDERATION_NAME.fullmatch(federation):
        raise UsageError(
            f"got federation name {federation[:200]!r}, expected lower-case letters, digits, dots and hyphens"
        )
    if home.key.exists():
        raise UsageError(f"{home.path} already has a key", advice="use another home, or move the old one away")
    home.create()
    try:
        EnrolmentRequest(
            format=REQUEST_FORMAT, name=name, role=role, country=country, addresses=addresses, log="", csr=""
        )
    except ValidationError as error:
        raise UsageError(_first_problem("the request", error)) from None
    key = new_key()
    log_key = log_keys.create_key(home.log_key)
    save_private_key(home.key, key)
    request = EnrolmentRequest(
        format=REQUEST_FORMAT,
        name=name,
        role=role,
        country=country,
        addresses=addresses,
        log=log_keys.vkey_of(log_origin(federation, role, name), log_key.public_key()),
        csr=signing_request(key, name).decode(),
    )
    home.request.write_text(json.dumps(request.model_dump(mode="json"), indent=1) + "\n")
    return request


def parse_request(content: bytes) -> EnrolmentRequest:
    """Read an enrolment request; raises IdentityError that says which field is wrong."""
    try:
        return EnrolmentRequest.model_validate_json(content)
    except ValidationError as error:
        raise IdentityError(_first_problem("the enrolment request", error)) from None


def join(home: Home, content: bytes) -> SignedManifest:
    """Install certificate, authority and manifest after checking that they fit this home's key and each other.

    Raises IdentityError or ManifestError; on either the home is left as it was.
    """
    try:
        bundle = EnrolmentBundle.model_validate_json(content)
    except ValidationError as error:
        raise IdentityError(_first_problem("the enrolment bundle", error)) from None
    certificate = load_certificate(bundle.certificate.encode())
    authority = load_certificate(bundle.authority.encode())
    key = load_private_key(home.key)
    if certificate.public_key() != key.public_key():
        raise IdentityError(
            f"the certificate is for key {fingerprint(public_key_pem(certificate.public_key()))}, expected "
            f"{fingerprint(public_key_pem(key.public_key()))}, the key of {home.path}",
            advice="take the bundle that was issued for this home's request",
        )
    verify_issued(certificate, authority)
    peer = peer_of(certificate)
    manifest = verify_manifest(bundle.manifest, bundle.manifest_signature, authority)
    if manifest.federation.metadata.name != peer.federation:
        raise IdentityError(
            f"the certificate is for {peer.federation}, the manifest for {manifest.federation.metadata.name}"
        )
    manifest.federation.member(peer.name)
    if home.authority.exists() and load_certificate(home.authority.read_bytes()) != authority:
        raise IdentityError(f"{home.path} belongs to another federation", advice="use a home of its own for each")
    replace_file(home.authority, authority.public_bytes(serialization.Encoding.PEM))
    accept_manifest(home, bundle.manifest, bundle.manifest_signature)
    replace_file(home.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return manifest


def _first_problem(what: str, error: ValidationError) -> str:
    first: Any = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    misfit: Misfit | None = next(iter(first.get("ctx", {}).get("misfits", ())), None)
    problem = f"got {str(first['input'])[:40]!r}, expected {misfit.expected}" if misfit else first["msg"]
    return f"{what} is not usable: {where}: {problem}"
