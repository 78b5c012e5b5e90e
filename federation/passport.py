"""The passport of a trained model: who contributed, under which policies, at what epsilon, with which evidence.

An in-toto Statement (v1) in a DSSE envelope, signed with the coordinator's identity key. What it says of silos is what
the coordinator was told by them and counted itself; the checkpoints in it are signed by each party's own log key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from audit.cosignature import Cosigned, cosigned
from audit.errors import VerificationError
from audit.limits import LIMITS as AUDIT_LIMITS
from federation.dsse import IN_TOTO, open_envelope, parse_envelope, seal
from federation.errors import IdentityError, UsageError, WireError
from federation.identity import Role
from federation.limits import LIMITS
from federation.manifest import Federation, SignedManifest
from federation.member_logs import log_key
from federation.membership import identify
from federation.receipts import EVALUATION, element, extended, keys_of, step_of, verify_receipt

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=300)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Part(BaseModel):
    """A closed, frozen part of a passport; its JSON is read strictly."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Subject(_Part):
    """The file that the passport speaks of."""

    name: Literal["model.npz"]
    digest: Annotated[dict[Literal["sha256"], Annotated[str, Field(pattern="^[0-9a-f]{64}$")]], Field(min_length=1)]


class Summed(_Part):
    """How the run's updates were added up unseen: so many silos at least open a sum, fewer nothing."""

    threshold: Annotated[int, Field(ge=2)]
    largest_change: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Trained(_Part):
    """The run: its id, the digest that its operator signed, and what it was for.

    Under secure aggregation a silo's rounds are those whose opened sum it is in.
    """

    id: Name
    digest: Digest
    name: Name
    purpose: Name
    dataset: Name
    strategy: Name
    rounds: Count
    seed: Count
    operator: Name
    secure_aggregation: Summed | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without secure aggregation the form that passports had before there was any."""
        fields: dict[str, Any] = handler(self)
        if self.secure_aggregation is None:
            del fields["secure_aggregation"]
        return fields


class Spent(_Part):
    """What the whole run costs the silo's rows by the silo's own account; an epsilon of None has no useful bound."""

    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    delta: Annotated[float, Field(gt=0, lt=1)]
    mode: Literal["example_dp", "silo_dp"] = "example_dp"
    """Whose privacy: each row's, or that of the silo's data as a whole."""

    @model_serializer(mode="wrap")
    def _rows_unless_said(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As passports from before there was another mode have it."""
        fields: dict[str, Any] = serialize(self)
        return fields if self.mode != "example_dp" else {name: fields[name] for name in fields if name != "mode"}


class Contribution(_Part):
    """One silo's part: its policies in the order they came into force, its rows, its rounds as [first, last] spans."""

    policies: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=1000)]
    examples: Count
    rounds: Annotated[tuple[tuple[Count, Count], ...], Field(max_length=10_000)]
    privacy: Spent | None


class Agreed(_Part):
    """Which silos signed, with their logs' keys, that they took this model and every one before it."""

    history: Digest
    """The run's history before its evaluation (federation.receipts)."""
    normalization: Digest | None = None
    """What the silos were told beside the model: the digest of what inputs are normalised by."""
    receipts: Annotated[
        dict[Name, Annotated[str, Field(pattern="^[A-Za-z0-9+/]{86}==$")]], Field(max_length=LIMITS.members)
    ]


class Predicate(_Part):
    """What is said of the model."""

    federation: Name
    coordinator: Name
    manifest: Digest
    manifest_version: Count
    run: Trained
    app: Digest
    weights: Digest
    """The digest by which the coordinator's log names the final weights."""
    silos: Annotated[dict[Name, Contribution], Field(min_length=1, max_length=LIMITS.members)]
    logs: Annotated[dict[Name, Annotated[str, Field(max_length=AUDIT_LIMITS.note)]], Field(max_length=LIMITS.members)]
    """The newest checkpoint of each party's log, with its cosignatures, by the log's origin (C2SP signed notes)."""
    finished: AwareDatetime
    agreed: Agreed | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without receipts the form that passports had before there were any."""
        fields: dict[str, Any] = handler(self)
        if self.agreed is None:
            del fields["agreed"]
        return fields


class Statement(_Part):
    """The in-toto statement."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        "https://in-toto.io/Statement/v1"
    )
    subject: tuple[Subject]
    predicate_type: Annotated[Literal["urn:concordat:passport:v1"], Field(alias="predicateType")] = (
        "urn:concordat:passport:v1"
    )
    predicate: Predicate


@dataclass(frozen=True)
class Passport:
    """A passport whose signature, signer, checkpoints and, where one was given, model were verified."""

    statement: Statement
    logs: Mapping[str, Cosigned]
    """Each log's checkpoint and who of the manifest's members cosigned it, by origin."""

    @property
    def model(self) -> str:
        """The SHA-256 of the model file, in hex."""
        return self.statement.subject[0].digest["sha256"]


def spans(rounds: list[int]) -> tuple[tuple[int, int], ...]:
    """Round numbers as spans of consecutive ones, both ends included."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(rounds)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file of any size, in hex; raises UsageError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def issue(model: str, predicate: Predicate, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> bytes:
    """The signed passport of a model file by its SHA-256; `certificate` is the coordinator's own, PEM."""
    subject = Subject(name="model.npz", digest={"sha256": model})
    statement = Statement(subject=(subject,), predicate=predicate)
    payload = rfc8785.dumps(statement.model_dump(mode="json", by_alias=True))
    return seal(payload, IN_TOTO, key, certificate)


def verify(data: bytes, manifest: SignedManifest, model: str | None = None) -> Passport:
    """Verify a passport offline, with the signed manifest and, if given, against a model file's SHA-256.

    Raises WireError for what is no passport, IdentityError where it was not signed by this federation's coordinator or
    speaks of another model or federation, VerificationError where a checkpoint was not signed by its member's log key,
    or a receipt is not of this model.
    The coordinator's certificate has to be valid at the time at which the passport says the run ended, and not revoked.
    """
    sealed = parse_envelope(data, LIMITS.passport)
    payload = open_envelope(sealed, IN_TOTO)
    try:
        statement = Statement.model_validate_json(payload)
        canonical = payload == rfc8785.dumps(statement.model_dump(mode="json", by_alias=True))
    except (ValidationError, ValueError, RecursionError, rfc8785.CanonicalizationError):
        raise WireError("the envelope holds a statement that is not a passport") from None
    if not canonical:
        raise WireError("the passport is not in its canonical form (RFC 8785)")
    predicate = statement.predicate
    signer = identify(manifest, sealed.certificate, predicate.finished)
    if signer.role is not Role.COORDINATOR:
        raise IdentityError(f"the passport is signed by {signer.name}, a {signer.role}, expected the coordinator")
    _expect("federation", predicate.federation, manifest.federation.metadata.name)
    _expect("coordinator", predicate.coordinator, signer.name)
    if manifest.version < predicate.manifest_version:
        raise IdentityError(
            f"got manifest version {manifest.version}, expected {predicate.manifest_version} or later",
            advice="bring this home up to date: concordat federation manifest AUTHORITY --home HOME; on another machine"
            " copy manifest.sig and manifest.yaml from the authority into it",
        )
    if manifest.version == predicate.manifest_version:
        _expect("manifest", predicate.manifest, manifest.document.digest)
    logs = _logs(predicate, manifest.federation)
    _require_receipts(predicate, manifest.federation)
    expected = statement.subject[0].digest["sha256"]
    if model is not None and model != expected:
        raise IdentityError(f"the model has SHA-256 {model}, expected {expected}: the passport is of another model")
    return Passport(statement, logs)


def lines(passport: Passport) -> list[str]:
    """What a verified passport says, for a terminal."""
    said = passport.statement.predicate
    run = said.run
    found = [
        f"model    sha256:{passport.model}",
        f"run      {run.id}: purpose {run.purpose}, dataset {run.dataset}, {run.strategy}, {run.rounds} rounds",
        f"app      {said.app}",
        f"by       {said.coordinator} of {said.federation}, {said.finished:%Y-%m-%d %H:%M:%S} UTC",
    ]
    if run.secure_aggregation is not None:
        found.append(f"sums     masked updates, each sum opened by {run.secure_aggregation.threshold} silos or more")
    for silo, part in said.silos.items():
        rounds = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in part.rounds)
        found.append(f"silo     {silo}: {part.examples} rows, rounds {rounds or 'none'}, {_spent(part.privacy)}")
        found += [f"         under policy {policy}" for policy in part.policies]
    if said.agreed is not None:
        signed = ", ".join(sorted(said.agreed.receipts)) or "nobody"
        found.append(f"taken    by {signed}: each signed that it took this model and every one of the run before it")
    for origin, log in passport.logs.items():
        found.append(
            f"log      {origin}: {log.size} entries, root {log.root.hex()}, "
            f"cosigned by {', '.join(sorted(log.witnesses)) or 'nobody'}"
        )
    return found


def _spent(privacy: Spent | None) -> str:
    if privacy is None:
        return "not private"
    epsilon = "without bound" if privacy.epsilon is None else f"at most {privacy.epsilon:.4g}"
    whole = " for its data as a whole (silo_dp)" if privacy.mode == "silo_dp" else ""
    return f"epsilon {epsilon} at delta {privacy.delta:g}{whole}"


def _logs(predicate: Predicate, federation: Federation) -> dict[str, Cosigned]:
    keys = {key.name: key for key in (log_key(federation, member) for member in federation.members) if key is not None}
    found = {}
    for origin, note in predicate.logs.items():
        if origin not in keys:
            raise VerificationError(f"the passport shows a log {origin[:200]} that no member of the manifest has")
        found[origin] = cosigned(note.encode(), keys[origin], keys.values())
    return found


def _require_receipts(predicate: Predicate, federation: Federation) -> None:
    agreed, rounds = predicate.agreed, predicate.run.rounds
    if agreed is None:
        return
    said = {} if agreed.normalization is None else {"normalization": agreed.normalization}
    link = element(EVALUATION, rounds, predicate.weights, said)
    keys, history = keys_of(federation, agreed.receipts), extended(agreed.history, link)
    for silo, receipt in agreed.receipts.items():
        if silo not in keys:
            raise VerificationError(f"the passport shows a receipt of {silo[:200]}, which no member's log key is for")
        verify_receipt(keys[silo], step_of(EVALUATION, rounds), history, receipt)


def _expect(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise IdentityError(f"the passport names the {what} {found}, expected {expected}")


Seal = Callable[[str, Predicate], bytes]
"""Issues the passport of a model file, by its SHA-256, with the coordinator's present key and certificate."""
