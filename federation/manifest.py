"""The federation manifest: who belongs, in which role, under which jurisdiction; signed by the issuing authority."""

from __future__ import annotations

import base64
import contextlib
import functools
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from federation.errors import IdentityError, ManifestError
from federation.home import Home, read_limited, replace_file
from federation.identity import FEDERATION_NAME, NAME, Role, load_certificate, load_der_certificate, sign, verify
from federation.issuers import REASON_CHARACTERS, FormerIssuer
from federation.limits import LIMITS
from federation.trust import check_authority, check_issuer, generation_of
from policies.document import Closed, Document, Kind, load_document
from policies.scalars import IsoDate, Misfit, misfit, misfits
from policies.vocabulary.places import Country

DOMAIN = b"federation manifest"
MANIFESTS_KEPT = 4
"""Parsed manifests that are kept: parsing one takes a hundred times longer than verifying its signature."""

MemberName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class ManifestMetadata(Closed):
    """Which federation this is, and which edition of its manifest."""

    name: Annotated[str, Field(pattern=f"^{FEDERATION_NAME.pattern}$")]
    version: Annotated[int, Field(ge=1)]


class Member(Closed):
    """One party of the federation."""

    name: MemberName
    role: Role
    country: Country
    addresses: tuple[str, ...] = ()
    log: str | None = None


class Revoked(Closed):
    """A party that was a member and is not any more; its name is not given to another."""

    name: MemberName
    date: IsoDate
    reason: Annotated[str, Field(min_length=1, max_length=REASON_CHARACTERS)]


class RevokedCertificate(Closed):
    """One certificate of a member that stays: its key was lost or stolen."""

    serial: Annotated[str, Field(pattern="^[0-9a-f]{1,40}$")]
    name: MemberName
    date: IsoDate
    reason: Annotated[str, Field(min_length=1, max_length=REASON_CHARACTERS)]


class ForeignAuthority(Closed):
    """An institution's own certificate authority, and the members it may vouch for."""

    name: MemberName
    members: Annotated[tuple[MemberName, ...], Field(min_length=1, max_length=LIMITS.members)]
    certificate: Annotated[str, Field(max_length=LIMITS.certificate)]

    @field_validator("certificate")
    @classmethod
    def _of_an_authority(cls, value: str) -> str:
        try:
            check_authority(load_certificate(value.encode()))
        except IdentityError as error:
            raise misfit(f"the PEM certificate of an authority ({error})") from None
        return value


class Federation(Kind):
    """`kind: Federation`: the members and where they stand, as each of them asserted at enrolment."""

    kind: Literal["Federation"]
    metadata: ManifestMetadata
    members: Annotated[tuple[Member, ...], Field(max_length=LIMITS.members)] = ()
    revoked: Annotated[tuple[Revoked, ...], Field(max_length=LIMITS.members)] = ()
    revoked_certificates: Annotated[tuple[RevokedCertificate, ...], Field(max_length=LIMITS.members)] = ()
    authorities: Annotated[tuple[ForeignAuthority, ...], Field(max_length=LIMITS.authorities)] = ()
    former_issuers: Annotated[tuple[FormerIssuer, ...], Field(max_length=LIMITS.former_issuers)] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Federation:
        names = [member.name for member in self.members]
        again = [index for index, name in enumerate(names) if name in names[:index]]
        misfits(Misfit("each member's name once", ("members", index, "name")) for index in again)
        gone = {one.name for one in self.revoked}
        back = [index for index, name in enumerate(names) if name in gone]
        misfits(Misfit("a name that was never revoked", ("members", index, "name")) for index in back)
        return self

    def member(self, name: str) -> Member:
        """The member of this name; raises ManifestError."""
        for member in self.members:
            if member.name == name:
                return member
        for one in self.revoked:
            if one.name == name:
                raise ManifestError(f"{name} was revoked on {one.date} ({one.reason})")
        raise ManifestError(
            f"{name} is not a member of federation {self.metadata.name} (manifest {self.metadata.version})"
        )

    def with_role(self, role: Role) -> tuple[Member, ...]:
        """The members of one role, in the manifest's order."""
        return tuple(member for member in self.members if member.role is role)

    @property
    def coordinator(self) -> Member:
        """The one coordinator; raises ManifestError where there is none or several."""
        found = self.with_role(Role.COORDINATOR)
        if len(found) != 1:
            raise ManifestError(f"got {len(found)} coordinators in the manifest, expected exactly one")
        return found[0]


@dataclass(frozen=True)
class SignedManifest:
    """A manifest whose signature was verified."""

    document: Document[Federation]
    signature: str
    issuer: x509.Certificate
    """The issuing authority that signed it, certified by the federation's root."""

    @property
    def federation(self) -> Federation:
        """The content."""
        return self.document.model

    @property
    def version(self) -> int:
        """The edition."""
        return self.document.model.metadata.version

    @property
    def edition(self) -> tuple[int, int]:
        """What is newer: a later issuing authority's manifest before any version, then the version.

        Whoever stole an issuing key can give its manifests any version, and is overruled by its successor all the same.
        """
        return generation_of(self.issuer), self.version


def dump(federation: Federation) -> str:
    """The manifest as YAML text, in the order of the model's fields; what is empty and optional is left out."""
    yaml = YAML()
    yaml.default_flow_style = False
    content = federation.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name in ("revoked_certificates", "authorities", "former_issuers"):
        if not content[name]:
            del content[name]
    for authority in (*content.get("authorities", ()), *content.get("former_issuers", ())):
        authority["certificate"] = LiteralScalarString(authority["certificate"])
    out = StringIO()
    yaml.dump(content, out)
    return out.getvalue()


@functools.lru_cache(maxsize=MANIFESTS_KEPT)
def parse_manifest(text: str) -> Document[Federation]:
    """The content of a manifest that this process is to sign or whose signature it verified; raises PolicyError."""
    return load_document(text, Federation, source="manifest.yaml")


def sign_manifest(text: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate) -> str:
    """The issuing authority's signature over a manifest and its certificate, both base64, a dot between them."""
    parts = (sign(key, DOMAIN, text.encode()), issuer.public_bytes(serialization.Encoding.DER))
    return ".".join(base64.b64encode(part).decode() for part in parts)


def verify_manifest(text: str, signature: str, root: x509.Certificate, *, expired: bool = False) -> SignedManifest:
    """Parse a manifest only after its signature verifies up to the root; raises ManifestError.

    With `expired` also that of an issuing authority that has expired, to be compared with and not acted on.
    """
    if len(text) > LIMITS.document or len(signature) > LIMITS.manifest_signature:
        raise ManifestError(f"got a manifest of {len(text)} characters, expected at most {LIMITS.document}")
    try:
        proof, _, certificate = signature.partition(".")
        issuer = load_der_certificate(base64.b64decode(certificate, validate=True))
        check_issuer(issuer, root, expired=expired)
        verify(issuer.public_key(), DOMAIN, text.encode(), base64.b64decode(proof, validate=True))
    except (IdentityError, ValueError) as error:  # ValueError: no base64, or text without UTF-8 form
        raise ManifestError(
            f"the manifest is not signed by this federation's authority: {error}",
            advice="take the manifest from the operator, unchanged",
        ) from None
    signed = SignedManifest(parse_manifest(text), signature, issuer)
    for former in signed.federation.former_issuers:
        _check_former(former, issuer, root)
    return signed


def _check_former(former: FormerIssuer, issuer: x509.Certificate, root: x509.Certificate) -> None:
    """Check that a manifest names as a former issuer one that the root certified before its own."""
    try:
        check_issuer(former.x509, root, expired=True)
    except IdentityError as error:
        raise ManifestError(f"the manifest names a former issuing authority that is none: {error}") from None
    if former.generation >= generation_of(issuer):
        raise ManifestError(
            f"the manifest names the issuing authority {former.generation} as a former one, "
            f"expected one before {generation_of(issuer)}, which signed it"
        )


def load_manifest(home: Home, *, expired: bool = False) -> SignedManifest:
    """The manifest in a home, verified against the authority there; raises ManifestError. `expired` as above.

    Also while another process replaces it: the two files are read again until they fit or no longer change.
    """
    authority = load_certificate(read_limited(home.authority, LIMITS.certificate))
    seen = None
    while True:
        files = read_limited(home.manifest, LIMITS.document), _signatures(home)
        try:
            return _verify_either(*files, authority, expired=expired)
        except UnicodeDecodeError:
            error = ManifestError(f"the manifest in {home.path} or its signature is damaged: it is not UTF-8 text")
        except ManifestError as found:
            error = found
        if files == seen:
            raise error
        seen = files


def _signatures(home: Home) -> list[bytes]:
    """The newest signature in a home and, where there was one, the one before."""
    return read_limited(home.manifest_signature, 2 * LIMITS.manifest_signature).splitlines()[:2]


def _verify_either(
    text: bytes, signatures: list[bytes], authority: x509.Certificate, *, expired: bool
) -> SignedManifest:
    """Verify a manifest by the newest signature or the one before; raises the newest one's error."""
    newest, *before = [signature.decode().strip() for signature in signatures] or [""]
    try:
        return verify_manifest(text.decode(), newest, authority, expired=expired)
    except ManifestError:
        for signature in before:
            with contextlib.suppress(ManifestError):
                return verify_manifest(text.decode(), signature, authority, expired=expired)
        raise


def accept_manifest(home: Home, text: str, signature: str) -> SignedManifest:
    """Take over a newer manifest into a home; raises ManifestError for one older than the one there."""
    authority = load_certificate(read_limited(home.authority, LIMITS.certificate))
    offered = verify_manifest(text, signature, authority)
    known = load_manifest(home, expired=True) if home.manifest.exists() else None
    if known is not None:
        if known.federation.metadata.name != offered.federation.metadata.name:
            raise ManifestError(
                f"got a manifest of {offered.federation.metadata.name}, expected {known.federation.metadata.name}"
            )
        if generation_of(offered.issuer) < generation_of(known.issuer):
            raise ManifestError(
                f"got a manifest signed by the issuing authority {generation_of(offered.issuer)}, "
                f"expected {generation_of(known.issuer)}, which replaced it, or a later one",
                advice="ask the operator for the current manifest; a replaced issuing authority signs no manifests",
            )
        if offered.edition < known.edition:
            raise ManifestError(
                f"got manifest version {offered.version}, expected at least {known.version}, which was seen before",
                advice="ask the operator for the current manifest; an older one may bring back a member that left",
            )
        if offered.edition == known.edition and offered.document.digest != known.document.digest:
            raise ManifestError(f"got a second manifest with version {offered.version}, expected the one seen before")
        if offered.document.digest == known.document.digest:
            return known
    store_manifest(home.path, text, signature, known)
    return offered


def store_manifest(directory: Path, text: str, signature: str, before: SignedManifest | None = None) -> None:
    """Replace manifest and signature in a directory; with the one `before`, a reader or a crash within finds a pair."""
    home = Home(directory)
    signatures = (signature, *([before.signature] if before else []))
    replace_file(home.manifest_signature, "".join(one + "\n" for one in signatures).encode())
    replace_file(home.manifest, text.encode())
