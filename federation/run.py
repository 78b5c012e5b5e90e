"""`kind: Run`: a training run as data, signed by the operator who submits it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, model_validator

from federation.errors import IdentityError, WireError
from federation.identity import NAME, Peer, Role, load_certificate, peer_of, sign, verify
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.membership import identify
from federation.submission import DEFAULT_VALIDITY, DOMAIN, Submission, submission_of
from policies.document import Closed, Document, Kind, load_document
from policies.scalars import Misfit, misfits

FIELDS = ("run", "submission", "signature", "operator")
"""The fields of the form in which a signed run travels."""
Metric = Literal[
    "loss",
    "auc",
    "pr_auc",
    "accuracy",
    "brier",
    "calibration_error",
    "calibration_in_the_large",
    "calibration_slope",
    "num_examples",
    "own_loss",
    "own_auc",
    "own_pr_auc",
    "own_accuracy",
    "own_brier",
    "own_calibration_error",
]
METRICS: tuple[Metric, ...] = ("loss", "auc", "accuracy", "num_examples")
"""What a run asks for by default."""
OWN_METRICS: tuple[Metric, ...] = (
    "own_loss",
    "own_auc",
    "own_pr_auc",
    "own_accuracy",
    "own_brier",
    "own_calibration_error",
)
"""What a silo's model of its own rows alone reaches, trained beside the federated one for as long."""
NOT_AVERAGED: tuple[Metric, ...] = ("num_examples", "calibration_slope")
"""What is told for each silo and has no mean over silos: a slope of few rows may be any number."""
Precision = Literal["float32", "mixed_bfloat16"]
"""What layers compute in; weights are float32 in both."""
MU_LIMIT = 1000.0
"""The largest weight of the proximal term."""

NORMALIZED = 1000
"""The most features of a run that are normalised by statistics of all silos."""

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
    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Steps instead of whole epochs."""
    seconds: Annotated[float, Field(gt=0, le=86400)] | None = None
    """The time after which a silo ends its work in a round and returns what it has done."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32


class ClassWeights(Closed):
    """What the loss of a row counts in training, by the row's class."""

    negative: Annotated[float, Field(gt=0, le=1e6)]
    positive: Annotated[float, Field(gt=0, le=1e6)]


class AdaptiveMu(Closed):
    """Changes mu by the loss: up by a step when it rises, down after so many rounds in which it falls."""

    step: Annotated[float, Field(gt=0, le=10)] = 0.1
    patience: Annotated[int, Field(ge=1, le=1000)] = 5


StrategyName = Literal[
    "fedprox",
    "fedavg",
    "scaffold",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "qfedavg",
    "trimmed_mean",
    "median",
    "krum",
]

OPTIONS: dict[StrategyName, dict[str, float]] = {
    "fedprox": {},
    "fedavg": {},
    "scaffold": {},
    "fedavgm": {"server_learning_rate": 1.0, "momentum": 0.9},
    "fedadam": {"server_learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "fedyogi": {"server_learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "fedadagrad": {"server_learning_rate": 0.1, "beta_1": 0.0, "tau": 1e-3},
    "qfedavg": {"q": 1.0, "client_learning_rate": 0.1},
    "trimmed_mean": {"trim": 0.2},
    "median": {},
    "krum": {"byzantine": 1},
}
"""The options of each strategy, with their defaults."""

MEANS: tuple[StrategyName, ...] = ("fedprox", "fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad")
"""The strategies that learn nothing of a round but the mean of its updates; the others weigh or leave out single ones.

There are no others under secure aggregation, nor with silo-level privacy.
"""

Share = Annotated[float, Field(ge=0, lt=1)]
LEAST = 1e-12
"""A rate or norm may be no smaller: float32 has no reciprocal of the smallest float64 numbers, nor their squares."""
Positive = Annotated[float, Field(ge=LEAST, le=1e6)]


class Strategy(Closed):
    """How rounds are run and folded together (FedProx: Li et al., MLSys 2020)."""

    name: StrategyName = "fedprox"
    mu: Annotated[float, Field(ge=0, le=MU_LIMIT)] = 0.0
    adaptive: AdaptiveMu | None = None
    server_learning_rate: Positive | None = None
    momentum: Share | None = None
    beta_1: Share | None = None
    beta_2: Share | None = None
    tau: Positive | None = None
    q: Annotated[float, Field(ge=0, le=100)] | None = None
    client_learning_rate: Positive | None = None
    trim: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    byzantine: Annotated[int, Field(ge=0, le=1000)] | None = None
    rounds: Annotated[int, Field(ge=1, le=10000)]
    quorum: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    deadline_seconds: Annotated[float, Field(gt=0, le=86400)] = 60.0
    local: LocalWork = LocalWork()

    @model_validator(mode="after")
    def _fedavg_has_no_proximal_term(self) -> Strategy:
        if self.name == "fedavg" and self.mu:
            misfits([Misfit("no mu with fedavg", ("mu",), advice="use fedprox for a proximal term")])
        if self.name == "fedavg" and self.adaptive:
            misfits([Misfit("no adaptive mu with fedavg", ("adaptive",), advice="use fedprox for a proximal term")])
        return self

    @model_validator(mode="after")
    def _options_of_the_strategy(self) -> Strategy:
        every = {option for options in OPTIONS.values() for option in options}
        known = OPTIONS[self.name]
        advice = f"{self.name} has {', '.join(known)}" if known else f"{self.name} has no options"
        foreign = sorted(option for option in every - set(known) if getattr(self, option) is not None)
        misfits([Misfit(f"no {option} with {self.name}", (option,), advice=advice) for option in foreign])
        return self

    def option(self, name: str) -> float:
        """An option of the strategy, as given or by default."""
        given: float | None = getattr(self, name)
        return OPTIONS[self.name][name] if given is None else given


class Validation(Closed):
    """The share of each silo's rows that is kept out of training and used to evaluate."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25


class AdaptiveClipping(Closed):
    """Moves the clip norm to a quantile of the updates' norms (Andrew et al., NeurIPS 2021)."""

    target_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    max_clip_norm: Annotated[float, Field(ge=LEAST, le=1e6)]
    """What the clip norm never goes above."""


class Privacy(Closed):
    """Differential privacy: of single training rows (DP-SGD: Abadi et al., CCS 2016), or of whole silos.

    The noise is given as a multiplier, or made so that the whole run costs `epsilon` at `delta` at each silo.
    """

    mode: Literal["example_dp", "silo_dp"]
    clip_norm: Annotated[float, Field(ge=LEAST, le=1e6)]
    delta: Annotated[float, Field(gt=0, le=1e-2)]
    epsilon: Annotated[float, Field(ge=0.01, le=100)] | None = None
    noise_multiplier: Annotated[float, Field(ge=0.3, le=1000)] | None = None
    adaptive: AdaptiveClipping | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Privacy:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            advice = "give epsilon, for the noise to be made from it, or noise_multiplier"
            misfits([Misfit("one of epsilon and noise_multiplier", ("epsilon",), advice=advice)])
        return self

    @model_validator(mode="after")
    def _adaptive_clipping_of_silos(self) -> Privacy:
        if self.adaptive is None:
            return self
        if self.mode != "silo_dp":
            misfits([Misfit(f"no adaptive with {self.mode}", ("adaptive",), advice="set mode to silo_dp")])
        if self.clip_norm > self.adaptive.max_clip_norm:
            advice = "raise max_clip_norm: clip_norm is what the first round begins with"
            misfits([Misfit("at least clip_norm", ("adaptive", "max_clip_norm"), advice=advice)])
        return self

    @property
    def largest_clip_norm(self) -> float:
        """The largest norm to which any round of the run clips."""
        return self.clip_norm if self.adaptive is None else self.adaptive.max_clip_norm


class Updates(Closed):
    """How a silo's update travels, as its difference from the round's model; without it as float32 weights, exactly."""

    encoding: Literal["float16", "int8", "top_k"]
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """With top_k, the share of the values that are sent."""

    @model_validator(mode="after")
    def _share_of_top_k(self) -> Updates:
        if (self.share is None) == (self.encoding == "top_k"):
            wanted = "a share with top_k" if self.share is None else f"no share with {self.encoding}"
            misfits([Misfit(wanted, ("share",), advice="share is the part of the values that top_k sends")])
        return self


class SecureAggregation(Closed):
    """Sums of masked updates instead of single ones (Bonawitz et al., CCS 2017).

    `threshold` silos open a sum, fewer nothing; `largest_change` bounds each value of an update, which is scaled down
    as a whole where it is beyond.
    """

    threshold: Annotated[int, Field(ge=2, le=LIMITS.members)]
    largest_change: Annotated[float, Field(ge=1e-6, le=4096)] = 8.0


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
    class_weights: Literal["balanced"] | ClassWeights | None = None
    precision: Precision = "float32"
    privacy: Privacy | None = None
    updates: Updates | None = None
    secure_aggregation: SecureAggregation | None = None
    normalization: Literal["federated"] | None = None
    metrics: tuple[Metric, ...] = METRICS
    validation: Validation = Validation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _strategies_that_need_the_loss(self) -> Run:
        needs = "qfedavg" if self.strategy.name == "qfedavg" else "an adaptive mu" if self.strategy.adaptive else ""
        if needs and "loss" not in self.metrics:
            misfits([Misfit(f"loss among the metrics with {needs}", ("metrics",), advice="add loss")])
        return self

    @model_validator(mode="after")
    def _no_model_of_its_own_with_privacy(self) -> Run:
        own = [index for index, metric in enumerate(self.metrics) if metric in OWN_METRICS]
        if self.privacy is not None and own:
            advice = "leave it out: a silo's own model is trained without noise"
            misfits([Misfit("no metric of a silo's own model with privacy", ("metrics", own[0]), advice=advice)])
        return self

    @model_validator(mode="after")
    def _class_weights_that_no_row_decides(self) -> Run:
        if self.example_dp and self.class_weights == "balanced":
            advice = "give negative and positive: counts of classes would carry each row into the gradients of all"
            misfits([Misfit("no balanced class weights with example_dp", ("class_weights",), advice=advice)])
        return self

    @model_validator(mode="after")
    def _normalization_that_can_be_had(self) -> Run:
        if self.normalization is None:
            return self
        if self.privacy is not None:
            advice = "scale by ranges known beforehand: means and variances would leave without noise"
            misfits([Misfit("no federated normalization with privacy", ("normalization",), advice=advice)])
        if len(self.features) > NORMALIZED:
            misfits([Misfit(f"at most {NORMALIZED} features with normalization", ("normalization",))])
        return self

    @model_validator(mode="after")
    def _sums_alone_with_silo_privacy(self) -> Run:
        if not self.silo_dp:
            return self
        if self.strategy.name not in MEANS:
            advice = f"its noise is counted on the sum of the updates: use one of {', '.join(MEANS)}"
            misfits([Misfit(f"no {self.strategy.name} with silo_dp", ("strategy", "name"), advice=advice)])
        if self.strategy.adaptive is not None:
            advice = "leave it out: it goes by the silos' loss, which has no noise"
            misfits([Misfit("no adaptive mu with silo_dp", ("strategy", "adaptive"), advice=advice)])
        return self

    @model_validator(mode="after")
    def _sums_alone(self) -> Run:
        if self.secure_aggregation is None:
            return self
        if self.updates is not None:
            advice = "leave it out: masked sums are of integers of one width"
            misfits([Misfit("no updates with secure_aggregation", ("updates",), advice=advice)])
        if self.strategy.name not in MEANS:
            advice = "use fedprox, fedavg, fedavgm, fedadam, fedyogi or fedadagrad, which need the mean alone"
            place = ("strategy", "name")
            misfits([Misfit(f"no {self.strategy.name} with secure_aggregation", place, advice=advice)])
        threshold, quorum = self.secure_aggregation.threshold, self.strategy.quorum
        where = ("secure_aggregation", "threshold")
        if quorum != "all" and quorum < threshold:
            advice = f"raise strategy.quorum to {threshold}: fewer silos cannot open a sum"
            misfits([Misfit(f"a threshold of at most the quorum, {quorum}", where, advice=advice)])
        if self.silos != "all" and not threshold <= len(self.silos) < 2 * threshold:
            advice = f"set it to {len(self.silos) // 2 + 1} or more: then no two sums of one round can be opened"
            misfits([Misfit(f"more than half of the {len(self.silos)} silos and no more", where, advice=advice)])
        return self

    @model_validator(mode="after")
    def _control_variates_of_exact_updates(self) -> Run:
        if self.strategy.name == "scaffold" and self.updates is not None:
            advice = "leave it out: control variates are made of exact updates"
            misfits([Misfit("no updates with scaffold", ("updates",), advice=advice)])
        return self

    @property
    def silo_dp(self) -> bool:
        """Whether whole silos are what is private: each counts the same, whatever rows it has."""
        return self.privacy is not None and self.privacy.mode == "silo_dp"

    @property
    def example_dp(self) -> bool:
        """Whether single training rows are what is private: then the trainer adds the noise."""
        return self.privacy is not None and self.privacy.mode == "example_dp"

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column the run reads, features first."""
        return (*self.features, self.label.column)


def load_run(text: str | bytes, source: str = "run.yaml") -> Document[Run]:
    """Parse a run; raises DocumentError with file, line and column."""
    return load_document(text, Run, source=source)


@dataclass(frozen=True)
class SignedRun:
    """A run with its app, submitted once: bound together by the operator's signature (promise 6)."""

    text: str
    submission: Submission
    signature: bytes
    operator_certificate: bytes

    @property
    def digest(self) -> str:
        """What names this submission, and no other of the same run: the digest of what was signed."""
        return self.submission.digest

    @property
    def app_digest(self) -> str:
        """The digest of the app."""
        return self.submission.app

    @property
    def content_digest(self) -> str:
        """What reviewers approve, however often it is submitted: the digest of the run's text and its app."""
        return content_digest(self.text, self.app_digest)

    def document(self) -> Document[Run]:
        """The parsed run."""
        return load_run(self.text)

    def fields(self) -> dict[str, str]:
        """The form in which a signed run travels."""
        return {
            "run": self.text,
            "submission": self.submission.dump(),
            "signature": base64.b64encode(self.signature).decode(),
            "operator": self.operator_certificate.decode(),
        }


def content_digest(text: str, app_digest: str) -> str:
    """The digest of a run's text and its app, which is known before anyone signs it."""
    return _sha256(text.encode() + b"\0" + app_digest.encode())


def app_digest(app: bytes) -> str:
    """The digest by which a policy approves an app bundle."""
    return _sha256(app)


def sign_run(
    text: str,
    app: bytes,
    key: ec.EllipticCurvePrivateKey,
    certificate: bytes,
    silos: Iterable[str],
    validity: timedelta = DEFAULT_VALIDITY,
    now: datetime | None = None,
) -> SignedRun:
    """Sign a new submission of a run and its app to these silos with the operator's key; raises SubmissionError."""
    content, operator = (_sha256(text.encode()), app_digest(app)), peer_of(load_certificate(certificate))
    submission = submission_of(content, operator, silos, validity, now)
    return SignedRun(text, submission, sign(key, DOMAIN, submission.content), certificate)


def parse_signed_run(fields: Mapping[str, str]) -> SignedRun:
    """Rebuild a signed run from the form in which it travels; raises WireError. Nothing is verified yet."""
    try:
        text, statement, signature, operator = (fields[name] for name in FIELDS)
        limits = (
            (text, LIMITS.document),
            (statement, LIMITS.submission),
            (signature, 1024),
            (operator, LIMITS.certificate),
        )
        if any(len(value.encode()) > limit for value, limit in limits):
            raise WireError("got a run that is larger than a run may be")
        submission = Submission.load(statement)
        return SignedRun(text, submission, base64.b64decode(signature, validate=True), operator.encode())
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise WireError(f"got a signed run without a usable field: {str(error)[:200]}") from None


def verify_signed_run(signed: SignedRun, manifest: SignedManifest) -> Peer:
    """Check that an operator of the federation signed this submission of this text to it; returns the operator.

    Raises IdentityError. Whether it is still open is asked for apart, of a first admission alone.
    """
    certificate, submission = load_certificate(signed.operator_certificate), signed.submission
    operator = identify(manifest, certificate)
    if operator.role is not Role.OPERATOR:
        raise IdentityError(f"the run is signed by a {operator.role}, expected an operator")
    verify(certificate.public_key(), DOMAIN, submission.content, signed.signature)
    for what, got, expected in (
        ("operator", operator.name, submission.operator),
        ("federation", manifest.federation.metadata.name, submission.federation),
        ("run", _sha256(signed.text.encode()), submission.run),
    ):
        if got != expected:
            raise IdentityError(
                f"the operator's signature does not verify for this {what}: got {got}, expected {expected}"
            )
    return operator


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
