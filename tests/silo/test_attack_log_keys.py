"""A member whose enrolment request names no key of its own log: text, or a key under another member's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.keys import load_key, vkey_of
from federation.enrolment import EnrolmentRequest, parse_request, request_enrolment
from federation.errors import IdentityError
from federation.home import Home
from federation.identity import Role
from federation.member_logs import log_key
from federation.receipts import keys_of

from .simulator import SILO, Consortium, GateBench, found_consortium

NAMES = ("coordinator/coordinator", f"silo/{SILO}", "operator/mallory", "silo/nobody")


def logs_of(home: Home) -> list[str]:
    key = load_key(home.log_key).public_key()
    others = [vkey_of(name, key) for name in (*(f"heart.example/{one}" for one in NAMES), "other/silo/mallory")]
    own = vkey_of("heart.example/silo/mallory", key)
    return ["", "garbage", own[:-1], own + "=", own + "\n", own.upper(), "x" * 512, *others]


@pytest.fixture
def founded(tmp_path: Path) -> Consortium:
    return found_consortium(tmp_path)


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[str], EnrolmentRequest]:
    """Mallory's request with another log in it."""
    home = Home(tmp_path / "mallory")
    request_enrolment(home, "heart.example", "mallory", Role.SILO, "FR", ())
    fields = json.loads(home.request.read_bytes())
    return lambda log: parse_request(json.dumps({**fields, "log": log}).encode())


def test_nobody_enrols_with_a_log_key_that_is_none_or_anothers(
    founded: Consortium, asked: Callable[[str], EnrolmentRequest], tmp_path: Path
) -> None:
    for log in logs_of(Home(tmp_path / "mallory")):
        with pytest.raises(IdentityError, match=r"brings (no|the) (log )?key of"):
            founded.authority.enrol(asked(log))
    own = vkey_of("heart.example/silo/mallory", load_key(Home(tmp_path / "mallory").log_key).public_key())
    founded.authority.enrol(asked(own))


@pytest.mark.parametrize("anothers", [False, True], ids=["no key", "another's"])
def test_a_manifest_with_such_a_key_ends_nobody_and_takes_nobodys_place(
    founded: Consortium,
    asked: Callable[[str], EnrolmentRequest],
    tmp_path: Path,
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    anothers: bool,
) -> None:
    """One that an authority of an earlier version has signed."""
    bench = GateBench(founded, short_path)
    before = bench.witnessing._silos
    bench.work()
    key = load_key(Home(tmp_path / "mallory").log_key).public_key()
    log = vkey_of("heart.example/silo/hospital-b", key) if anothers else "garbage"
    monkeypatch.setattr("coordinator.authority.directory._check_log", lambda *_: None)
    founded.editions.append(founded.authority.enrol(asked(log))[1])
    federation = founded.manifest.federation
    assert log_key(federation, federation.member("mallory")) is None
    assert set(keys_of(federation, ["mallory", SILO])) == {SILO}
    assert bench.admit(bench.consortium.sign(silos=["hospital-b", SILO])).config["status"] == "admitted"
    assert bench.round(1).config["status"] == "ok"
    assert bench.make_witnessing()._silos == bench.witnessing._silos == before
    assert set(bench.hub._keys) == {"hospital-b", SILO}
    bench.close()
