from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.note import parse_vkey
from federation.enrolment import EnrolmentBundle, join, parse_request, request_enrolment
from federation.errors import ConcordatError, IdentityError, ManifestError, UsageError
from federation.home import Home
from federation.identity import Role, load_certificate, load_private_key, new_key, signing_request
from federation.manifest import load_manifest, sign_manifest
from federation.member_logs import log_origin
from federation.signing import parse_signing_request
from policies.errors import PolicyError

Contents = Callable[[Path], dict[str, tuple[int, bytes]]]
Founds = Callable[..., Any]


def encode(bundle: dict[str, str]) -> bytes:
    return json.dumps(bundle).encode()


# -- the request


def test_a_request_holds_what_the_operator_needs_and_no_secret(tmp_path: Path, contents: Contents):
    home = Home(tmp_path / "home")
    request = request_enrolment(home, "cardio.example", "silo-a", Role.SILO, "DE")
    files = contents(home.path)
    assert {name: mode for name, (mode, _) in files.items() if "key" in name} == {
        "key.pem": 0o600,
        "log-key.pem": 0o600,
    }
    sent = files["request.json"][1]
    assert parse_request(sent) == request
    assert b"PRIVATE" not in sent
    assert parse_vkey(request.log).name == log_origin("cardio.example", Role.SILO, "silo-a")
    for secret in ("key.pem", "log-key.pem"):
        lines = files[secret][1].splitlines()[1:-1]
        assert not any(line in sent for line in lines)


def test_a_second_request_does_not_replace_the_keys(tmp_path: Path, contents: Contents):
    home = Home(tmp_path / "home")
    request_enrolment(home, "cardio.example", "silo-a", Role.SILO, "DE")
    before = contents(home.path)
    with pytest.raises(UsageError, match="already has a key"):
        request_enrolment(home, "cardio.example", "silo-a", Role.SILO, "DE")
    assert contents(home.path) == before


@pytest.mark.parametrize(
    ("federation", "name", "country"),
    [
        ("cardio.example", "Silo A", "DE"),
        ("cardio.example", "a" * 64, "DE"),
        ("cardio.example", "silo-a", "Germany"),
        ("cardio.example", "silo-a", "XX"),
        ("cardio.example", "silo-a", "de"),
        ("Cardio Example", "silo-a", "DE"),
        ("cardio/example", "silo-a", "DE"),
        ("", "silo-a", "DE"),
    ],
)
def test_a_request_that_cannot_be_meant_makes_no_keys(
    tmp_path: Path, contents: Contents, federation: str, name: str, country: str
):
    home = Home(tmp_path / "home")
    with pytest.raises((UsageError, IdentityError)):
        request_enrolment(home, federation, name, Role.SILO, country)
    assert contents(tmp_path) == {}
    request_enrolment(home, "cardio.example", "silo-a", Role.SILO, "DE")


@pytest.mark.parametrize(
    "change",
    [
        {"role": "king"},
        {"country": "Germany"},
        {"surprise": 1},
        {"format": "concordat/enrolment-request/v2"},
        {"name": 5},
        {"csr": "x" * 70_000},
        {"log": "x" * 513},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_request_with_a_wrong_field_is_refused_by_its_name(tmp_path: Path, change: dict[str, object]):
    home = Home(tmp_path / "home")
    request_enrolment(home, "cardio.example", "silo-a", Role.SILO, "DE")
    content = json.loads(home.request.read_bytes()) | change
    with pytest.raises(IdentityError, match=next(iter(change))):
        parse_request(json.dumps(content).encode())


def test_every_changed_byte_of_a_signing_request_is_noticed():
    """But where the number of unused bits after the signature is one and not none, which changes nothing it says."""
    request = signing_request(new_key(), "silo-a").decode()
    parsed = parse_signing_request(request, "silo-a")
    assert parsed.is_signature_valid
    count = len(base64.b64decode("".join(request.splitlines()[1:-1]))) - len(parsed.signature) - 1
    head, *lines, foot = request.splitlines()
    der = base64.b64decode("".join(lines))
    for position in range(len(der)):
        changed = der[:position] + bytes([der[position] ^ 1]) + der[position + 1 :]
        if position == count and not parsed.signature[-1] & 1:
            continue
        with pytest.raises(IdentityError):
            parse_signing_request(f"{head}\n{base64.b64encode(changed).decode()}\n{foot}\n", "silo-a")


JSON = st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.binary(max_size=60) | JSON)
def test_what_is_no_request_is_refused(content: object):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(IdentityError):
        parse_request(raw)


# -- joining


def test_a_member_joins_with_the_bundle_for_its_key(found: Founds):
    founded = found()
    home, request = founded.request("silo-a")
    signed = join(home, encode(founded.bundle(request)))
    assert signed.federation.member("silo-a").log == request.log
    assert home.identity().uri == "spiffe://cardio.example/silo/silo-a"
    assert home.private_key().public_key() == load_private_key(home.key).public_key()
    assert load_manifest(home).version == 2


def test_a_renewed_certificate_takes_the_place_of_the_old(found: Founds):
    founded = found()
    home, request = founded.request("silo-a")
    bundle = founded.bundle(request)
    join(home, encode(bundle))
    other, other_request = founded.request("silo-b")
    newer = founded.bundle(other_request)
    join(other, encode(newer))
    join(home, encode(newer | {"certificate": bundle["certificate"]}))
    assert load_manifest(home).version == 3


Refused = Callable[[Any, Home, Any], dict[str, str]]


def wrong_key(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """The bundle issued for another member's key."""
    founded.bundle(request)
    return dict(founded.bundle(founded.request("silo-b")[1]))


def foreign_certificate(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """A certificate for the right key, issued by the authority of another federation of the same name."""
    impostor = type(founded)(founded.directory / "impostor", founded.name)
    return founded.bundle(request) | {"certificate": impostor.bundle(request)["certificate"]}


def foreign_authority(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """The right certificate and manifest, under another authority."""
    impostor = type(founded)(founded.directory / "impostor", founded.name)
    return founded.bundle(request) | {"authority": impostor.bundle(request)["authority"]}


def tampered_manifest(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """A manifest that places the member in another country."""
    bundle = dict(founded.bundle(request))
    assert "country: DE" in bundle["manifest"]
    return bundle | {"manifest": bundle["manifest"].replace("country: DE", "country: FR")}


def other_federations_manifest(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """A manifest signed by the right authority for a federation of another name."""
    bundle = dict(founded.bundle(request))
    text = bundle["manifest"].replace(founded.name, "other.example")
    issuer = load_certificate(founded.authority.issuer.read_bytes())
    signature = sign_manifest(text, load_private_key(founded.authority.key), issuer)
    return bundle | {"manifest": text, "manifest_signature": signature}


def not_in_the_manifest(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """The manifest from before the member was entered."""
    before = founded.authority.manifest()
    bundle = founded.bundle(request)
    return bundle | {"manifest": before.document.text, "manifest_signature": before.signature}


def expired(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """A certificate that was valid for no time at all."""
    return dict(founded.bundle(request, timedelta()))


def not_ascii(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """A signature that is no base64."""
    return founded.bundle(request) | {"manifest_signature": "\u00e9"}


def no_certificate(founded: Any, home: Home, request: Any) -> dict[str, str]:
    """The request in the place of the certificate."""
    return founded.bundle(request) | {"certificate": request.csr}


@pytest.mark.parametrize(
    ("make", "error", "reason"),
    [
        (wrong_key, IdentityError, "the certificate is for key"),
        (foreign_certificate, IdentityError, "not issued by this federation's authority"),
        (foreign_authority, ManifestError, "authority was not certified by this federation's root"),
        (tampered_manifest, ManifestError, "not signed by this federation's authority"),
        (other_federations_manifest, IdentityError, "of federation cardio.example, expected other.example"),
        (not_in_the_manifest, IdentityError, "silo-a is not a member"),
        (expired, IdentityError, "not now"),
        (not_ascii, ManifestError, "not signed by this federation's authority"),
        (no_certificate, IdentityError, "not a PEM certificate"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bundle_that_does_not_fit_leaves_the_home_unchanged(
    found: Founds, contents: Contents, make: Refused, error: type[ConcordatError], reason: str
):
    founded = found()
    home, request = founded.request("silo-a")
    bundle = make(founded, home, request)
    before = contents(home.path)
    with pytest.raises(error, match=reason):
        join(home, encode(bundle))
    assert contents(home.path) == before


def test_a_home_of_one_federation_does_not_join_another(found: Founds, contents: Contents):
    first, second = found(), found("onco.example", "g")
    home, request = first.request("silo-a")
    join(home, encode(first.bundle(request)))
    before = contents(home.path)
    there = request.model_copy(update={"log": second.request("silo-a")[1].log})
    with pytest.raises(IdentityError, match="belongs to another federation"):
        join(home, encode(second.bundle(there)))
    assert contents(home.path) == before


def test_an_older_bundle_does_not_bring_back_an_older_manifest(found: Founds, contents: Contents):
    founded = found()
    home, request = founded.request("silo-a")
    older = founded.bundle(request)
    newer = founded.bundle(founded.request("silo-b")[1]) | {"certificate": older["certificate"]}
    join(home, encode(newer))
    before = contents(home.path)
    with pytest.raises(ManifestError, match="expected at least 3"):
        join(home, encode(older))
    assert contents(home.path) == before


def test_a_home_without_a_key_joins_nothing(found: Founds, tmp_path: Path):
    founded = found()
    bundle = founded.bundle(founded.request("silo-a")[1])
    empty = Home(tmp_path / "empty")
    empty.create()
    with pytest.raises(IdentityError, match="is missing"):
        join(empty, encode(bundle))
    assert list(empty.path.iterdir()) == []


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, federation: Any) -> tuple[Home, dict[str, str]]:
    """A home that asked, and the bundle for it."""
    founded = type(federation)(tmp_path_factory.mktemp("asked"))
    home, request = founded.request("silo-a")
    return home, founded.bundle(request)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bundle_with_any_field_replaced_is_refused_in_a_sentence(
    asked: tuple[Home, dict[str, str]], contents: Contents, data: st.DataObject
):
    home, bundle = asked
    field = data.draw(st.sampled_from(sorted(EnrolmentBundle.model_fields)))
    original = bundle[field]
    start = data.draw(st.integers(0, len(original) - 1))
    length = data.draw(st.integers(0, 40))
    inserted = data.draw(st.text(max_size=10))
    changed = original[:start] + inserted + original[start + length :]
    before = contents(home.path)
    try:
        join(home, encode(bundle | {field: changed}))
    except (ConcordatError, PolicyError):
        assert contents(home.path) == before
    else:  # what stands outside a PEM block says nothing, nor do the last bits of a base64 text
        assert field in {"certificate", "authority"} or base64.b64decode(changed) == base64.b64decode(original)
        for path in home.path.iterdir():
            if path.name not in before:
                path.unlink()
