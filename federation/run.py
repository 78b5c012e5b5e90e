"""`kind: Run`: a training run as data, signed by the operator who submits it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, model_validator

from federation.errors import IdentityError, WireError
from federation.identity import NAME, Peer, Role, load_certificate, peer_of, sign, verify
from federation.limits import LIMITS
from policies.document import Closed, Document, Kind, load_document
from policies.scalars import Misfit, misfits

DOMAIN = b"training run"
Metric = Literal["loss", "auc", "accuracy", "num_examples"]
METRICS: tuple[Metric, ...] = ("loss", "auc", "accuracy", "num_examples")

ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
MemberName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class RunMetadata(Closed):
    """The run's name, for people."""

    name: MemberName
    description: Annotated[str, Field(max_length=1000)] = ""


class App(Closed):
    """The Flower app that holds the model, and where in it the model is made."""

    path: str = "."
    model: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class Label(Closed):
    """The column to predict; rows with a value above the threshold are the positive class."""

    column: ColumnName
    positive_above: float = 0.0


class LocalWork(Closed):
    """What a silo does in one round."""

    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32


class Strategy(Closed):
    """How rounds are run and folded together (FedProx: Li et al., MLSys 2020)."""

    name: Literal["fedprox", "fedavg"] = "fedprox"
    mu: Annotated[float, Field(ge=0, le=1000)] = 0.0
    rounds: Annotated[int, Field(ge=1, le=10000)]
    quorum: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    deadline_seconds: Annotated[float, Field(gt=0, le=86400)] = 60.0
    local: LocalWork = LocalWork()

    @model_validator(mode="after")
    def _fedavg_has_no_proximal_term(self) -> Strategy:
        if self.name == "fedavg" and self.mu:
            misfits([Misfit("no mu with fedavg", ("mu",), advice="use fedprox for a proximal term")])
        return self


class Validation(Closed):
    """The share of each silo's rows that is kept out of training and used to evaluate."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25


class Run(Kind):
    """`kind: Run`: purpose, data, model, strategy and seed of one training run."""

    kind: Literal["Run"]
    metadata: RunMetadata
    purpose: Annotated[str, Field(min_length=1, max_length=200)]
    dataset: Annotated[str, Field(min_length=1, max_length=200)]
    features: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=10000)]
    label: Label
    app: App
    silos: Literal["all"] | tuple[MemberName, ...] = "all"
    strategy: Strategy
    metrics: tuple[Metric, ...] = METRICS
    validation: Validation = Validation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column the run reads, features first."""
        return (*self.features, self.label.column)


def load_run(text: str | bytes, source: str = "run.yaml") -> Document[Run]:
    """Parse a run; raises DocumentError with file, line and column."""
    return load_document(text, Run, source=source)


@dataclass(frozen=True)
class SignedRun:
    """A run with its app, bound together by the operator's signature (promise 6)."""

    text: str
    app_digest: str
    signature: bytes
    operator_certificate: bytes

    @property
    def digest(self) -> str:
        """What was signed: the digest of the run's text and the app's digest."""
        return _digest(self.text, self.app_digest)

    def document(self) -> Document[Run]:
        """The parsed run."""
        return load_run(self.text)

    def fields(self) -> dict[str, str]:
        """The form in which a signed run travels."""
        return {
            "run": self.text,
            "app_digest": self.app_digest,
            "signature": base64.b64encode(self.signature).decode(),
            "operator": self.operator_certificate.decode(),
        }


def _digest(text: str, app_digest: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode() + b"\0" + app_digest.encode()).hexdigest()


def app_digest(app: bytes) -> str:
    """The digest by which a policy approves an app bundle."""
    return "sha256:" + hashlib.sha256(app).hexdigest()


def sign_run(text: str, app: bytes, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> SignedRun:
    """Sign a run and the digest of its app with the operator's key."""
    digest = app_digest(app)
    return SignedRun(text, digest, sign(key, DOMAIN, _digest(text, digest).encode()), certificate)


def parse_signed_run(fields: dict[str, str]) -> SignedRun:
    """Rebuild a signed run from the form in which it travels; raises WireError. Nothing is verified yet."""
    try:
        text, digest, signature, operator = (fields[name] for name in ("run", "app_digest", "signature", "operator"))
        limits = ((text, LIMITS.document), (digest, 128), (signature, 1024), (operator, LIMITS.certificate))
        if any(len(value.encode()) > limit for value, limit in limits):
            raise WireError("got a run that is larger than a run may be")
        return SignedRun(text, digest, base64.b64decode(signature, validate=True), operator.encode())
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise WireError(f"got a signed run without a usable field: {str(error)[:200]}") from None


def verify_signed_run(signed: SignedRun, authority: x509.Certificate) -> Peer:
    """Check that a certified operator signed this run; returns the operator. Raises IdentityError."""
    certificate = load_certificate(signed.operator_certificate)
    verify_issued(certificate, authority)
    operator = peer_of(certificate)
    if operator.role is not Role.OPERATOR:
        raise IdentityError(f"the run is signed by a {operator.role}, expected an operator")
    verify(certificate.public_key(), DOMAIN, signed.digest.encode(), signed.signature)
    return operator


def verify_issued(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """Check that the authority issued a certificate and that it is valid now; raises IdentityError."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise IdentityError("the certificate was not issued by this federation's authority") from None
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise IdentityError(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, not now"
        )
