"""An authority's directory: founds a federation, invites, certifies, renews, revokes, signs the manifest.

Works on files alone: the directory can live on a machine that is off the network, or beside a coordinator that enrols
and renews on line. Every change is made under a lock, so that both may use it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field
from ruamel.yaml import YAML

from audit.errors import VerificationError
from audit.note import parse_vkey
from coordinator.authority.certificates import (
    Subject,
    issuing_certificate,
    member_certificate,
    revocation_list,
    root_certificate,
)
from coordinator.authority.invitations import EnrolmentRefusedError, Invitations, Promise
from coordinator.authority.issued import Issued
from coordinator.authority.issuers import check_successor, former, issuing_request, retired
from coordinator.authority.keys import create_key, load_key
from federation.durations import parse_duration
from federation.enrolment import BUNDLE_FORMAT, EnrolmentRequest, Invitation, draft_invitation
from federation.errors import IdentityError, UsageError
from federation.home import Home, read_limited, replace_file
from federation.identity import (
    FEDERATION_NAME,
    Peer,
    Role,
    check_name,
    fingerprint,
    load_certificate,
    public_key_pem,
)
from federation.issuers import REASON_CHARACTERS
from federation.limits import LIMITS
from federation.manifest import (
    Federation,
    ForeignAuthority,
    ManifestMetadata,
    Member,
    Revoked,
    RevokedCertificate,
    SignedManifest,
    dump,
    load_manifest,
    parse_manifest,
    sign_manifest,
    store_manifest,
    verify_manifest,
)
from federation.member_logs import log_origin
from federation.membership import identify
from federation.signing import parse_signing_request
from federation.trust import check_authority, generation_of, load_chain
from policies.document import Kind, load_document

MEMBER_LIFETIME = "30d"
INVITATION_LIFETIME = timedelta(days=7)


class AuthorityConfig(Kind):
    """`kind: Authority`: how long members' certificates are valid, and where the keys lie if not in files."""

    kind: Literal["Authority"]
    lifetime: Annotated[str, Field(pattern="^[0-9]{1,6}[smhd]$")] = MEMBER_LIFETIME
    root_key: Annotated[str, Field(max_length=1000)] | None = None
    issuing_key: Annotated[str, Field(max_length=1000)] | None = None
    issuing_keys: dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,5}$")], Annotated[str, Field(max_length=1000)]] = (
        Field(default_factory=dict)
    )


@dataclass(frozen=True)
class Authority:
    """An authority's directory, and the passphrase of its keys where they have one."""

    path: Path
    passphrase: bytes | None = field(default=None, repr=False)

    @property
    def root_key(self) -> Path:
        """The root's private key, needed to certify an issuing authority; to be moved away after founding."""
        return self.path / "root-key.pem"

    @property
    def certificate(self) -> Path:
        """The root's certificate, which every member trusts."""
        return self.path / "ca.pem"

    @property
    def key(self) -> Path:
        """The issuing authority's private key: signs certificates, manifest and revocation list."""
        return self.key_of(generation_of(self._issuer()) if self.issuer.exists() else 1)

    def key_of(self, generation: int) -> Path:
        """The private key of the federation's n-th issuing authority, where it is in a file."""
        return self.path / ("ca-key.pem" if generation == 1 else f"ca-key-{generation}.pem")

    @property
    def issuer(self) -> Path:
        """The issuing authority's certificate, for other software; what counts is the one with the manifest."""
        return self.path / "issuing.pem"

    @property
    def revocations(self) -> Path:
        """The certificate revocation list, for other software."""
        return self.path / "crl.pem"

    @property
    def issued(self) -> Issued:
        """Every certificate that was issued here."""
        return Issued(self.path / "issued.jsonl")

    @property
    def configuration(self) -> Path:
        """The authority's settings."""
        return self.path / "authority.yaml"

    @property
    def invitations(self) -> Invitations:
        """The tokens given out."""
        return Invitations(self.path / "invitations")

    # -- founding

    def found(
        self,
        name: str,
        lifetime: str = MEMBER_LIFETIME,
        root_key: str | None = None,
        issuing_key: str | None = None,
    ) -> SignedManifest:
        """Make both keys, both certificates and the first manifest; raises UsageError where a federation exists.

        `root_key` and `issuing_key` are `pkcs11:` URIs for keys that are to be made in a token.
        """
        if not FEDERATION_NAME.fullmatch(name):
            raise UsageError(f"got federation name {name!r}, expected lower-case letters, digits, dots and hyphens")
        parse_duration(lifetime)
        if self.certificate.exists():
            raise UsageError(f"{self.path} already holds a federation", advice="choose another directory")
        Home(self.path).create()
        config = AuthorityConfig(
            apiVersion="concordat/v1", kind="Authority", lifetime=lifetime, root_key=root_key, issuing_key=issuing_key
        )
        now = datetime.now(UTC)
        root_signer = create_key(self.root_key, root_key, self.passphrase)
        key = create_key(self.key, issuing_key, self.passphrase)
        root = root_certificate(root_signer, name, now)
        issuer = issuing_certificate(key.public_key(), root, root_signer, name, now)
        self._configure(config)
        replace_file(self.issuer, issuer.public_bytes(serialization.Encoding.PEM))
        replace_file(self.certificate, root.public_bytes(serialization.Encoding.PEM))
        metadata = ManifestMetadata(name=name, version=1)
        federation = Federation(apiVersion="concordat/v1", kind="Federation", metadata=metadata)
        with self._locked():
            return self._sign(federation, key, issuer)

    # -- reading

    def manifest(self) -> SignedManifest:
        """The manifest last signed here."""
        return load_manifest(Home(self.path))

    def lifetime(self) -> timedelta:
        """How long a member's certificate is valid."""
        return parse_duration(self._config().lifetime)

    def check_key(self) -> None:
        """Check that the issuing key can be used; raises IdentityError."""
        if self._key().public_key() != self._issuer().public_key():
            raise IdentityError(f"the key of {self.path} does not belong to the authority that signed its manifest")

    def remaining(self, generation: int | None = None) -> list[str]:
        """The members whose newest certificate is valid by a former issuing authority's word, or by the n-th's."""
        federation = self.manifest().federation
        counted = {one.generation for one in federation.former_issuers if one.retired is None}
        names = {member.name for member in federation.members}
        chosen = counted if generation is None else counted & {generation}
        return [name for name in self.issued.remaining(chosen, datetime.now(UTC)) if name in names]

    # -- issuing authorities

    def request_issuer(self, issuing_key: str | None = None) -> bytes:
        """Make the next issuing authority's key, unless it waits here already; returns the request for the root (PEM).

        `issuing_key` is a `pkcs11:` URI for a key that is to be made in a token.
        """
        with self._locked():
            manifest = load_manifest(Home(self.path), expired=True)
            generation = generation_of(manifest.issuer) + 1
            config = self._config()
            known = config.issuing_keys.get(str(generation))
            if known is None and not self.key_of(generation).exists():
                key = create_key(self.key_of(generation), issuing_key, self.passphrase)
                if issuing_key is not None:
                    keys = {**config.issuing_keys, str(generation): issuing_key}
                    self._configure(config.model_copy(update={"issuing_keys": keys}))
            elif issuing_key in {None, known}:
                key = self._key(generation)
            else:
                raise UsageError(
                    f"the issuing authority {generation} has a key already", advice="leave out --issuing-key to use it"
                )
            return issuing_request(key, manifest.federation.metadata.name, generation)

    def replace_issuer(self, certificate: x509.Certificate, stolen: str | None = None) -> SignedManifest:
        """Sign the manifest, and from now on every certificate, as the issuing authority that the root certified.

        The one so far signs nothing any more; the certificates it issued count until it is retired, or with the reason
        `stolen` for nothing from now on. Raises IdentityError.
        """
        with self._locked():
            manifest = load_manifest(Home(self.path), expired=True)
            check_successor(certificate, manifest.issuer, load_certificate(self.certificate.read_bytes()))
            key = self._key(generation_of(certificate))
            if key.public_key() != certificate.public_key():
                raise IdentityError(
                    f"the certificate is not for the key in {self.path}", advice="certify the request made there"
                )
            issuers = (*manifest.federation.former_issuers, former(manifest.issuer))
            if stolen is not None:
                number = generation_of(manifest.issuer)
                issuers = retired(issuers, number, stolen, datetime.now(UTC), stolen=True)
            return self._sign(_changed(manifest.federation, former_issuers=issuers), key, certificate)

    def retire_issuer(self, reason: str, generation: int | None = None, *, stolen: bool = False) -> SignedManifest:
        """Let the certificates of former issuing authorities count no more, or of one of them; raises UsageError."""
        with self._locked():
            federation = self.manifest().federation
            now = datetime.now(UTC)
            issuers = retired(federation.former_issuers, generation, reason, now, stolen=stolen)
            return self._change(federation, former_issuers=issuers)

    # -- members

    def invite(
        self,
        name: str,
        role: Role,
        country: str,
        address: str,
        members_addresses: tuple[str, ...] = (),
        lifetime: timedelta = INVITATION_LIFETIME,
    ) -> Invitation:
        """Make a one-time token for a member that is to come, or for one that lost its key; raises UsageError."""
        with self._locked():
            federation = self.manifest().federation
            self._check_never_revoked(federation, check_name(name))
            known = {member.name: member for member in federation.members}.get(name)
            if known is not None and (known.role, known.country, known.addresses) != (role, country, members_addresses):
                raise UsageError(
                    f"{name} is a member already, as {known.role} in {known.country}",
                    advice="invite it with the same role, country and addresses, or choose another name",
                )
            expires = datetime.now(UTC).replace(microsecond=0) + lifetime
            draft = draft_invitation(
                federation=federation.metadata.name,
                name=name,
                role=role,
                country=country,
                addresses=members_addresses,
                coordinator=address,
                authority=read_limited(self.certificate, LIMITS.certificate).decode(),
                expires=expires,
            )
            promise = Promise(name=name, role=role, country=country, addresses=members_addresses, expires=expires)
            return draft.model_copy(update={"token": self.invitations.issue(promise)})

    def enrol(self, request: EnrolmentRequest, lifetime: timedelta | None = None) -> tuple[bytes, SignedManifest]:
        """Certify a member's key on the operator's word and enter it in the manifest.

        A token in the request must hold; without one the operator has compared the fingerprint. Returns the
        certificate chain (PEM) and the new manifest.
        """
        with self._locked():
            promise = self._promise(request)
            federation = self.manifest().federation
            known = {member.name for member in federation.members}
            if request.name in known and promise is None:
                raise UsageError(
                    f"{request.name} is or was a member of {federation.metadata.name}",
                    advice="choose another name, or invite it again if it lost its key",
                )
            return self._enter(request, federation, promise, lifetime)

    def redeem(self, request: EnrolmentRequest, granted: Callable[[], None]) -> tuple[bytes, SignedManifest]:
        """Certify a member's key on the word of its token alone; raises EnrolmentRefusedError.

        `granted` is called once everything holds and before anything is changed.
        """
        with self._locked():
            promise = self._promise(request)
            if promise is None:
                raise EnrolmentRefusedError("enrolment.token", "the request has no token", token_known=False)
            try:
                return self._enter(request, self.manifest().federation, promise, None, granted)
            except EnrolmentRefusedError:
                raise
            except (IdentityError, UsageError) as error:
                raise EnrolmentRefusedError("enrolment.request", str(error)) from None

    def renew(self, peer: Peer, signing_request: str, granted: Callable[[], None] = lambda: None) -> bytes:
        """A new certificate for a member whose present one was checked; returns the chain. Raises IdentityError.

        `granted` is called once everything holds and before anything is issued.
        """
        with self._locked():
            federation = self.manifest().federation
            member = federation.member(peer.name)
            csr = parse_signing_request(signing_request, peer.name)
            granted()
            return self._certify(csr.public_key(), member, federation.metadata.name, self._key(), None)

    def revoke(self, name: str, reason: str) -> SignedManifest:
        """Take a member out of the manifest, for good; returns the new one. Raises ManifestError for a stranger."""
        _check_reason(reason)
        with self._locked():
            federation = self.manifest().federation
            federation.member(name)
            revoked = Revoked(name=name, date=_today(), reason=reason)
            return self._change(
                federation,
                members=tuple(member for member in federation.members if member.name != name),
                revoked=(*federation.revoked, revoked),
            )

    def revoke_certificate(self, serial: str, reason: str, name: str | None = None) -> SignedManifest:
        """Revoke one certificate of a member that stays; raises UsageError.

        `name` is given for one that an institution's own authority issued: that is not known here, and not in the CRL,
        which speaks of this authority's certificates alone.
        """
        _check_reason(reason)
        with self._locked():
            federation = self.manifest().federation
            names = {line["serial"]: line["name"] for line in self.issued}
            if serial not in names and name is not None:
                names[serial] = _vouched(federation, serial, name)
            if serial not in names:
                raise UsageError(
                    f"no certificate with serial number {serial[:60]} was issued here",
                    advice="name the member too, where its institution's own authority issued it",
                )
            if name not in {None, names[serial]}:
                raise UsageError(f"the certificate {serial} is that of {names[serial]}, not of {name}")
            if (serial, names[serial]) in {(one.serial, one.name) for one in federation.revoked_certificates}:
                raise UsageError(f"the certificate {serial} is revoked already")
            revoked = RevokedCertificate(serial=serial, name=names[serial], date=_today(), reason=reason)
            return self._change(federation, revoked_certificates=(*federation.revoked_certificates, revoked))

    def trust(self, name: str, certificate: bytes, members: tuple[str, ...]) -> SignedManifest:
        """Let an institution's own authority vouch for these members and no others; replaces one of that name."""
        with self._locked():
            federation = self.manifest().federation
            authority = load_certificate(certificate)
            check_authority(authority)
            for one in (name, *members):
                check_name(one)
            pem = authority.public_bytes(serialization.Encoding.PEM).decode()
            added = ForeignAuthority(name=name, members=members, certificate=pem)
            others = tuple(one for one in federation.authorities if one.name != name)
            return self._change(federation, authorities=(*others, added))

    def bundle(self, certificate: bytes) -> dict[str, str]:
        """What a member needs to join: its certificate, the root's, and the signed manifest."""
        manifest = self.manifest()
        return {
            "format": BUNDLE_FORMAT,
            "certificate": certificate.decode(),
            "authority": read_limited(self.certificate, LIMITS.certificate).decode(),
            "manifest": manifest.document.text,
            "manifest_signature": manifest.signature,
        }

    # -- the work

    def _enter(
        self,
        request: EnrolmentRequest,
        federation: Federation,
        promise: Promise | None,
        lifetime: timedelta | None,
        granted: Callable[[], None] = lambda: None,
    ) -> tuple[bytes, SignedManifest]:
        self._check_never_revoked(federation, check_name(request.name))
        _check_log(request, federation)
        member = Member(
            name=request.name,
            role=request.role,
            country=request.country,
            addresses=request.addresses,
            log=request.log,
        )
        known = {one.name: one for one in federation.members}.get(request.name)
        others = [one.name for one in federation.with_role(Role.COORDINATOR) if one.name != request.name]
        if request.role is Role.COORDINATOR and others:
            # With two of them in its manifest, no member would connect to either.
            raise IdentityError(
                f"{request.name} asks to be the coordinator, which {others[0]} is",
                advice=f"revoke {others[0]} first if another is to take its place",
            )
        if known is not None and known != member:
            raise IdentityError(
                f"the request of {request.name} brings another log key than the manifest has",
                advice="restore the audit log and its key, or enrol under a new name: a log is never replaced",
            )
        changed = _changed(federation, members=(*federation.members, member)) if known is None else federation
        parse_manifest(dump(changed))
        key = self._key()
        if request.certificate is not None:
            certificate = self._check_foreign(request, changed)
            self._grant(request, promise, granted)
        else:
            csr = parse_signing_request(request.csr, request.name)
            self._grant(request, promise, granted)
            certificate = self._certify(csr.public_key(), member, federation.metadata.name, key, lifetime)
        return certificate, self._sign(changed, key) if known is None else self.manifest()

    def _grant(self, request: EnrolmentRequest, promise: Promise | None, granted: Callable[[], None]) -> None:
        """Have the decision recorded, then spend the token: neither is undone where what follows fails."""
        granted()
        if promise is not None and request.token is not None:
            self.invitations.spend(request.token, promise)

    def _promise(self, request: EnrolmentRequest) -> Promise | None:
        if request.token is None:
            return None
        return self.invitations.check(request.token, request.name, request.role, request.country, request.addresses)

    def _check_foreign(self, request: EnrolmentRequest, changed: Federation) -> bytes:
        """The certificate that a member brings, once its own authority may vouch for it."""
        pem = (request.certificate or "").encode()
        chain = load_chain(pem)
        probe = SignedManifest(parse_manifest(dump(changed)), "", self._issuer())
        peer = identify(probe, chain[0])
        if peer.name != request.name:
            raise IdentityError(f"the certificate is for {peer.name}, the request for {request.name}")
        return pem

    def _certify(
        self,
        public_key: object,
        member: Member,
        federation: str,
        key: ec.EllipticCurvePrivateKey,
        lifetime: timedelta | None,
    ) -> bytes:
        public_key_pem(public_key)
        assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  narrowed by public_key_pem
        subject = Subject(federation, member.role, member.name, member.addresses)
        now = datetime.now(UTC)
        issuer = self._issuer()
        span = self.lifetime() if lifetime is None else lifetime
        certificate = member_certificate(public_key, subject, issuer, key, now, span)
        self.issued.add(certificate, issuer, now)
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (certificate, issuer))

    def _change(self, federation: Federation, **fields: object) -> SignedManifest:
        return self._sign(_changed(federation, **fields), self._key())

    def _sign(
        self, federation: Federation, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None = None
    ) -> SignedManifest:
        """Sign as the present issuing authority, or as another from now on."""
        text = dump(federation)
        issuer = issuer or self._issuer()
        signature = sign_manifest(text, key, issuer)
        signed = verify_manifest(text, signature, load_certificate(self.certificate.read_bytes()))
        listed = revocation_list(self._revoked_serials(federation), signed.version, issuer, key, datetime.now(UTC))
        replace_file(self.revocations, listed.public_bytes(serialization.Encoding.PEM))
        known = load_manifest(Home(self.path), expired=True) if Home(self.path).manifest.exists() else None
        store_manifest(self.path, text, signature, known)
        replace_file(self.issuer, issuer.public_bytes(serialization.Encoding.PEM))
        return signed

    def _revoked_serials(self, federation: Federation) -> Iterator[tuple[int, datetime]]:
        """Serial and date of each certificate that is revoked itself or whose member is.

        Of every issuing authority's: that a list names serial numbers of another's says nothing wrong.
        """
        gone = {one.name: one.date for one in federation.revoked}
        single = {one.serial: one.date for one in federation.revoked_certificates}
        for line in self.issued:
            when = single.get(line["serial"], gone.get(line["name"]))
            if when is not None:
                yield int(line["serial"], 16), datetime(when.year, when.month, when.day, tzinfo=UTC)

    def _config(self) -> AuthorityConfig:
        text = read_limited(self.configuration, LIMITS.document)
        return load_document(text, AuthorityConfig, source=str(self.configuration)).model

    def _configure(self, config: AuthorityConfig) -> None:
        content = config.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not content["issuing_keys"]:
            del content["issuing_keys"]
        out = StringIO()
        YAML().dump(content, out)
        replace_file(self.configuration, out.getvalue().encode())

    def _key(self, generation: int | None = None) -> ec.EllipticCurvePrivateKey:
        """The key of the n-th issuing authority, or of the present one."""
        number = generation_of(self._issuer()) if generation is None else generation
        config = self._config()
        reference = config.issuing_keys.get(str(number)) or (config.issuing_key if number == 1 else None)
        return load_key(self.key_of(number), reference, self.passphrase)

    def _issuer(self) -> x509.Certificate:
        return self.manifest().issuer

    @staticmethod
    def _check_never_revoked(federation: Federation, name: str) -> None:
        if name in {one.name for one in federation.revoked}:
            raise UsageError(f"{name} is or was a member of {federation.metadata.name}", advice="choose another name")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.path.is_dir():
            raise UsageError(
                f"{self.path} is not an authority's directory", advice="found one: concordat federation init"
            )
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _changed(federation: Federation, **fields: object) -> Federation:
    metadata = ManifestMetadata(name=federation.metadata.name, version=federation.metadata.version + 1)
    return federation.model_copy(update={"metadata": metadata, **fields})


def _vouched(federation: Federation, serial: str, name: str) -> str:
    """A member for which an institution's own authority vouches; raises UsageError for another, or no serial number."""
    if not re.fullmatch(r"[0-9a-f]{1,40}", serial):
        raise UsageError(f"got {serial[:60]!r} as a serial number, expected it in hex, as concordat silo status has it")
    if name not in {member for authority in federation.authorities for member in authority.members}:
        raise UsageError(f"no authority of an institution's own vouches for {name}")
    return name


def _check_log(request: EnrolmentRequest, federation: Federation) -> None:
    """Check that a request brings the key of its member's own log; raises IdentityError.

    With no key there, or another's, every party that reads the manifest would refuse that other or everything.
    """
    origin = log_origin(federation.metadata.name, request.role, request.name)
    try:
        key = parse_vkey(request.log)
    except VerificationError as error:
        raise IdentityError(f"the request of {request.name} brings no key of an audit log: {error}") from None
    if key.name != origin:
        raise IdentityError(f"the request of {request.name} brings the key of the log {key.name}, expected {origin}")
    encoded = request.log.split("+", 2)[2]
    if any((one.log or "").endswith(f"+{encoded}") for one in federation.members if one.name != request.name):
        raise IdentityError(f"the request of {request.name} brings the log key of another member")


def _check_reason(reason: str) -> None:
    if not 0 < len(reason) <= REASON_CHARACTERS:
        raise UsageError(f"got a reason of {len(reason)} characters, expected 1 to {REASON_CHARACTERS}")


def _today() -> date:
    return datetime.now(UTC).date()


def request_fingerprint(request: EnrolmentRequest) -> str:
    """The fingerprint both sides compare before a request is granted."""
    if request.certificate is not None:
        return fingerprint(public_key_pem(load_chain(request.certificate.encode())[0].public_key()))
    return fingerprint(public_key_pem(parse_signing_request(request.csr, request.name).public_key()))
