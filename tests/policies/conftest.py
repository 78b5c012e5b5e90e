"""One policy, one allowed request of each stage, and the means to vary them."""

import dataclasses
import datetime as dt

import pytest

from policies.engine import Decision, decide
from policies.model import load_policy
from policies.request import (
    Admission,
    Certificate,
    Egress,
    Ingress,
    LogHealth,
    Party,
    Privacy,
    Release,
    Request,
    View,
)

DIGEST = "sha256:" + "1" * 64
CONTRACT = "sha256:" + "c" * 64
ENDED = "sha256:" + "2" * 64

POLICY = f"""\
apiVersion: concordat/v1
kind: SiloPolicy
metadata:
  name: charite-cardiology
  version: 3
  owner: dpo@charite.example
  effective: 2026-11-01
residency:
  silo: DE
  destinations:
    model_update: {{countries: [EU, EEA, CH], basis: gdpr-art-9-2-j}}
    metrics: {{countries: [EU, EEA, CH, US], basis: gdpr-art-46-scc-2026-14}}
purposes:
  vocabulary: duo
  allow: [HMB]
  legal_basis: [gdpr-art-6-1-e]
  permit:
    ref: FDZ-2026-0113
    expires: 2027-06-30
datasets:
  heart:
    columns: {{allow: [age, sex, cp]}}
    rows:
      minimum: 50
apps:
  approvals: required
  allow:
    - digest: {DIGEST}
    - digest: {ENDED}
      expires: 2026-11-10
runs:
  max_rounds: 200
egress:
  metrics:
    allow: [loss, auc, num_examples]
    minimum_count: 20
  update:
    max_norm: 10.0
    max_bytes: 64MiB
"""


FULL = f"""\
apiVersion: concordat/v1
kind: SiloPolicy
metadata: {{name: charite-full, version: 7, owner: dpo@charite.example, effective: 2026-11-01}}
applies: [gdpr, ehds, sgb-v-393, dora]
residency:
  silo: DE
  destinations:
    model_update: {{countries: [EU, CH], basis: gdpr-art-9-2-j, parties: [hub, lyon]}}
    metrics: {{countries: [EU, CH], basis: gdpr-art-9-2-j}}
    final_model: {{countries: [EU, CH], basis: gdpr-art-9-2-j}}
purposes:
  vocabulary: ehds
  allow: [ehds-53-1-e, ehds-53-1-a]
  legal_basis: [gdpr-art-6-1-e, gdpr-art-9-2-j]
  persons: [ops, rki]
  public_bodies: [rki]
  permit: {{ref: FDZ-2026-0113, expires: 2027-06-30}}
  ethics: {{ref: EA1/113/26, expires: 2027-05-31}}
  dpia: {{ref: DPIA-12, expires: 2027-04-30}}
  agreement: {{ref: JCA-4, expires: 2027-03-31}}
datasets:
  heart:
    columns:
      allow: [age, sex, cp, pid]
      pseudonymize: [pid]
      deny: [name, date]
      classes: {{age: none, sex: none, cp: none, pid: medical_record}}
    rows: {{minimum: 50, consent: research_consent, opt_out: ehds_opt_out}}
    contract: {CONTRACT}
apps:
  approvals: required
  reviewers: [anna, bela, chen]
  allow:
    - {{digest: {DIGEST}, expires: 2027-01-31, reviewers: 2, uses: 3}}
runs: {{max_rounds: 200, windows: ["Mon-Fri 18:00-06:00 Europe/Berlin"], max_concurrent: 1, minimum_silos: 2}}
egress:
  metrics: {{allow: [loss, auc, num_examples], minimum_count: 20}}
  update: {{max_norm: 10.0, max_bytes: 64MiB}}
privacy:
  mode: example_dp
  clip_norm: 1.0
  noise_multiplier: 0.8
  max_epsilon: 3.0
  budget: {{epsilon: 8.0, delta: 1e-5, per: dataset, window: P1Y}}
  secure_aggregation: required
release: {{approvers: [dora, emil, lyon], minimum: 2}}
identity: {{certificates: {{max_age: P90D, min_left: P2D}}}}
audit:
  retention: {{minimum: P1Y, maximum: P10Y}}
  witnesses: {{quorum: 2}}
  verify_age: P7D
  clock_skew: 5.0
  fail: closed
attestations:
  - {{name: c5-type-2, ref: C5-2026, expires: 2027-02-28}}
  - {{name: establishment-de, ref: HRB 4711, expires: 2028-01-01}}
inventory: {{ref: MI-7, owner: model risk, validated: {{ref: VAL-7, expires: 2027-02-15}}}}
"""


@dataclasses.dataclass(frozen=True)
class Example:
    """The policy's text and a request of each stage that it allows."""

    text: str
    now: dt.datetime
    digest: str
    ended: str
    admission: Admission
    view: View
    ingress: Ingress
    egress: Egress
    release: Release

    def vary(self, stage: str, **changes: object) -> Request:
        """The request of a stage with some facts changed."""
        return dataclasses.replace(getattr(self, stage), **changes)

    def line(self, fragment: str) -> int:
        """The line of the policy that has a fragment."""
        return next(n for n, line in enumerate(self.text.splitlines(), 1) if fragment in line)

    def decide(self, request: object, text: str | None = None, now: dt.datetime | None = None) -> Decision:
        """Decide under the policy, or a variation of it."""
        return decide(load_policy(text or self.text, "policy.yaml"), request, now or self.now)


@pytest.fixture(scope="session")
def example() -> Example:
    return Example(
        text=POLICY,
        now=dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC),
        digest=DIGEST,
        ended=ENDED,
        admission=Admission(
            purpose="HMB",
            dataset="heart",
            columns=("age", "sex"),
            app_digest=DIGEST,
            rounds=50,
            metrics=("loss", "auc"),
            parties=(
                Party("hub", "coordinator", "DE"),
                Party("charite", "silo", "DE"),
                Party("lyon", "silo", "FR"),
                Party("ops", "operator", "CH"),
            ),
            silo="charite",
        ),
        view=View("heart", ("age", "cp"), 50),
        ingress=Ingress(1, 50, 1000, 1000, "float32", True, 4000),
        egress=Egress(
            round=50,
            examples=20,
            metrics={"loss": 0.5, "auc": 0.9},
            declared_metrics=("loss", "auc", "num_examples"),
            values=1000,
            expected_values=1000,
            dtype="float32",
            finite=True,
            norm=10.0,
            size_bytes=4000,
        ),
        release=Release(party=Party("lyon", "silo", "FR"), approvals=()),
    )


@pytest.fixture(scope="session")
def full() -> Example:
    """A policy that uses every section, and what it allows; Friday, 20:00 in Berlin."""
    now = dt.datetime(2026, 11, 20, 19, tzinfo=dt.UTC)
    privacy = Privacy(
        mode="example_dp",
        clip_norm=1.0,
        noise_multiplier=0.8,
        epsilon=3.0,
        spent=8.0,
        delta=1e-5,
        secure_aggregation=True,
    )
    issued, ends = now - dt.timedelta(days=10), now + dt.timedelta(days=20)
    return Example(
        text=FULL,
        now=now,
        digest=DIGEST,
        ended=ENDED,
        admission=Admission(
            purpose="ehds-53-1-e-ii",
            dataset="heart",
            columns=("age", "sex", "pid"),
            app_digest=DIGEST,
            rounds=50,
            metrics=("loss", "auc"),
            parties=(
                Party("hub", "coordinator", "DE"),
                Party("charite", "silo", "DE"),
                Party("lyon", "silo", "FR"),
                Party("ops", "operator", "CH"),
            ),
            silo="charite",
            quorum=2,
            authors=("fritz",),
            reviewers=("anna", "chen"),
            uses=2,
            running=0,
            release_asked=True,
            certificates=(Certificate("charite", issued, ends), Certificate("ops", issued, ends)),
            privacy=privacy,
            log=LogHealth(
                witnesses=2,
                verified=now - dt.timedelta(days=1),
                clock_skew=0.5,
                oldest_payload=now - dt.timedelta(days=400),
                payloads_known=True,
            ),
        ),
        view=View("heart", ("age", "pid"), 50, "research_consent", "ehds_opt_out", ("pid",), CONTRACT),
        ingress=Ingress(1, 50, 1000, 1000, "float32", True, 4000),
        egress=Egress(
            round=50,
            examples=20,
            metrics={"loss": 0.5, "auc": 0.9},
            declared_metrics=("loss", "auc", "num_examples"),
            values=1000,
            expected_values=1000,
            dtype="float32",
            finite=True,
            norm=10.0,
            size_bytes=4000,
            privacy=privacy,
        ),
        release=Release(party=Party("lyon", "silo", "FR"), approvals=("dora", "emil")),
    )
