"""Whoever reaches a gate's port for its worker and says nothing: the worker gets in all the same."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from demo.ports import reserve_port
from federation.addresses import split_address
from federation.limits import LIMITS
from silo.channel import Frame, send
from silo.config import ChannelEnd
from silo.gate.worker_link import WorkerLink
from silo.transport import connect_tls


class Channel:
    """A gate's port under an authority of its own, and who comes to it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "ca.crt"))
        self.address = f"127.0.0.1:{reserve_port()}"
        self.link = WorkerLink(self.end("gate", "worker"))
        stack.callback(self.link.close)

    def end(self, name: str, peer: str) -> ChannelEnd:
        issued = self._authority.issue_cert(name)
        key, certificate = self._directory / f"{name}.key", self._directory / f"{name}.crt"
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        key.chmod(0o600)
        return ChannelEnd(
            address=self.address, certificate=certificate, key=key, authority=self._directory / "ca.crt", peer=peer
        )

    def comes(self, address: str, said: bytes = b"") -> None:
        made = socket.create_connection(split_address(self.address), 20, source_address=(address, 0))
        self._stack.enter_context(made)
        made.sendall(said)

    def worker(self) -> ssl.SSLSocket:
        made = connect_tls(self.end("worker", "gate"))
        self._stack.enter_context(made)
        send(made, Frame("hello", {"network": "as told"}))
        return made


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    with ExitStack() as stack:
        yield Channel(tmp_path, stack)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("addresses", [1, 60])
def test_silent_clients_keep_no_worker_out(channel: Channel, said: bytes, addresses: int):
    for number in range(3 * LIMITS.worker_handshakes):
        channel.comes(f"127.0.6.{1 + number % addresses}", said)
    channel.worker()
    assert channel.link.wait(5.0) == {"network": "as told"}


def test_they_cut_off_no_worker_that_is_connected(channel: Channel):
    worker = channel.worker()
    channel.link.wait(5.0)
    for number in range(3 * LIMITS.worker_handshakes):
        channel.comes(f"127.0.6.{1 + number}")
    with channel.link._changed:
        assert channel.link._changed.wait_for(lambda: channel.link.turned_away >= LIMITS.worker_handshakes, 20)
    assert channel.link.worker == 1
    worker.settimeout(0.2)
    with pytest.raises(TimeoutError):
        worker.recv(1)
