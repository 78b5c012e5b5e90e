"""Where a document can send whoever reads it: to a host and a port, for a TLS handshake, and no further."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.authority import Authority
from federation.addresses import split_address
from federation.enrolment import EnrolmentRequest, parse_invitation
from federation.errors import IdentityError, UnreachableError, UsageError
from federation.home import Home
from federation.identity import Role
from federation.joining import enrol

NAMES = [
    "user@host:443",
    "user:secret@host:443",
    "host:443/path",
    "host:443?x",
    "host:443#x",
    "https://host:443",
    "unix:/run/docker.sock",
    "/run/docker.sock",
    "host\r\nX-Header: 1:443",
    "host:443\r\n",
    "host:443\n",
    "host%0d%0a:443",
    "host%00:443",
    "[::1]:443:443",
    "[fe80::1%eth0]:443",
    "host :443",
    " host:443",
    "host:0",
    "host:65536",
    "host:",
    ":443",
    "host",
    "høst:443",
    "-host:443",
]


@pytest.mark.parametrize("address", NAMES)
def test_what_is_not_a_host_and_a_port_is_no_address(address: str):
    with pytest.raises(UsageError, match="expected host:port"):
        split_address(address)


@given(st.text(max_size=60))
def test_a_host_never_carries_more_than_a_host(text: str):
    try:
        host, port = split_address(text)
    except UsageError:
        return
    assert not set(host) & set("@/?#%\\\r\n\t \0'\"")
    assert 0 < port < 65536


def test_no_document_brings_such_an_address(tmp_path: Path):
    authority = Authority(tmp_path / "authority")
    authority.found("heart.example")
    invitation = authority.invite("silo-a", Role.SILO, "DE", "coordinator.example:9444")
    request = {"format": "concordat/enrolment-request/v1", "name": "hub", "role": "coordinator", "country": "DE",
               "log": "x"}  # fmt: skip
    assert EnrolmentRequest.model_validate_json(_json({**request, "addresses": ["hub.example:9443"]})).addresses
    for address in (name for name in NAMES if name not in {"host:0", "host:65536"}):
        content = {**invitation.model_dump(mode="json"), "coordinator": address}
        with pytest.raises(IdentityError, match="coordinator"):
            parse_invitation(_json(content))
        with pytest.raises(ValueError, match="addresses"):
            EnrolmentRequest.model_validate_json(_json({**request, "addresses": [address]}))


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


@contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """A service that is none of the federation's, such as a cloud's metadata: what it is told, it keeps."""
    told: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        told.append(connection.recv(65536))
                        connection.sendall(
                            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"
                        )
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", told
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_another_service_gets_a_handshake_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor does a proxy that the environment names, which would be told where we go."""
    authority = Authority(tmp_path / "authority")
    authority.found("heart.example")
    invitation = authority.invite("silo-a", Role.SILO, "DE", "127.0.0.1:9444", lifetime=timedelta(days=1))
    with listening() as (address, told), listening() as (proxy, told_proxy):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
        with pytest.raises(UnreachableError, match="does not answer"):
            enrol(Home(tmp_path / "home"), invitation.model_copy(update={"coordinator": address}))
    (said,) = told
    assert said[:2] == b"\x16\x03"
    assert told_proxy == []
    request = Home(tmp_path / "home").request.read_text()
    for secret in (invitation.token, "silo-a", "heart.example"):
        assert secret in request
        assert secret.encode() not in said
