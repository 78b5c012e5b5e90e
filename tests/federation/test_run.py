from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import IdentityError, UsageError, WireError
from federation.identity import Role, load_certificate, load_private_key, new_key, peer_of, spiffe_id
from federation.limits import LIMITS
from federation.membership import identify
from federation.operator import build_app
from federation.run import (
    METRICS,
    ClassWeights,
    SignedRun,
    app_digest,
    load_run,
    parse_signed_run,
    sign_run,
    verify_signed_run,
)
from policies.errors import DocumentError

APP = b"the app's bundle"
FIELDS = ("run", "submission", "signature", "operator")
SILOS = ("silo-a", "silo-b")


# -- the document


@pytest.mark.parametrize(
    ("given", "weights"),
    [("balanced", "balanced"), ("{negative: 1, positive: 2.5}", ClassWeights(negative=1, positive=2.5))],
)
def test_classes_may_be_weighed(run_text: str, given: str, weights: object):
    assert load_run(f"{run_text}class_weights: {given}\n").model.class_weights == weights
    assert load_run(run_text).model.class_weights is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("class_weights: even", 'got "even", expected balanced'),
        ("class_weights: {negative: 0, positive: 1}", "expected more than 0"),
        ("class_weights: {negative: 1, positive: 1e9}", "expected at most 1000000"),
        ("class_weights: {positive: 1}", "negative"),
        ("precision: mixed_float16", "expected one of: float32, mixed_bfloat16"),
    ],
)
def test_weights_and_precision_that_cannot_be_are_refused(run_text: str, lines: str, words: str):
    with pytest.raises(DocumentError, match=re.escape(words)):
        load_run(f"{run_text}{lines}\n")


def test_weights_by_counts_of_rows_are_not_for_privacy_of_rows(run_text: str):
    """One row more of a class changes the weight, and so the gradient, of every other: no bound on one row holds."""
    privacy = "privacy: {mode: %s, clip_norm: 1, delta: 1e-5, epsilon: 1}\n"
    balanced = f"{run_text}class_weights: balanced\n"
    with pytest.raises(DocumentError, match="expected no balanced class weights with example_dp; give negative"):
        load_run(balanced + privacy % "example_dp")
    assert load_run(balanced + privacy % "silo_dp").model.class_weights == "balanced"
    given = f"{run_text}class_weights: {{negative: 1, positive: 9}}\nprecision: mixed_bfloat16\n"
    assert load_run(given + privacy % "example_dp").model.precision == "mixed_bfloat16"


def test_a_run_says_what_is_trained_on_what_and_why(run_text: str):
    run = load_run(run_text).model
    assert (run.purpose, run.dataset, run.columns) == ("HMB", "wisconsin", ("radius", "texture", "malignant"))
    assert (run.strategy.name, run.strategy.mu, run.strategy.rounds) == ("fedprox", 0.1, 3)
    assert (run.silos, run.metrics, run.strategy.quorum, run.seed) == ("all", METRICS, "all", 0)
    assert load_run(run_text.encode()).digest == load_run(run_text).digest


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("purpose: HMB", "purpos: HMB", "5:1", "purpose"),
        ("purpose: HMB", "purpose: 5", "5:10", ""),
        ("  rounds: 3", "  rounds: 0", "13:11", "1"),
        ("  rounds: 3", "  rounds: three", "13:11", ""),
        ("  rounds: 3", "  rounds: 3\n  quorum: most", "14:11", "all"),
        ("  rounds: 3", "  rounds: 3\n  local: {epochs: 0}", "14:19", "1"),
        ("  mu: 0.1", "  mu: -0.1", "12:7", "0"),
        ("  mu: 0.1", "  mu: .nan", "12:7", ""),
        ("  name: fedprox", "  name: fedavg", "12:7", "expected no mu with fedavg; use fedprox"),
        ("  name: fedprox", "  name: fedprix", "11:9", "fedprox"),
        ("features: [radius, texture]", "features: []", "7:1", "1"),
        ("model:build_model", "os.system('x')", "9:25", ""),
        ("  name: tumour-classifier", "  name: Tumour", "4:9", ""),
        ("kind: Run", "kind: SiloPolicy", "2:7", "Run"),
    ],
)
def test_an_error_has_file_line_and_column(run_text: str, old: str, new: str, place: str, words: str):
    assert run_text.count(old) == 1
    with pytest.raises(DocumentError) as caught:
        load_run(run_text.replace(old, new), source="some/run.yaml")
    assert f"some/run.yaml:{place}" in {problem.location for problem in caught.value.problems}
    assert any(words in problem.message for problem in caught.value.problems)


def test_fedavg_without_mu_is_a_run(run_text: str):
    text = run_text.replace("  name: fedprox\n  mu: 0.1", "  name: fedavg")
    assert load_run(text).model.strategy.mu == 0.0


def test_secure_aggregation_has_a_threshold_and_a_bound(run_text: str):
    wanted = load_run(run_text + "secure_aggregation: {threshold: 3}\n").model.secure_aggregation
    assert wanted is not None
    assert (wanted.threshold, wanted.largest_change) == (3, 8.0)
    assert load_run(run_text).model.secure_aggregation is None


@pytest.mark.parametrize("strategy", ["scaffold", "qfedavg", "trimmed_mean", "median", "krum"])
def test_strategies_that_look_at_single_updates_are_refused_with_secure_aggregation(run_text: str, strategy: str):
    text = run_text.replace("  name: fedprox", f"  name: {strategy}") + "secure_aggregation: {threshold: 3}\n"
    with pytest.raises(DocumentError) as caught:
        load_run(text)
    assert f"no {strategy} with secure_aggregation" in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("updates: {encoding: int8}", "no updates with scaffold"),
        ("privacy: {mode: silo_dp, clip_norm: 1.0, delta: 1.0e-5, epsilon: 4}", "no scaffold with silo_dp"),
    ],
)
def test_what_scaffold_does_not_go_with_is_a_mistake_in_the_run(run_text: str, extra: str, words: str):
    text = run_text.replace("  name: fedprox", "  name: scaffold")
    load_run(text)
    load_run(text + "privacy: {mode: example_dp, clip_norm: 1.0, delta: 1.0e-5, epsilon: 4}\n")
    with pytest.raises(DocumentError) as caught:
        load_run(text + extra + "\n")
    assert words in str(caught.value)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_server_optimizers_go_with_secure_aggregation(run_text: str, strategy: str):
    load_run(run_text.replace("  name: fedprox", f"  name: {strategy}") + "secure_aggregation: {threshold: 3}\n")


@pytest.mark.parametrize(
    ("rounds", "extra", "words"),
    [
        ("3", "secure_aggregation: {}", "threshold"),
        ("3", "secure_aggregation: {threshold: 1}", "2"),
        ("3", "secure_aggregation: {threshold: 2, largest_change: 0}", ":14:52"),
        ("3", "secure_aggregation: {threshold: 2, largest_change: .nan}", ":14:52"),
        ("3\n  quorum: 2", "secure_aggregation: {threshold: 3}", "at most the quorum, 2"),
        ("3", "silos: [a, b, c, d]\nsecure_aggregation: {threshold: 2}", "more than half of the 4 silos"),
        ("3", "silos: [a, b]\nsecure_aggregation: {threshold: 3}", "more than half of the 2 silos"),
    ],
)
def test_a_threshold_that_cannot_hold_is_a_mistake_in_the_run(run_text: str, rounds: str, extra: str, words: str):
    with pytest.raises(DocumentError) as caught:
        load_run(run_text.replace("  rounds: 3", f"  rounds: {rounds}") + extra + "\n")
    assert words in str(caught.value)


def test_a_directory_that_is_no_flower_app_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no pyproject\.toml"):
        build_app(tmp_path)


def test_flowers_own_words_are_shown_where_it_refuses_an_app(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(UsageError, match="flwr build refused"):
        build_app(tmp_path)


# -- signing


@pytest.fixture
def certificate(federation: Any) -> bytes:
    return federation.homes["ops"].certificate.read_bytes()


@pytest.fixture
def signed(federation: Any, run_text: str, certificate: bytes) -> SignedRun:
    return sign_run(run_text, APP, federation.homes["ops"].private_key(), certificate, SILOS)


def test_a_signed_run_names_its_operator_and_its_app(federation: Any, signed: SignedRun, run_text: str):
    operator = verify_signed_run(signed, federation.authority.manifest())
    assert operator.uri == "spiffe://cardio.example/operator/ops"
    assert signed.app_digest == app_digest(APP) == "sha256:" + hashlib.sha256(APP).hexdigest()
    bound = run_text.encode() + b"\0" + signed.app_digest.encode()
    assert signed.content_digest == "sha256:" + hashlib.sha256(bound).hexdigest()
    assert (signed.submission.operator, signed.submission.silos) == ("ops", SILOS)
    assert signed.document().model.metadata.name == "tumour-classifier"


def test_every_part_of_a_signed_run_is_bound(federation: Any, signed: SignedRun):
    silo, other = federation.homes["silo-a"], federation.homes["ops-b"]
    forged_by_silo = sign_run(signed.text, APP, silo.private_key(), silo.certificate.read_bytes(), SILOS)
    wrong = {
        "does not verify for this run": [
            replace(signed, text=signed.text.replace("rounds: 3", "rounds: 4")),
            replace(signed, text=signed.text + "\n"),
        ],
        "does not verify": [
            replace(signed, submission=signed.submission.model_copy(update=change))
            for change in (
                {"app": app_digest(b"another app")},
                {"run": app_digest(b"another run")},
                {"federation": "other.example"},
                {"operator": "ops-b"},
                {"silos": ("silo-a",)},
                {"nonce": "0" * 32},
                {"signed": signed.submission.signed + timedelta(seconds=1)},
                {"not_after": signed.submission.not_after + timedelta(days=1)},
            )
        ]
        + [
            replace(signed, signature=signed.signature[:-1] + bytes([signed.signature[-1] ^ 1])),
            replace(signed, signature=b""),
            replace(signed, operator_certificate=other.certificate.read_bytes()),
        ],
        "signed by a silo, expected an operator": [forged_by_silo],
        "not a PEM certificate": [replace(signed, operator_certificate=b"")],
    }
    for reason, runs in wrong.items():
        for run in runs:
            with pytest.raises(IdentityError, match=reason):
                verify_signed_run(run, federation.authority.manifest())


def test_an_operator_of_another_authority_is_refused(found: Callable[..., Any], federation: Any, run_text: str):
    other = found()
    home = other.member("ops", Role.OPERATOR)
    run = sign_run(run_text, APP, home.private_key(), home.certificate.read_bytes(), SILOS)
    assert verify_signed_run(run, other.authority.manifest()).name == "ops"
    with pytest.raises(IdentityError, match="was not issued by this federation's authority"):
        verify_signed_run(run, federation.authority.manifest())


def test_an_expired_operator_is_refused(found: Callable[..., Any], run_text: str):
    other = found()
    home, request = other.request("ops", Role.OPERATOR)
    certificate = other.bundle(request, timedelta())["certificate"].encode()
    run = sign_run(run_text, APP, load_private_key(home.key), certificate, SILOS)
    with pytest.raises(IdentityError, match="not now"):
        verify_signed_run(run, other.authority.manifest())


def test_a_member_is_no_authority(federation: Any, run_text: str):
    """A silo that signs itself an operator's certificate with its own key."""
    silo = federation.homes["silo-a"]
    issuer, key = load_certificate(silo.certificate.read_bytes()), new_key()
    uri = spiffe_id(federation.name, Role.OPERATOR, "ops")
    now = datetime.now(UTC)
    for issuer_name in (issuer.subject, federation.ca.subject, federation.authority.manifest().issuer.subject):
        forged = (
            x509.CertificateBuilder()
            .subject_name(issuer.subject)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .sign(silo.private_key(), hashes.SHA256())
        )
        assert peer_of(forged).role == "operator"
        run = sign_run(run_text, APP, key, forged.public_bytes(serialization.Encoding.PEM), SILOS)
        with pytest.raises(IdentityError, match="not issued"):
            verify_signed_run(run, federation.authority.manifest())


def test_a_certificate_counts_from_its_first_to_its_last_second(federation: Any):
    manifest = federation.authority.manifest()
    certificate = load_certificate(federation.homes["ops"].certificate.read_bytes())
    first, last, second = certificate.not_valid_before_utc, certificate.not_valid_after_utc, timedelta(seconds=1)
    for now in (first, last):
        assert identify(manifest, certificate, now).name == "ops"
    for now in (first - second, last + second):
        with pytest.raises(IdentityError, match="not now"):
            identify(manifest, certificate, now)


# -- on the wire


def test_a_signed_run_travels_unchanged(signed: SignedRun):
    assert parse_signed_run(signed.fields()) == signed


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [None, 5, [], ["a"], {}, True, "\ud800"], ids=repr)
def test_a_field_that_is_no_text_is_refused(signed: SignedRun, name: str, value: object):
    with pytest.raises(WireError):
        parse_signed_run(signed.fields() | {name: value})


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_refused(signed: SignedRun, name: str):
    fields = signed.fields()
    del fields[name]
    with pytest.raises(WireError, match=name):
        parse_signed_run(fields)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("run", LIMITS.document), ("operator", LIMITS.certificate), ("signature", 1024)],
)
def test_a_field_that_is_too_large_is_refused(signed: SignedRun, name: str, limit: int):
    assert parse_signed_run(signed.fields() | {name: "A" * limit}) != signed
    with pytest.raises(WireError, match="larger"):
        parse_signed_run(signed.fields() | {name: "A" * (limit + 1)})
    assert len("\u00e9" * limit) == limit
    with pytest.raises(WireError, match="larger"):
        parse_signed_run(signed.fields() | {name: "\u00e9" * limit})


@pytest.mark.parametrize("value", ["=", "A", "AAA", "AA==AA", "\u00e9\u00e9\u00e9\u00e9", "AAAA\n"])
def test_a_signature_that_is_no_base64_is_refused(signed: SignedRun, value: str):
    with pytest.raises(WireError):
        parse_signed_run(signed.fields() | {"signature": value})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()), lambda inner: st.lists(inner, max_size=3)
)


@given(fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), ANYTHING), text=st.text(max_size=50))
def test_what_is_signed_by_nobody_is_refused_in_a_sentence(federation: Any, fields: dict[str, Any], text: str):
    usable = {"run": text, "submission": "{}", "signature": base64.b64encode(text.encode()).decode()}
    for offered in (fields, {**usable, "operator": text}, {**usable, **fields, "operator": text}):
        with pytest.raises((WireError, IdentityError)):
            verify_signed_run(parse_signed_run(offered), federation.authority.manifest())


def test_the_signature_is_plain_ecdsa_that_others_can_check(federation: Any, signed: SignedRun, tmp_path: Path):
    import subprocess

    key = peer_of(load_certificate(signed.operator_certificate)).public_key
    for name, content in (
        ("key.pem", key),
        ("signature", signed.signature),
        ("content", b"submission of a run\0" + signed.fields()["submission"].encode()),
    ):
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "content"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Verified OK")
