"""What an invitation makes at a home, before anyone is asked; the answer is taken from the authority itself."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from coordinator.authority.invitations import EnrolmentRefusedError
from federation.enrolment import Invitation, join, parse_request
from federation.errors import IdentityError, UnreachableError, UsageError
from federation.home import Home
from federation.identity import Role, load_certificate
from federation.joining import enrol, prepare
from federation.manifest import load_manifest

Founds = Callable[..., Any]
Contents = Callable[[Path], dict[str, tuple[int, bytes]]]


def invite(founded: Any, name: str = "silo-a", place: str = "127.0.0.1:1", **options: Any) -> Invitation:
    invitation: Invitation = founded.authority.invite(name, Role.SILO, "DE", place, **options)
    return invitation


def answer(founded: Any, request: Any) -> bytes:
    """What the coordinator answers to a request with a token."""
    certificate, _ = founded.authority.redeem(request, lambda: None)
    return json.dumps(founded.authority.bundle(certificate)).encode()


def keys(home: Home) -> tuple[bytes, bytes]:
    return home.key.read_bytes(), home.log_key.read_bytes()


def test_an_invitation_makes_keys_a_request_and_the_root(found: Founds, tmp_path: Path, contents: Contents):
    founded, home = found(), Home(tmp_path / "home")
    invitation = invite(founded)
    request = prepare(home, invitation)
    files = contents(home.path)
    assert sorted(files) == ["ca.pem", "key.pem", "log-key.pem", "request.json"]
    assert files["request.json"][0] == 0o600, "it holds the token"
    assert parse_request(files["request.json"][1]) == request
    assert (request.name, request.token) == ("silo-a", invitation.token)
    assert files["ca.pem"][1] == founded.authority.certificate.read_bytes()
    assert join(home, answer(founded, request)).version == 2
    assert home.identity().uri == "spiffe://cardio.example/silo/silo-a"


def test_an_answer_below_another_root_than_the_invitations_is_refused(
    found: Founds, tmp_path: Path, contents: Contents
):
    """Whoever answers in the coordinator's place cannot make the home a member of a federation of its own."""
    founded, impostor = found(), found(folder="g")
    home = Home(tmp_path / "home")
    request = prepare(home, invite(founded))
    forged = answer(impostor, request.model_copy(update={"token": invite(impostor).token}))
    before = contents(home.path)
    with pytest.raises(IdentityError, match="belongs to another federation"):
        join(home, forged)
    assert contents(home.path) == before


def test_a_home_of_one_federation_is_not_invited_to_another(found: Founds, tmp_path: Path, contents: Contents):
    first, second, home = found(), found("onco.example", "g"), Home(tmp_path / "home")
    prepare(home, invite(first))
    before = contents(home.path)
    with pytest.raises(IdentityError, match="belongs to another federation"):
        prepare(home, invite(second))
    assert contents(home.path) == before


def test_no_second_root_comes_in_behind_the_first(found: Founds, tmp_path: Path):
    """TLS would trust each certificate in the file, whoever put it there."""
    founded, other = found(), found("onco.example", "g")
    both = founded.authority.certificate.read_text() + other.authority.certificate.read_text()
    home = Home(tmp_path / "home")
    request = prepare(home, invite(founded).model_copy(update={"authority": both}))
    for moment in ("invited", "joined"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(home.authority)
        assert context.get_ca_certs(binary_form=True) == [founded.ca.public_bytes(serialization.Encoding.DER)], moment
        if moment == "invited":
            bundle = json.loads(answer(founded, request))
            join(home, json.dumps(bundle | {"authority": both}).encode())


# -- attempts that were cut short


def test_the_same_invitation_takes_up_the_keys_that_are_there(found: Founds, tmp_path: Path):
    founded, home = found(), Home(tmp_path / "home")
    invitation = invite(founded)
    first, made = prepare(home, invitation), keys(home)
    home.authority.unlink()  # as where the power failed before it was written
    assert (prepare(home, invitation), keys(home)) == (first, made)
    assert home.authority.exists()


def test_after_a_lost_answer_a_new_invitation_leads_the_same_home_in(found: Founds, tmp_path: Path):
    """The token is spent and the log's key is in the manifest; other keys would be refused for good."""
    founded, home = found(), Home(tmp_path / "home")
    invitation = invite(founded)
    first = prepare(home, invitation)
    answer(founded, first)
    with pytest.raises(EnrolmentRefusedError, match="was used on"):
        answer(founded, prepare(home, invitation))
    made = keys(home)
    request = prepare(home, invite(founded))
    assert (request.log, request.csr, keys(home)) == (first.log, first.csr, made)
    assert request.token != first.token
    assert parse_request(home.request.read_bytes()) == request
    assert home.request.stat().st_mode & 0o777 == 0o600
    join(home, answer(founded, request))
    assert load_manifest(home).federation.member("silo-a").log == first.log


def test_a_member_that_lost_its_key_is_led_in_again_even_at_the_second_attempt(found: Founds, tmp_path: Path):
    founded, home = found(), Home(tmp_path / "home")
    join(home, answer(founded, prepare(home, invite(founded))))
    before = home.identity()
    home.key.unlink()
    invitation = invite(founded)
    first = prepare(home, invitation)
    assert prepare(home, invitation) == first
    join(home, answer(founded, first))
    assert home.identity().uri == before.uri
    assert home.identity().public_key != before.public_key
    home.private_key()


def test_a_home_with_a_certificate_or_of_another_member_is_not_taken_up(
    found: Founds, tmp_path: Path, contents: Contents
):
    founded, home = found(), Home(tmp_path / "home")
    request = prepare(home, invite(founded))
    other = Home(tmp_path / "other")
    shutil.copytree(home.path, other.path)
    join(home, answer(founded, request))
    for taken, invitation in ((home, invite(founded)), (other, invite(founded, "silo-b"))):
        before = contents(taken.path)
        with pytest.raises(UsageError, match="already has a key"):
            prepare(taken, invitation)
        assert contents(taken.path) == before


def test_a_request_that_is_not_for_the_key_beside_it_is_not_taken_up(found: Founds, tmp_path: Path):
    founded, home = found(), Home(tmp_path / "home")
    invitation = invite(founded)
    prepare(home, invitation)
    shutil.copy(founded.request("silo-b")[0].key, home.key)
    with pytest.raises(UsageError, match="already has a key"):
        prepare(home, invitation)


def test_an_invitation_that_expired_makes_nothing(found: Founds, tmp_path: Path):
    home = Home(tmp_path / "home")
    with pytest.raises(UsageError, match=r"expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC; ask the operator for a new one"):
        prepare(home, invite(found(), lifetime=timedelta(seconds=-1)))
    assert not home.path.exists()


def test_a_coordinator_that_does_not_answer_spends_no_token(found: Founds, tmp_path: Path, closed_port: int):
    founded, home = found(), Home(tmp_path / "home")
    invitation = invite(founded, place=f"127.0.0.1:{closed_port}")
    with pytest.raises(UnreachableError, match=r"the keys made here are kept and the token is not spent$"):
        enrol(home, invitation)
    assert load_certificate(home.authority.read_bytes()) == founded.ca
    join(home, answer(founded, prepare(home, invitation)))
