"""An operator who means harm: what one who signs can do to a silo beyond its policy, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.identity import load_certificate
from federation.release import request_release
from federation.trust import serial_of
from federation.wire import MANIFEST, MANIFEST_SIGNATURE, Envelope, Kind, weights_digest
from silo.gate.accounting import share_of, together_of
from silo.gate.ledger import Ledger

from .simulator import INITIAL, POLICY, RUN, SILO, Consortium, GateBench, found_consortium, refused
from .test_gate_secure_rounds import ALL, OTHERS, Sum, start
from .test_gate_statistics import ALLOWED
from .test_gate_statistics import TEXT as SURVEY


@pytest.fixture
def own(tmp_path: Path) -> Consortium:
    """A federation that a test may change."""
    return found_consortium(tmp_path / "federation")


@pytest.fixture
def gate(own: Consortium, short_path: Path) -> Iterator[GateBench]:
    bench = GateBench(own, short_path)
    yield bench
    bench.close()


# -- for whom it is signed


@pytest.mark.parametrize(
    ("silos", "text"),
    [
        (["hospital-b"], RUN),
        (["hospital-b"], RUN + "silos: [hospital-a, hospital-b]\n"),
        (["hospital-a", "hospital-b"], RUN + "silos: [hospital-b]\n"),
        (["hospital-a"], RUN + "silos: [hospital-a, hospital-b]\n"),
    ],
    ids=[
        "for others",
        "for others, by its text for this one",
        "by its text for others",
        "for fewer than its text says",
    ],
)
def test_a_run_that_was_not_signed_for_this_silo_is_refused(bench: GateBench, silos: list[str], text: str) -> None:
    worker = bench.work()
    assert refused(bench.admit(bench.consortium.sign(text, silos=silos))) == "run.silos"
    assert worker.asked == []


def test_statistics_that_were_not_signed_for_this_silo_are_refused(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    signed = bench.consortium.sign(SURVEY, b"", silos=["hospital-b"])
    assert refused(bench.ask(Kind.STATISTICS, bench.question(signed))) == "run.silos"


def test_silos_that_do_not_exist_are_no_company(bench: GateBench) -> None:
    """Signed for beside this one, they are no parties: a policy that wants two silos sees one."""
    bench.serve_policy(POLICY.replace("max_rounds: 10", "max_rounds: 10, minimum_silos: 2"))
    ghosts = bench.consortium.sign(RUN, silos=[SILO, "hospital-y", "hospital-z", "operator"])
    bench.work()
    assert refused(bench.admit(ghosts)) == "runs.minimum_silos"
    assert bench.last["detail"]["parties"] == "coordinator:DE,operator:DE,hospital-a:DE"


def test_a_silo_that_was_enrolled_after_the_signature_takes_no_part(gate: GateBench) -> None:
    """`silos: all` means those that the operator saw; a coordinator cannot add one to them."""
    signed = gate.consortium.sign(RUN, silos=[SILO])
    gate.work()
    assert gate.admit(signed).config["status"] == "admitted"
    session = gate.handler._session
    assert session is not None
    assert session.silos == (SILO,)
    assert set(session.log_keys) == {SILO}


# -- what is signed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sick-or-not", "'a\\nb'"),
        ("sick-or-not", '"\\e[2J"'),
        ("sick-or-not", "../../x"),
        ("sick-or-not", "x" * 64),
        ("rounds: 3", "rounds: 10001"),
        ("rounds: 3", "rounds: 1e9"),
        ("rounds: 3", "rounds: 3, rounds: 4"),
        ("purpose: HMB", "purpose: HMB\npurpose: GRU"),
    ],
)
def test_a_text_that_is_no_run_is_refused_whoever_signed_it(bench: GateBench, old: str, new: str) -> None:
    worker = bench.work()
    answer = bench.admit(bench.consortium.sign(RUN.replace(old, new)))
    assert refused(answer) == "run.document"
    assert "\x1b" not in str(answer.config["reason"])
    assert worker.asked == []


def test_rounds_beyond_the_policys_are_refused(bench: GateBench) -> None:
    bench.work()
    answer = bench.admit(bench.consortium.sign(RUN.replace("rounds: 3", "rounds: 10000")))
    assert refused(answer) == "runs.max_rounds"


@pytest.mark.parametrize("kind", [Kind.ADMIT, Kind.STATISTICS])
def test_a_submission_is_of_one_kind(bench: GateBench, kind: str) -> None:
    """Training that is asked for as statistics, and the other way round: each has its own rules."""
    bench.serve_policy(ALLOWED)
    signed = bench.consortium.sign(SURVEY, b"") if kind == Kind.ADMIT else bench.consortium.sign(RUN)
    assert refused(bench.ask(kind, bench.question(signed))) == "run.document"


def test_a_release_of_a_run_under_another_id_is_refused(bench: GateBench) -> None:
    bench.work()
    bench.admit()
    home, shown = bench.consortium.homes["operator"], bench.consortium.manifest
    manifest = {MANIFEST: shown.document.text, MANIFEST_SIGNATURE: shown.signature}
    for run in ("run-2", "run-1"):
        asked = request_release(
            run, bench.signed.digest, weights_digest(INITIAL), home.private_key(), home.certificate.read_bytes()
        )
        answer = bench.ask(Kind.RELEASE, Envelope({**asked.fields(), **manifest}))
        assert answer.config.get("rule") == ("release.request" if run == "run-2" else None)


# -- until when


def leave(consortium: Consortium, how: str) -> dict[str, str]:
    """End an operator's membership, or revoke its certificate; returns the manifest as it comes beside a message."""
    if how == "left":
        newest = consortium.authority.revoke("operator", "left")
    else:
        certificate = load_certificate(consortium.homes["operator"].certificate.read_bytes())
        newest = consortium.authority.revoke_certificate(serial_of(certificate), "the key was copied")
    return {MANIFEST: newest.document.text, MANIFEST_SIGNATURE: newest.signature}


@pytest.mark.parametrize("how", ["left", "revoked"])
def test_the_run_of_an_operator_who_was_revoked_ends_at_the_next_message(gate: GateBench, how: str) -> None:
    worker = gate.work()
    gate.admit()
    assert gate.round(1).config["status"] == "ok"
    news = leave(gate.consortium, how)
    asked = len(worker.frames)
    assert refused(gate.round(2, **news)) == "run.signature"
    assert gate.last["run"] == "run-1"
    for _ in range(2):
        assert refused(gate.round(2)) == "run.signature"
    assert len(worker.frames) == asked
    assert refused(gate.ask(Kind.ADMIT, Envelope({**gate.question(gate.signed).config, **news}))) == "run.signature"


def test_what_a_revoked_operator_signed_before_begins_no_run(gate: GateBench) -> None:
    signed = gate.consortium.sign()
    news = leave(gate.consortium, "revoked")
    gate.work()
    answer = gate.ask(Kind.ADMIT, Envelope({**gate.question(signed).config, **news}))
    assert refused(answer) == "run.signature"
    assert gate.history.of(signed.digest) is None


# -- noise that silos share


def test_a_silo_that_leaves_does_not_leave_the_others_with_less_noise_than_was_counted(
    tmp_path: Path, short_path: Path
) -> None:
    """Each adds its share of what the four of them need; a sum of three would have too little, and is not opened."""
    four = found_consortium(tmp_path / "four", OTHERS)
    bench = GateBench(four, short_path)
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    text = RUN + (
        "secure_aggregation: {threshold: 3, largest_change: 64}\n"
        "privacy: {mode: silo_dp, clip_norm: 0.5, delta: 1.0e-5, noise_multiplier: 4}\n"
    )
    start(bench)
    bench.work()
    assert bench.admit(four.sign(text)).config["status"] == "admitted"
    whole = share_of(4.0, 4, adaptive=False)
    assert shared(bench) == (whole, 4)
    assert bench.round(1).config["status"] == "ok"
    four.editions.append(four.authority.revoke("hospital-d", "left"))
    assert bench.admit(bench.signed).config["status"] == "admitted"
    assert shared(bench) == (whole, 4)
    attempt = Sum(bench, ALL[:3], run=text)
    assert attempt.keys().config["status"] == "ok"
    assert refused(attempt.shares()) == "secure.cohort"
    bench.ledger.close()
    bench.close()


def shared(bench: GateBench) -> tuple[object, int]:
    """The share of noise that the gate adds, and the fewest silos of which it opens a sum."""
    session = bench.handler._session
    assert session is not None
    assert session.plan is not None
    return session.plan.share, together_of(session.run, session.sharing_noise)
