"""A member that was invited and asks the authority for more than is its own."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from audit import keys as log_keys
from audit.note import VerifierKey
from coordinator.authority.invitations import EnrolmentRefusedError
from federation.enrolment import log_origin
from federation.errors import IdentityError
from federation.identity import Role
from federation.manifest import accept_manifest
from federation.membership import coordinator_context

from .conftest import NAME, Founded

HONEST, HUB = log_origin(NAME, Role.SILO, "silo-a"), log_origin(NAME, Role.COORDINATOR, "hub")
OWN = log_origin(NAME, Role.SILO, "silo-b")


def keyed(origin: str) -> Callable[[bytes, str], str]:
    """The request's own key, under the name of another log."""
    return lambda public, _: str(VerifierKey(origin, public))


LOGS: dict[str, Callable[[bytes, str], str]] = {
    "none": lambda *_: "",
    "junk": lambda *_: "junk",
    "a line more": lambda public, _: str(VerifierKey(OWN, public)) + "\n",
    "another kind of key": lambda public, _: f"{OWN}+00000000+{base64.b64encode(bytes([9]) + public).decode()}",
    "another silo's log": keyed(HONEST),
    "the coordinator's log": keyed(HUB),
    "its own in another role": keyed(log_origin(NAME, Role.OPERATOR, "silo-b")),
    "its own in another federation": keyed(log_origin("other.example", Role.SILO, "silo-b")),
    "another silo's key": lambda _, honest: str(VerifierKey(OWN, base64.b64decode(honest.split("+", 2)[2])[1:])),
    "a key with which anyone signs": lambda *_: str(VerifierKey(OWN, (1).to_bytes(32, "little"))),
}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("online", [True, False], ids=["on line", "by courier"])
def test_a_member_brings_the_key_of_its_own_log(
    found: Callable[..., Founded], log: Callable[[bytes, str], str], *, online: bool
) -> None:
    """Every gate reads every log's key: one that is none ended each, and another's name took that one's place."""
    founded = found()
    founded.member("hub", Role.COORDINATOR, "127.0.0.1:9443")
    founded.member("silo-a")
    honest = founded.authority.manifest().federation.member("silo-a").log or ""
    invitation = founded.authority.invite("silo-b", Role.SILO, "DE", "127.0.0.1:9444")
    home, request = founded.request("silo-b")
    own = log_keys.load_key(home.log_key).public_key().public_bytes_raw()
    before = founded.authority.manifest().version
    bad = request.model_copy(update={"log": log(own, honest), "token": invitation.token if online else None})
    with pytest.raises((EnrolmentRefusedError, IdentityError), match="of silo-b brings"):
        founded.authority.redeem(bad, lambda: None) if online else founded.authority.enrol(bad)
    assert founded.authority.manifest().version == before
    founded.authority.redeem(request.model_copy(update={"token": invitation.token}), lambda: None)
    assert founded.authority.manifest().federation.member("silo-b").log == request.log


@pytest.mark.parametrize("online", [True, False], ids=["on line", "by courier"])
def test_a_request_makes_no_second_coordinator(found: Callable[..., Founded], *, online: bool) -> None:
    """The role is in the request, and no member connects to any coordinator once its manifest has two."""
    founded = found()
    founded.member("hub", Role.COORDINATOR, "127.0.0.1:9443")
    silo = founded.member("silo-a")
    _, request = founded.request("silo-b", Role.COORDINATOR, "127.0.0.1:9444")
    place = ("127.0.0.1:9444", ("127.0.0.1:9444",))
    token = founded.authority.invite("silo-b", Role.COORDINATOR, "DE", *place).token if online else None
    asked = request.model_copy(update={"token": token})
    with pytest.raises((EnrolmentRefusedError, IdentityError), match="the coordinator, which hub is"):
        founded.authority.redeem(asked, lambda: None) if online else founded.authority.enrol(asked)
    manifest = founded.authority.manifest()
    accept_manifest(silo, manifest.document.text, manifest.signature)
    coordinator_context(silo)
