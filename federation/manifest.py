"""The federation manifest: who belongs, in which role, under which jurisdiction; signed by the authority."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from pydantic import Field, model_validator
from ruamel.yaml import YAML

from federation.errors import IdentityError, ManifestError
from federation.home import Home, read_limited, replace_file
from federation.identity import FEDERATION_NAME, NAME, Role, load_certificate, sign, verify
from federation.limits import LIMITS
from policies.document import Closed, Document, Kind, load_document
from policies.scalars import IsoDate, Misfit, misfits
from policies.vocabulary.places import Country

DOMAIN = b"federation manifest"
REASON_CHARACTERS = 500

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


class Federation(Kind):
    """`kind: Federation`: the members and where they stand, as each of them asserted at enrolment."""

    kind: Literal["Federation"]
    metadata: ManifestMetadata
    members: Annotated[tuple[Member, ...], Field(max_length=LIMITS.members)] = ()
    revoked: Annotated[tuple[Revoked, ...], Field(max_length=LIMITS.members)] = ()

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

    @property
    def federation(self) -> Federation:
        """The content."""
        return self.document.model

    @property
    def version(self) -> int:
        """The edition."""
        return self.document.model.metadata.version


def dump(federation: Federation) -> str:
    """The manifest as YAML text, in the order of the model's fields."""
    yaml = YAML()
    yaml.default_flow_style = False
    out = StringIO()
    yaml.dump(federation.model_dump(mode="json", by_alias=True, exclude_none=True), out)
    return out.getvalue()


def sign_manifest(text: str, key: object) -> str:
    """The authority's signature over a manifest, base64."""
    return base64.b64encode(sign(key, DOMAIN, text.encode())).decode()  # type: ignore[arg-type]


def verify_manifest(text: str, signature: str, authority: x509.Certificate) -> SignedManifest:
    """Parse a manifest only after its signature verifies; raises ManifestError."""
    if len(text) > LIMITS.document or len(signature) > 1024:
        raise ManifestError(f"got a manifest of {len(text)} characters, expected at most {LIMITS.document}")
    try:
        verify(authority.public_key(), DOMAIN, text.encode(), base64.b64decode(signature, validate=True))
    except (IdentityError, ValueError) as error:  # ValueError: no base64, or text that has no UTF-8 form
        raise ManifestError(
            f"the manifest is not signed by this federation's authority: {error}",
            advice="take the manifest from the operator, unchanged",
        ) from None
    return SignedManifest(load_document(text, Federation, source="manifest.yaml"), signature)


def load_manifest(home: Home) -> SignedManifest:
    """The manifest in a home, verified against the authority there; raises ManifestError."""
    authority = load_certificate(read_limited(home.authority, LIMITS.certificate))
    text, signature = read_limited(home.manifest, LIMITS.document), read_limited(home.manifest_signature, 1024)
    try:
        return verify_manifest(text.decode(), signature.decode().strip(), authority)
    except UnicodeDecodeError:
        raise ManifestError(f"the manifest in {home.path} or its signature is damaged: it is not UTF-8 text") from None


def accept_manifest(home: Home, text: str, signature: str) -> SignedManifest:
    """Take over a newer manifest into a home; raises ManifestError for one older than the one there."""
    authority = load_certificate(read_limited(home.authority, LIMITS.certificate))
    offered = verify_manifest(text, signature, authority)
    if home.manifest.exists() and not _is_half_stored(home, text, signature):
        known = load_manifest(home)
        if known.federation.metadata.name != offered.federation.metadata.name:
            raise ManifestError(
                f"got a manifest of {offered.federation.metadata.name}, expected {known.federation.metadata.name}"
            )
        if offered.version < known.version:
            raise ManifestError(
                f"got manifest version {offered.version}, expected at least {known.version}, which was seen before",
                advice="ask the operator for the current manifest; an older one may bring back a member that left",
            )
        if offered.version == known.version and offered.document.digest != known.document.digest:
            raise ManifestError(f"got a second manifest with version {offered.version}, expected the one seen before")
        if offered.document.digest == known.document.digest:
            return known
    store_manifest(home.path, text, signature)
    return offered


def _is_half_stored(home: Home, text: str, signature: str) -> bool:
    """Whether a crash within `store_manifest` left this manifest's signature, accepted then, beside the text before."""
    return (
        home.manifest_signature.exists()
        and read_limited(home.manifest_signature, 1024) == signature.encode() + b"\n"
        and read_limited(home.manifest, LIMITS.document) != text.encode()
    )


def store_manifest(directory: Path, text: str, signature: str) -> None:
    """Write manifest and signature into a directory."""
    home = Home(directory)
    replace_file(home.manifest_signature, signature.encode() + b"\n")
    replace_file(home.manifest, text.encode())
