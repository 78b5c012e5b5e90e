"""A final model goes to nobody before the silo's approvers have signed for exactly that: model, run and receiver."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import WireError
from federation.identity import new_key
from federation.release import ReleaseRequest, parse_release_request, request_release
from federation.wire import Envelope, Kind
from silo.gate.facts import Approvals
from silo.governance.approvals import APPROVAL_DOMAIN
from silo.governance.documents import signed
from silo.governance.releases import SUFFIX, Handover, agree

from .simulator import POLICY, GateBench

FOUR_EYES = (
    POLICY.replace("    metrics: {", "    final_model: {countries: [EU], basis: gdpr-art-9-2-j}\n    metrics: {", 1)
    + "release: {approvers: [dora, emil, operator], minimum: 2}\n"
)
MODEL = "sha256:" + "5" * 64
NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Desk:
    """A gate whose policy keeps the final model, and the keys of those who may agree to its release."""

    def __init__(self, bench: GateBench) -> None:
        self.bench = bench
        self.keys = {name: new_key() for name in ("dora", "emil", "operator", "finn")}
        self.directory = bench.directory / "approvals"
        self.directory.mkdir()
        known = {name: key.public_key() for name, key in self.keys.items()}
        bench.serve_policy(FOUR_EYES, approvals=Approvals(self.directory, known))
        bench.work()
        self.run = bench.submission()
        question = bench.question(self.run)
        answer = bench.ask(Kind.ADMIT, Envelope({**question.config, "release_asked": True}))
        assert (answer.config["status"], answer.config.get("release")) == ("admitted", True)

    def handover(self, **changes: str) -> Handover:
        return replace(Handover("run-1", self.run.digest, MODEL, "operator"), **changes)

    def agree(self, *names: str, key: ec.EllipticCurvePrivateKey | None = None, **changes: str) -> None:
        for name in names:
            text = agree(self.handover(**changes), name, key or self.keys[name], NOW)
            number = len(list(self.directory.iterdir()))
            (self.directory / f"{number}{SUFFIX}").write_text(text)

    def request(self, member: str = "operator", **changes: str) -> ReleaseRequest:
        home = self.bench.consortium.homes[member]
        fields = {"run": "run-1", "run_digest": self.run.digest, "model": MODEL, **changes}
        return request_release(**fields, key=home.private_key(), certificate=home.certificate.read_bytes())

    def ask(self, request: ReleaseRequest | None = None, **changes: Any) -> dict[str, Any]:
        manifest = self.bench.consortium.manifest
        shown = {"manifest": manifest.document.text, "manifest_signature": manifest.signature}
        fields = {**(request or self.request()).fields(), **shown, **changes}
        return dict(self.bench.ask(Kind.RELEASE, Envelope(fields)).config)


@pytest.fixture
def desk(bench: GateBench) -> Desk:
    return Desk(bench)


def test_two_approvers_release_a_model_and_the_log_says_what_and_to_whom(desk: Desk) -> None:
    desk.agree("dora", "emil")
    assert desk.ask()["status"] == "released"
    entry = desk.bench.last
    assert (entry["action"], entry["decision"], entry["run"]) == ("model.release", "allow", "run-1")
    assert {name: entry["detail"][name] for name in ("model", "party", "country", "approvers")} == {
        "model": MODEL,
        "party": "operator",
        "country": "DE",
        "approvers": "dora,emil",
    }


@pytest.mark.parametrize(
    "agreements",
    [
        [],
        [("dora", {})],
        [("dora", {}), ("dora", {})],
        [("dora", {}), ("operator", {})],
        [("dora", {}), ("finn", {})],
        [("dora", {}), ("emil", {"model": "sha256:" + "6" * 64})],
        [("dora", {}), ("emil", {"party": "hospital-b"})],
        [("dora", {}), ("emil", {"run": "run-2"})],
        [("dora", {}), ("emil", {"run_digest": "sha256:" + "7" * 64})],
    ],
    ids=["nobody", "one", "one-twice", "who-asks", "not-named", "model", "party", "run", "digest"],
)
def test_too_few_agreements_to_exactly_this_release_nothing(desk: Desk, agreements: list[Any]) -> None:
    for name, changes in agreements:
        desk.agree(name, **changes)
    answer = desk.ask()
    assert (answer["status"], answer["rule"]) == ("refused", "release.approvers")
    assert (desk.bench.last["action"], desk.bench.last["decision"]) == ("model.release", "deny")


def test_a_signature_of_another_key_or_for_another_use_does_not_count(desk: Desk) -> None:
    desk.agree("dora")
    desk.agree("emil", key=desk.keys["finn"])
    fields = {
        "kind": "ReleaseApproval",
        "reviewer": "emil",
        **vars(desk.handover()),
        "approved": "2026-05-01T00:00:00Z",
    }
    (desk.directory / f"used{SUFFIX}").write_text(signed(fields, desk.keys["emil"], APPROVAL_DOMAIN))
    (desk.directory / f"noise{SUFFIX}").write_bytes(b"\xff: [")
    assert desk.ask()["rule"] == "release.approvers"


def test_the_receiver_is_whoever_signed_the_request_whatever_the_coordinator_says(desk: Desk) -> None:
    desk.agree("dora", "emil")
    request = desk.request()
    forged = replace(request, model="sha256:" + "6" * 64)
    assert desk.ask(forged)["rule"] == "release.request"
    assert desk.ask(desk.request("hospital-b"))["rule"] == "release.request"
    stolen = replace(request, certificate=desk.bench.consortium.homes["hospital-b"].certificate.read_bytes())
    assert desk.ask(stolen)["rule"] == "release.request"
    assert desk.ask(party="hospital-b")["status"] == "released"
    assert desk.bench.last["detail"]["party"] == "operator"


def test_a_run_that_this_silo_did_not_admit_is_not_its_to_release(desk: Desk) -> None:
    desk.agree("dora", "emil", run="run-9")
    answer = desk.ask(desk.request(run="run-9"))
    assert (answer["rule"], "took no part" in answer["reason"]) == ("release.request", True)


def test_a_place_that_the_policy_does_not_allow_gets_no_model(desk: Desk) -> None:
    desk.agree("dora", "emil")
    desk.bench.policy_path.write_text(
        FOUR_EYES.replace("version: 1,", "version: 2,").replace(
            "final_model: {countries: [EU]", "final_model: {countries: [FR]"
        )
    )
    assert desk.ask()["rule"] == "residency.destinations"


@pytest.mark.parametrize("name", ["run_id", "run_digest", "model", "signature", "operator"])
@pytest.mark.parametrize("value", ["", 7, "x" * 100_000, "no digest, no base64, no certificate"])
def test_a_request_without_a_usable_field_fails_and_the_gate_goes_on(desk: Desk, name: str, value: Any) -> None:
    desk.agree("dora", "emil")
    answer = desk.ask(**{name: value})
    assert answer["status"] in {"failed", "refused"}
    assert "model.release" not in desk.bench.state().actions
    assert desk.ask()["status"] == "released"


def test_a_request_that_lacks_a_field_is_none() -> None:
    with pytest.raises(WireError, match="without one of its fields"):
        parse_release_request({"run_id": "run-1"})
