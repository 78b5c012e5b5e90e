"""One policy, one allowed request of each stage, and the means to vary them."""

import dataclasses
import datetime as dt

import pytest

from policies.engine import Decision, decide
from policies.model import load_policy
from policies.request import Admission, Egress, Ingress, Party, View

DIGEST = "sha256:" + "1" * 64
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

    def vary(self, stage: str, **changes: object) -> Admission | View | Ingress | Egress:
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
                Party("ops", "operator", "US"),
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
    )
