"""Attacks on the coordinator's door, over real sockets: who does not belong is turned away, and it is recorded."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.proto import fleet_pb2

from coordinator.authority import Authority
from federation.addresses import split_address
from federation.enrolment import join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role, load_certificate, load_private_key, new_key, public_key_pem, save_private_key
from federation.operator import OperatorClient
from federation.tls import client_context
from silo.gate.fleet import FleetConnection, FleetNode, FleetRefusedError

from .conftest import Door

pytestmark = pytest.mark.federation

FLEET, CONTROL, EVIDENCE = "/v1/fleet/pull-messages", "/concordat/v1/control/runs", "/concordat/v1/evidence/checkpoint"


def s_client(door: Door, *options: str) -> subprocess.CompletedProcess[str]:
    """Knock with OpenSSL, ask for a page, and report what came back."""
    command = [
        "openssl", "s_client", "-connect", door.address, "-CAfile", str(door.founded.coordinator.authority),
        "-servername", "127.0.0.1", "-ign_eof", *options,
    ]  # fmt: skip
    request = "GET / HTTP/1.1\r\nHost: coordinator\r\nConnection: close\r\n\r\n"
    return subprocess.run(command, input=request, capture_output=True, text=True, timeout=30, check=False)


def turned_away(door: Door, reason: str, *options: str) -> bool:
    """The handshake failed: OpenSSL says that the connection broke, not one byte of HTTP came back, the log says why.

    Whether the server's end is seen as an alert, an end of file or a reset (errno 104) depends on who is faster.
    """
    before = len(door.audit_entries())
    done = s_client(door, *options)
    failed = any(sign in done.stderr for sign in ("unexpected eof", "alert", "errno=104"))
    entry = door.refusal(before)
    told = (entry["actor"], entry["decision"], entry["rule"], entry["resource"], entry["reason"])
    assert told == ("unidentified", "deny", "gateway.tls", "tls", reason)
    return failed and done.returncode != 0 and "HTTP/1.1" not in done.stdout


def with_identity(home: Home) -> tuple[str, ...]:
    """OpenSSL's options for a certificate with its chain, and its key."""
    return ("-cert", str(home.certificate), "-cert_chain", str(home.certificate), "-key", str(home.key))


def test_a_member_gets_through_the_handshake_with_tls_1_3(door: Door) -> None:
    done = s_client(door, *with_identity(door.founded.operator))
    assert "TLSv1.3" in done.stdout
    assert "HTTP/1.1 403" in done.stdout


def test_without_a_client_certificate_the_handshake_fails(door: Door) -> None:
    assert turned_away(door, "the client has no certificate")


def test_tls_1_2_is_turned_away(door: Door) -> None:
    assert turned_away(door, "the client speaks no TLS 1.3", "-tls1_2", *with_identity(door.founded.operator))


def test_a_certificate_of_another_authority_is_turned_away(door: Door, tmp_path: Path) -> None:
    home = foreign_member(tmp_path, Role.OPERATOR, "operator", door.founded.manifest.federation.metadata.name)
    reason = "the client's certificate does not verify: unable to get local issuer certificate"
    assert turned_away(door, reason, *with_identity(home))


def foreign_member(directory: Path, role: Role, name: str, federation: str) -> Home:
    """A member of a federation of the same name, under an authority of one's own."""
    authority = Authority(directory / "authority")
    authority.found(federation)
    home = Home(directory / name)
    request_enrolment(home, federation, name, role, "DE", ("127.0.0.1:1",) if role is Role.COORDINATOR else ())
    certificate, _ = authority.enrol(parse_request(home.request.read_bytes()))
    join(home, json.dumps(authority.bundle(certificate)).encode())
    return home


def certificate_by(
    door: Door,
    directory: Path,
    uri: str,
    begin: timedelta,
    end: timedelta,
    authority: tuple[Path, Path] | None = None,
) -> tuple[str, ...]:
    """A certificate of this federation's issuing authority with a validity and a name of the test's choosing."""
    ours = door.founded.authority
    issued_by, issued_with = authority or (ours.issuer, ours.key)
    issuer, signer = load_certificate(issued_by.read_bytes()), load_private_key(issued_with)
    key, now = new_key(), datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName("operator")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "attacker")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    save_private_key(directory / "k.pem", key)
    (directory / "c.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return ("-cert", str(directory / "c.pem"), "-cert_chain", str(ours.issuer), "-key", str(directory / "k.pem"))


DAY = timedelta(days=1)


OPERATOR = "spiffe://breast-cancer.example/operator/operator"


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [(-2 * DAY, -DAY, "certificate has expired"), (DAY, 2 * DAY, "certificate is not yet valid")],
    ids=["expired", "not yet valid"],
)
def test_a_certificate_outside_its_time_is_turned_away(
    door: Door, tmp_path: Path, begin: timedelta, end: timedelta, reason: str
) -> None:
    options = certificate_by(door, tmp_path, OPERATOR, begin, end)
    assert turned_away(door, f"the client's certificate does not verify: {reason}", *options)


@pytest.mark.parametrize("name", ["other.example", "sub.breast-cancer.example"])
def test_the_authority_has_no_say_in_another_federation(door: Door, tmp_path: Path, name: str) -> None:
    """Its certificate constrains it to its own federation's name, which the handshake checks."""
    options = certificate_by(door, tmp_path, f"spiffe://{name}/operator/operator", -DAY, DAY)
    assert turned_away(door, "the client's certificate does not verify: permitted subtree violation", *options)


def test_a_certificate_that_the_root_made_itself_is_refused(door: Door, tmp_path: Path) -> None:
    """Members' certificates come from the issuing authority that signed the manifest."""
    root = (door.founded.authority.certificate, door.founded.authority.root_key)
    before = len(door.audit_entries())
    done = s_client(door, *certificate_by(door, tmp_path, OPERATOR, -DAY, DAY, root))
    reason = "the certificate of operator was not issued by this federation's authority"
    assert "HTTP/1.1 403" in done.stdout
    assert reason in done.stdout
    assert reason in door.refusal(before)["reason"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "spiffe:// URI"),
        ("spiffe://breast-cancer.example/root/operator", "got role"),
        ("spiffe://breast-cancer.example/operator/stranger", "is not a member"),
        ("spiffe://breast-cancer.example/operator/hospital-a", "is a silo in the manifest"),
    ],
)
def test_the_right_authority_is_not_enough(door: Door, tmp_path: Path, uri: str, reason: str) -> None:
    done = s_client(door, *certificate_by(door, tmp_path, uri, -DAY, DAY))
    assert "HTTP/1.1 403" in done.stdout
    assert reason in done.stdout
    refused = door.audit_entries()[-1]
    assert (refused["action"], refused["decision"]) == ("connection.refused", "deny")
    assert reason in refused["reason"]


def test_a_server_certificate_is_not_a_client_certificate(door: Door) -> None:
    reason = "the client's certificate does not verify: unsuitable certificate purpose"
    assert turned_away(door, reason, *with_identity(door.founded.coordinator))


def get(door: Door, home: Home, path: str) -> httpx.Response:
    context = client_context(home.certificate, home.key, home.authority)
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.get(f"https://{door.address}{path}")


@pytest.mark.parametrize("path", [FLEET, CONTROL, EVIDENCE, "/", "/docs", "/openapi.json", "/v1/control/start-run"])
def test_each_role_reaches_its_own_interface_alone(door: Door, path: str, auditor: Home) -> None:
    silo = door.founded.silos["hospital-a"].gate
    allowed = {silo: FLEET, door.founded.operator: CONTROL, auditor: EVIDENCE}
    for home, own in allowed.items():
        if path == own:
            continue
        answer = get(door, home, path)
        assert answer.status_code == 403, (home.path.name, path)
        assert "does not reach" in answer.text


@pytest.fixture(scope="module")
def auditor(door: Door, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A member enrolled while the coordinator runs, known to it without a restart."""
    home = Home(tmp_path_factory.mktemp("auditor"))
    federation = door.founded.manifest.federation.metadata.name
    request_enrolment(home, federation, "regulator", Role.AUDITOR, "FR")
    certificate, manifest = door.founded.authority.enrol(parse_request(home.request.read_bytes()))
    join(home, json.dumps(door.founded.authority.bundle(certificate)).encode())
    from federation.manifest import accept_manifest

    accept_manifest(door.founded.coordinator, manifest.document.text, manifest.signature)
    return home


def test_the_auditor_can_fetch_and_verify_the_log(door: Door, auditor: Home, tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    (tmp_path / "payloads").mkdir()
    names = get(door, auditor, "/concordat/v1/evidence/segments").json()
    assert names
    for name in ["checkpoint", "log.vkey", *(f"segments/{n}" for n in names)]:
        answer = get(door, auditor, f"/concordat/v1/evidence/{name}")
        assert answer.status_code == 200
        (tmp_path / name).write_bytes(answer.content)
    from audit.verify import verify

    key = door.founded.manifest.federation.coordinator.log
    report = verify(tmp_path, key)
    assert report.size == len(door.audit_entries())


@pytest.mark.parametrize("name", ["../key.pem", "segments/../../key.pem", "%2e%2e/key.pem", "payloads/x", "lock"])
def test_the_auditor_gets_nothing_else(door: Door, auditor: Home, name: str) -> None:
    context = client_context(auditor.certificate, auditor.key, auditor.authority)
    host, port = split_address(door.address)
    connection = http.client.HTTPSConnection(host, port, context=context)
    connection.request("GET", f"/concordat/v1/evidence/{name}")
    answer = connection.getresponse()
    assert answer.status in {403, 404}
    assert b"PRIVATE" not in answer.read()


def fleet_connection(door: Door, certificate_of: Home, flower_key_of: Home) -> FleetConnection:
    host, port = split_address(door.address)
    context = client_context(certificate_of.certificate, certificate_of.key, certificate_of.authority)
    return FleetConnection(host, port, context, load_private_key(flower_key_of.key))


@pytest.mark.parametrize(("tls", "flower"), [("hospital-a", "hospital-b"), ("hospital-b", "hospital-a")])
def test_one_silos_certificate_with_anothers_flower_key_is_refused(door: Door, tls: str, flower: str) -> None:
    """Promise 4: the key of the TLS client certificate is the Flower node key."""
    silos = door.founded.silos
    connection = fleet_connection(door, silos[tls].gate, silos[flower].gate)
    key = public_key_pem(load_private_key(silos[flower].gate.key).public_key())
    request = fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30)
    with pytest.raises(FleetRefusedError, match="not the key of the certificate") as refused:
        connection.call("activate-node", request, fleet_pb2.ActivateNodeResponse)
    assert refused.value.status == 403
    entry = door.audit_entries()[-1]
    assert entry["actor"] == f"spiffe://breast-cancer.example/silo/{tls}"
    assert entry["rule"] == "gateway.identity"


def test_a_silo_cannot_act_for_another_node(door: Door) -> None:
    """With its own key throughout, a silo names another's node id in the request's body."""
    silos = door.founded.silos

    def node(name: str) -> FleetNode:
        home = silos[name].gate
        key = load_private_key(home.key)
        return FleetNode(lambda: fleet_connection(door, home, home), public_key_pem(key.public_key()))

    victim, attacker = node("hospital-a"), node("hospital-b")
    try:
        victim_id = victim.activate()
        attacker.activate()
        connection = fleet_connection(door, silos["hospital-b"].gate, silos["hospital-b"].gate)
        from flwr.proto import node_pb2

        request = fleet_pb2.PullMessagesRequest(node=node_pb2.Node(node_id=victim_id))
        with pytest.raises(FleetRefusedError) as refused:
            connection.call("pull-messages", request, fleet_pb2.PullMessagesResponse)
        assert refused.value.status == 401
        entry = door.audit_entries()[-1]
        attacking = "spiffe://breast-cancer.example/silo/hospital-b"
        assert (entry["action"], entry["decision"], entry["actor"]) == ("connection.refused", "deny", attacking)
        goodbye = fleet_pb2.DeactivateNodeRequest(node_id=victim_id)
        with pytest.raises(FleetRefusedError):
            connection.call("deactivate-node", goodbye, fleet_pb2.DeactivateNodeResponse)
    finally:
        victim.close()
        attacker.close()


def test_a_node_cannot_register_itself(door: Door) -> None:
    home = door.founded.silos["hospital-a"].gate
    connection = fleet_connection(door, home, home)
    request = fleet_pb2.RegisterNodeFleetRequest(public_key=public_key_pem(new_key().public_key()))
    with pytest.raises(FleetRefusedError) as refused:
        connection.call("register-node", request, fleet_pb2.RegisterNodeFleetResponse)
    assert refused.value.status == 404


def test_a_request_that_is_too_large_is_refused(door: Door) -> None:
    context = client_context(
        door.founded.operator.certificate, door.founded.operator.key, door.founded.operator.authority
    )
    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.post(f"https://{door.address}{CONTROL}", content=b"x" * (17 * 2**20))
    assert (answer.status_code, f"more than {16 * 2**20} bytes" in answer.text) == (413, True)
    entry = door.audit_entries()[-1]
    assert (entry["action"], entry["actor"], entry["reason"]) == ("connection.refused", OPERATOR, answer.text)


def test_a_run_signed_by_someone_else_is_refused(door: Door, tmp_path: Path) -> None:
    """A stolen operator certificate without its key signs nothing, and another operator's run is not one's own."""
    import base64

    from federation.run import sign_run

    text = door.founded.run_file.read_text()
    certificate = door.founded.operator.certificate.read_bytes()
    signed = sign_run(text, door.founded.app, new_key(), certificate, ["hospital-a"])
    body = {**signed.fields(), "app": base64.b64encode(door.founded.app).decode()}
    with OperatorClient(door.founded.operator) as client, pytest.raises(Exception, match="does not verify"):
        client._call("POST", "runs", body)


def test_a_gate_refuses_a_coordinator_of_another_authority(door: Door, tmp_path: Path) -> None:
    """The silo's side of the handshake: the server's certificate must be of the silo's authority."""
    foreign = foreign_member(tmp_path, Role.SILO, "hospital-a", "breast-cancer.example")
    context = client_context(foreign.certificate, foreign.key, foreign.authority)
    host, port = split_address(door.address)
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection(host, port, context=context).connect()


def test_the_coordinators_process_holds_no_tensorflow(door: Door) -> None:
    """Promise 5, as seen from outside: nothing of TensorFlow, Keras or pandas is mapped into the process."""
    maps = Path(f"/proc/{door.child.pid}/maps").read_text()
    assert "python" in maps
    assert not any(name in maps for name in ("tensorflow", "keras", "/pandas/", "pyarrow"))
