"""A gate counts approvals that are of exactly what it was asked, and takes only the policy that its officer signed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import ConcordatError
from federation.identity import new_key
from federation.signed_policy import sign_policy, signature_path
from policies.bundle import version_of
from policies.model import load_policy
from silo.gate.facts import Approvals
from silo.gate.policy_file import PolicyFile, Rejected
from silo.governance import approvals

from .simulator import POLICY, RUN, GateBench

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
REVIEWED = POLICY.replace("approvals: required", "approvals: required\n  reviewers: [anna, ben]").replace(
    '"}]', '", reviewers: 2}]'
)


@pytest.fixture(scope="module")
def keys() -> dict[str, ec.EllipticCurvePrivateKey]:
    return {name: new_key() for name in ("anna", "ben", "officer", "stranger")}


def approve(bench: GateBench, directory: Path, reviewer: str, key: ec.EllipticCurvePrivateKey, text: str = RUN) -> Path:
    """An approval of the bench's run and app under its policy."""
    signed, policy = bench.consortium.sign(text), load_policy(REVIEWED)
    subject = approvals.Subject(
        signed.app_digest, signed.content_digest, policy.digest, approvals.dataset_contract(policy, "heart")
    )
    path = directory / f"{reviewer}.approval.yaml"
    path.write_text(approvals.approve(subject, reviewer, ["carl"], key, NOW))
    return path


@pytest.fixture
def reviewed(bench: GateBench, tmp_path: Path, keys) -> Path:
    """The directory of approvals of a bench whose policy asks for two reviewers."""
    assert "reviewers: 2" in REVIEWED
    directory = tmp_path / "approvals"
    directory.mkdir()
    known = {name: keys[name].public_key() for name in ("anna", "ben")}
    bench.serve_policy(REVIEWED, approvals=Approvals(directory, known))
    return directory


def test_a_run_is_admitted_once_two_reviewers_approved_it(bench: GateBench, reviewed: Path, keys) -> None:
    bench.work()
    assert bench.admit().config["rule"] == "apps.reviewers"
    approve(bench, reviewed, "anna", keys["anna"])
    assert bench.admit().config["rule"] == "apps.reviewers"
    assert "1 valid approval (anna), whose author is carl" in bench.last["reason"]
    approve(bench, reviewed, "ben", keys["ben"])
    assert bench.admit().config["status"] == "admitted"


def test_approvals_of_another_run_admit_nothing(bench: GateBench, reviewed: Path, keys) -> None:
    bench.work()
    for name in ("anna", "ben"):
        approve(bench, reviewed, name, keys[name], RUN.replace("rounds: 3", "rounds: 2"))
    assert bench.admit().config["rule"] == "apps.reviewers"


def test_a_forged_approval_does_not_count(bench: GateBench, reviewed: Path, keys) -> None:
    bench.work()
    approve(bench, reviewed, "anna", keys["anna"])
    approve(bench, reviewed, "ben", keys["stranger"])
    assert bench.admit().config["rule"] == "apps.reviewers"


def test_an_approval_that_is_revoked_ends_the_run_at_its_next_round(bench: GateBench, reviewed: Path, keys) -> None:
    bench.work()
    approve(bench, reviewed, "anna", keys["anna"])
    path = approve(bench, reviewed, "ben", keys["ben"])
    assert bench.admit().config["status"] == "admitted"
    assert bench.round(1).config["status"] == "ok"
    text = approvals.revoke(approvals.load_approval(path), "reads the postcode", keys["ben"], NOW)
    (reviewed / "ben.revocation.yaml").write_text(text)
    assert bench.round(2).config["rule"] == "apps.reviewers"


def test_a_running_gate_takes_only_what_the_officer_signed(tmp_path: Path, keys) -> None:
    path = tmp_path / "policy.yaml"

    def put(version: int, signer: str | None) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(POLICY.replace("version: 1", f"version: {version}"))
        if signer is not None:
            signature_path(path).write_text(sign_policy(load_policy(fresh), "Officer", keys[signer], NOW))
        fresh.replace(path)

    put(1, None)
    file = PolicyFile(path, keys["officer"].public_key())
    with pytest.raises(ConcordatError, match="takes only signed policies"):
        file.first()
    put(1, "officer")
    active = file.first()
    for version, signer, reason in ((2, None, "signature of digest"), (3, "stranger", "does not verify")):
        put(version, signer)
        found = file.poll(version_of(active))
        assert isinstance(found, Rejected)
        assert reason in found.reason
    put(4, "officer")
    found = file.poll(version_of(active))
    assert not isinstance(found, Rejected | None)
    assert found.model.metadata.version == 4
