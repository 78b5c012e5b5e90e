"""What an attacker tries at the door: each try ends in a refusal that names its reason in the log."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from flwr.proto import fleet_pb2

import silo.gate.fleet
from coordinator.authority.certificates import Subject, member_certificate
from federation.addresses import split_address
from federation.errors import UnreachableError
from federation.home import Home
from federation.identity import Role, load_certificate, load_private_key, new_key, public_key_pem
from federation.limits import LIMITS
from federation.tls import client_context, server_context
from silo.gate.fleet import FleetConnection, FleetRefusedError

from .conftest import CONTROL, EVIDENCE, FLEET, NAME, Online, ask

pytestmark = pytest.mark.federation
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Online:
    """A federation of the same name under an authority of the attacker's own; it never starts."""
    return Online(tmp_path_factory.mktemp("foreign"))


def knock(online: Online, *options: str) -> subprocess.CompletedProcess[str]:
    """OpenSSL's client at the door, with a request for whatever comes."""
    command = ["openssl", "s_client", "-connect", online.address, "-CAfile", str(online.coordinator.authority),
               "-ign_eof", *options]  # fmt: skip
    request = "GET / HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"
    return subprocess.run(command, input=request, capture_output=True, text=True, timeout=60, check=False)


def credentials(home: Home) -> tuple[str, ...]:
    return ("-cert", str(home.certificate), "-cert_chain", str(home.certificate), "-key", str(home.key))


def forged(online: Online, directory: Path, begin: timedelta, lifetime: timedelta) -> tuple[str, ...]:
    """A certificate of the federation's own authority, for an operator, with a validity of the test's choosing."""
    authority, key = online.authority, new_key()
    issuer = load_certificate(authority.issuer.read_bytes())
    made = member_certificate(
        key.public_key(), Subject(NAME, Role.OPERATOR, "ops"), issuer, load_private_key(authority.key),
        datetime.now(UTC) + begin, lifetime,
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (directory / "c.pem").write_bytes(made.public_bytes(pem) + issuer.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "k.pem").write_bytes(secret)
    return (
        "-cert",
        str(directory / "c.pem"),
        "-cert_chain",
        str(directory / "c.pem"),
        "-key",
        str(directory / "k.pem"),
    )


Options = Callable[[Online, Online, Path], tuple[str, ...]]
HANDSHAKES: dict[str, Options] = {
    "the client has no certificate": lambda online, foreign, path: (),
    "the client's certificate does not verify: unable to get local issuer certificate": (
        lambda online, foreign, path: credentials(foreign.member("ops", Role.OPERATOR))
    ),
    "the client's certificate does not verify: certificate has expired": (
        lambda online, foreign, path: forged(online, path, -2 * DAY, DAY)
    ),
    "the client's certificate does not verify: certificate is not yet valid": (
        lambda online, foreign, path: forged(online, path, DAY, DAY)
    ),
    "the client's certificate does not verify: unsuitable certificate purpose": (
        lambda online, foreign, path: credentials(online.coordinator)
    ),
    "the client speaks no TLS 1.3": lambda online, foreign, path: ("-tls1_2", *credentials(online.home("ops"))),
    "the client shares no cipher suite of TLS 1.3": (
        lambda online, foreign, path: ("-ciphersuites", "TLS_AES_128_CCM_8_SHA256", *credentials(online.home("ops")))
    ),
}


@pytest.mark.parametrize(("reason", "options"), HANDSHAKES.items(), ids=HANDSHAKES)
def test_a_handshake_that_fails_is_recorded_with_its_reason(
    online: Online, foreign: Online, tmp_path: Path, reason: str, options: Options
):
    chosen = options(online, foreign, tmp_path)
    before = len(online.entries())
    done = knock(online, *chosen)
    assert "HTTP/1.1" not in done.stdout, "not one byte of an answer"
    assert done.returncode != 0
    refused = online.expect_entry(before, action="connection.refused", reason=reason)
    assert (refused["actor"], refused["rule"], refused["decision"]) == ("unidentified", "gateway.tls", "deny")


def test_plain_http_is_recorded_too(online: Online):
    before = len(online.entries())
    host, port = split_address(online.address)
    connection = http.client.HTTPConnection(host, port, timeout=30)
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(connection, "/")
    online.expect_entry(before, action="connection.refused", reason="HTTP without TLS")


def test_openssl_gets_in_with_what_a_member_has(online: Online):
    """The control of the tests above: the same client, with nothing wrong, is answered."""
    done = knock(online, *credentials(online.home("ops")))
    assert "HTTP/1.1 403" in done.stdout
    assert "TLSv1.3" in done.stdout


@pytest.mark.parametrize("path", [FLEET + "pull-messages", CONTROL + "runs", EVIDENCE + "checkpoint", "/", "/docs"])
@pytest.mark.parametrize("role", [Role.SILO, Role.OPERATOR, Role.AUDITOR])
def test_each_role_reaches_its_own_interface_alone(online: Online, role: Role, path: str):
    name = f"att-{role}"
    home = online.home(name) if online.home(name).certificate.exists() else online.member(name, role)
    own = {Role.SILO: FLEET, Role.OPERATOR: CONTROL, Role.AUDITOR: EVIDENCE}[role]
    before = len(online.entries())
    answer = online.call(home, path)
    if path.startswith(own):
        assert "does not reach" not in answer.text
        return
    assert (answer.status, f"a certificate with role {role} does not reach {path}" in answer.text) == (403, True)
    refused = online.expect_entry(before, action="connection.refused", reason="does not reach")
    assert refused["actor"] == f"spiffe://{NAME}/{role}/{name}"


# -- one key, one identity


def headers_of(home: Home, stamp: str | None = None) -> dict[str, str]:
    """The headers that a silo's own gate signs."""
    key = load_private_key(home.key)
    stamp = stamp or datetime.now(UTC).isoformat()
    signature = silo.gate.fleet.sign_message(key, stamp.encode("ascii"))
    return {
        "flwr-public-key": base64.b64encode(public_key_pem(key.public_key())).decode(),
        "flwr-timestamp": stamp,
        "flwr-signature": base64.b64encode(signature).decode(),
    }


def activate(home: Home) -> bytes:
    key = public_key_pem(load_private_key(home.key).public_key())
    content: bytes = fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30).SerializeToString()
    return content


def post(online: Online, through: Home, headers: dict[str, str], body: bytes) -> tuple[int, str]:
    connection = online.connect(through)
    connection.request("POST", FLEET + "activate-node", body=body, headers=headers)
    answer = connection.getresponse()
    content = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, content


def test_a_request_that_was_overheard_is_worth_nothing_on_another_connection(online: Online):
    victim, attacker = online.member("att-victim"), online.member("att-attacker")
    captured, body = headers_of(victim), activate(victim)
    assert post(online, victim, captured, body)[0] == 200
    before = len(online.entries())
    status, text = post(online, attacker, captured, body)
    assert (status, "not the key of the certificate of att-attacker" in text) == (403, True)
    refused = online.expect_entry(before, action="connection.refused", reason="not the key of the certificate")
    assert refused["actor"] == f"spiffe://{NAME}/silo/att-attacker"


def test_a_request_without_a_flower_identity_is_refused(online: Online):
    home = online.member("att-bare")
    for headers, reason in (
        ({}, "got 0 flwr-public-key headers"),
        ({**headers_of(home), "flwr-public-key": "?"}, "is not base64"),
        ({**headers_of(home), "flwr-timestamp": "yesterday"}, "no usable flwr-timestamp"),
    ):
        status, text = post(online, home, headers, activate(home))
        assert (status, reason in text) == (403, True)
    before = len(online.entries())
    status, _ = post(online, home, {**headers_of(home), "flwr-signature": base64.b64encode(b"x").decode()}, b"")
    assert status == 401
    online.expect_entry(before, action="connection.refused", actor="att-bare")


@pytest.mark.parametrize(("hours", "way"), [(1, "ahead"), (-1, "behind")])
def test_a_clock_that_is_an_hour_off_is_named(online: Online, hours: int, way: str, monkeypatch: pytest.MonkeyPatch):
    """The gate's own client with another clock: it must be told what is wrong, as nothing else would tell it."""
    home = online.member(f"att-clock-{way}")

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(silo.gate.fleet, "datetime", Clock)
    host, port = split_address(online.address)
    context = client_context(home.certificate, home.key, home.authority)
    connection = FleetConnection(host, port, context, load_private_key(home.key))
    before = len(online.entries())
    request = fleet_pb2.ActivateNodeRequest(public_key=b"", heartbeat_interval=30)
    with pytest.raises(FleetRefusedError, match=rf"is 3[56]\d\d s {way} of the coordinator's"):
        connection.call("activate-node", request, fleet_pb2.ActivateNodeResponse)
    online.expect_entry(before, action="connection.refused", reason=f"s {way} of the coordinator's")


def test_a_body_that_is_too_large_is_refused_and_recorded(online: Online):
    home = online.member("att-large")
    before = len(online.entries())
    connection = online.connect(home)
    body = b"\0" * (LIMITS.fleet_request + 1)
    connection.request("POST", FLEET + "push-object", body=body, headers=headers_of(home))
    answer = connection.getresponse()
    assert (answer.status, b"the most that is accepted here" in answer.read()) == (413, True)
    online.expect_entry(before, action="connection.refused", reason="got a request of more than")


def test_a_head_that_is_too_large_is_refused(online: Online):
    connection = online.connect(online.home("ops"))
    connection.putrequest("GET", CONTROL + "runs")
    connection.putheader("x-large", "x" * (1024 * 1024))
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.endheaders()  # may be cut off before it is all sent
    with pytest.raises((ConnectionError, http.client.HTTPException, ssl.SSLError)):
        connection.getresponse()
    assert online.call(online.home("ops"), CONTROL + "runs").status == 200


# -- the silo's side


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[str]:
    """A server that shakes hands with this context, and what it is reached at."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    context.wrap_socket(connection, server_side=True).close()
            except OSError:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def call(home: Home, address: str) -> None:
    host, port = split_address(address)
    context = client_context(home.certificate, home.key, home.authority)
    connection = FleetConnection(host, port, context, load_private_key(home.key))
    connection.call("get-run", fleet_pb2.ActivateNodeRequest(), fleet_pb2.ActivateNodeResponse)


def test_a_silo_refuses_a_coordinator_whose_certificate_names_another_host(online: Online):
    _, port = split_address(online.address)
    with pytest.raises(UnreachableError, match=r"does not verify.*[Hh]ostname mismatch"):
        call(online.home("ops"), f"localhost:{port}")


def test_a_silo_refuses_a_member_that_plays_the_coordinator(online: Online):
    impostor = online.member("att-impostor")
    context = server_context(impostor.certificate, impostor.key, impostor.authority)
    with serving(context) as address, pytest.raises(UnreachableError, match=r"does not verify.*purpose"):
        call(online.home("ops"), address)


def test_a_silo_refuses_a_coordinator_of_another_authority(online: Online, foreign: Online):
    hub = foreign.coordinator
    context = server_context(hub.certificate, hub.key, hub.authority)
    with serving(context) as address, pytest.raises(UnreachableError, match=r"does not verify.*local issuer"):
        call(online.home("ops"), address)


def test_a_refusal_says_nothing_of_secrets(online: Online):
    text = json.dumps(online.entries())
    assert "PRIVATE" not in text
    for path in (online.directory / "coordinator.log",):
        assert "PRIVATE" not in path.read_text()
