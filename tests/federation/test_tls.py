"""Handshakes in memory: who can speak to whom, without a socket."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from federation.errors import IdentityError
from federation.home import Home
from federation.identity import Role, load_certificate
from federation.tls import client_context, server_context

HOST = "127.0.0.1"


def server_of(home: Home) -> ssl.SSLContext:
    return server_context(home.certificate, home.key, home.authority)


def client_of(home: Home) -> ssl.SSLContext:
    return client_context(home.certificate, home.key, home.authority)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str = HOST) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Complete a handshake both ways and exchange a byte; raises ssl.SSLError where either side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = server.wrap_bio(to_server, to_client, server_side=True)
    right = client.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(6):
        for side in (right, left):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    right.write(b"?")
    assert left.read(1) == b"?"
    return left, right


def test_members_of_one_federation_speak_tls_1_3(federation: Any):
    server, client = federation.homes["hub"], federation.homes["silo-a"]
    left, right = shake(server_of(server), client_of(client))
    assert left.version() == right.version() == "TLSv1.3"
    for side, peer in ((left, client), (right, server)):
        sent = load_certificate(peer.certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
        assert side.getpeercert(binary_form=True) == sent


def test_a_client_without_a_certificate_is_refused(federation: Any):
    anonymous = ssl.create_default_context(cafile=federation.homes["silo-a"].authority)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(server_of(federation.homes["hub"]), anonymous)


def test_a_client_that_speaks_an_older_tls_is_refused(federation: Any):
    older = client_of(federation.homes["silo-a"])
    older.minimum_version = ssl.TLSVersion.TLSv1_2
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(server_of(federation.homes["hub"]), older)


def test_a_server_that_speaks_an_older_tls_is_refused(federation: Any):
    older = server_of(federation.homes["hub"])
    older.minimum_version = ssl.TLSVersion.TLSv1_2
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(older, client_of(federation.homes["silo-a"]))


def test_a_server_of_another_name_is_refused(federation: Any):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake(server_of(federation.homes["hub"]), client_of(federation.homes["silo-a"]), "127.0.0.2")


def test_a_member_that_is_no_coordinator_cannot_pose_as_one(federation: Any):
    """Its certificate is for clients alone, whatever name it claims."""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server_of(federation.homes["silo-b"]), client_of(federation.homes["silo-a"]))


def test_the_coordinators_certificate_is_no_clients(federation: Any):
    with pytest.raises(ssl.SSLError):
        shake(server_of(federation.homes["hub"]), client_of(federation.homes["hub"]))


def test_another_federations_members_are_strangers(found: Callable[..., Any], federation: Any):
    other = found()
    other.member("silo-a")
    other.member("hub", Role.COORDINATOR, f"{HOST}:1")
    with pytest.raises(ssl.SSLError):
        shake(server_of(federation.homes["hub"]), client_of(other.homes["silo-a"]))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server_of(other.homes["hub"]), client_of(federation.homes["silo-a"]))


def test_an_expired_client_is_refused(found: Callable[..., Any]):
    own = found()
    server = own.member("hub", Role.COORDINATOR, f"{HOST}:1")
    home, request = own.request("silo-a")
    home.certificate.write_text(own.bundle(request, timedelta())["certificate"])
    home.authority.write_bytes(own.authority.certificate.read_bytes())
    with pytest.raises(ssl.SSLError, match="certificate has expired"):
        shake(server_of(server), client_of(home))


def test_files_that_cannot_be_used_are_named(federation: Any, tmp_path: Path):
    home, other = federation.homes["silo-a"], federation.homes["silo-b"]
    for certificate, key, authority in (
        (tmp_path / "none", home.key, home.authority),
        (home.certificate, other.key, home.authority),
        (home.certificate, home.key, tmp_path / "none"),
        (home.certificate, home.key, home.key),
    ):
        for make in (client_context, server_context):
            with pytest.raises(IdentityError, match="cannot be used"):
                make(certificate, key, authority)
