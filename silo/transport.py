"""How the channel's bytes cross: a Unix socket on one host, mutual TLS 1.3 between two pods."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from federation.addresses import split_address
from federation.errors import IdentityError, UsageError
from federation.identity import check_private
from federation.tls import client_context, server_context
from silo.config import ChannelEnd, WorkerConfig

HANDSHAKE_SECONDS = 10.0
BACKLOG = 128
"""Connections that wait to be accepted: beyond it the worker's would be among those that the system drops."""
RETRY_SECONDS = 0.2
SLOW_RETRY_SECONDS = 5.0
KEEPALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
"""A peer whose machine is gone without a word is noticed within 40 seconds."""


class NotAWorkerError(Exception):
    """Whoever connected is not this silo's worker."""


class Listener(Protocol):
    """Where the gate waits for its worker."""

    where: str
    """What to tell a person who has to start the worker."""

    def accept(self) -> socket.socket:
        """The next connection, not yet trusted; raises OSError once closed."""

    def admit(self, connection: socket.socket) -> None:
        """Find out who connected; raises NotAWorkerError or OSError."""

    def close(self) -> None:
        """Stop listening; a thread in `accept` is woken."""


class UnixListener:
    """A socket on a path; the kernel tells who connects."""

    def __init__(self, path: Path, worker_uid: int | None = None) -> None:
        self.where = f"socket {path}"
        self._path = path
        self._uid = os.getuid() if worker_uid is None else worker_uid
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        path.chmod(0o600 if worker_uid is None else 0o666)
        self._socket.listen(BACKLOG)

    def accept(self) -> socket.socket:
        """The next connection."""
        return self._socket.accept()[0]

    def admit(self, connection: socket.socket) -> None:
        """Check the user id of the process at the other end."""
        if peer_uid(connection) not in {self._uid, 0}:
            raise NotAWorkerError("a process of another user connected to the worker's socket")

    def close(self) -> None:
        """Stop listening and remove the socket."""
        _close(self._socket)
        self._path.unlink(missing_ok=True)


class TlsListener:
    """A TCP port; TLS 1.3 tells who connects: a certificate of the silo's own authority with the worker's name."""

    def __init__(self, end: ChannelEnd) -> None:
        self.where = f"address {end.address}"
        self._end = end
        self._context()
        host, port = split_address(end.address)
        try:
            self._socket = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
            )
        except OSError as error:
            raise UsageError(f"cannot listen on {end.address} for the worker: {error.strerror}") from None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    def accept(self) -> socket.socket:
        """The next connection, its handshake still to come. The certificate is read anew, so that it can be renewed."""
        connection = self._socket.accept()[0]
        try:
            _keep_alive(connection)
            return self._context().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, IdentityError) as error:
            connection.close()
            raise NotAWorkerError(f"the gate's own certificate cannot be used: {error}") from None

    def admit(self, connection: socket.socket) -> None:
        """Complete the handshake and check the name in the certificate."""
        assert isinstance(connection, ssl.SSLSocket)  # noqa: S101  accept returns no other
        try:
            connection.do_handshake()
        except ssl.SSLError as error:
            raise NotAWorkerError(f"the handshake failed: {_said(error)}") from None
        found = (connection.getpeercert() or {}).get("subjectAltName", ())
        if ("DNS", self._end.peer) not in found:
            raise NotAWorkerError(f"got a certificate for {names(found)}, expected {self._end.peer}")

    def close(self) -> None:
        """Stop listening."""
        _close(self._socket)

    def _context(self) -> ssl.SSLContext:
        check_key_file(self._end.key)
        context = server_context(self._end.certificate, self._end.key, self._end.authority)
        # A session ticket would reach the worker while it works, which takes any word then for the gate's farewell.
        context.num_tickets = 0
        return context


def connect(config: WorkerConfig, say: Callable[[str], None]) -> socket.socket:
    """Connect to the gate, waiting for it to listen; raises IdentityError where the worker's own files are unusable.

    What keeps TLS from being spoken is said once: waiting does not mend it, but renewed certificates may.
    """
    said = False
    while True:
        try:
            return connect_unix(config.socket) if config.socket is not None else _connect_tls(config.connect)
        except ssl.SSLError as error:
            if not said:
                say(f"the gate cannot be trusted or does not trust this worker: {_said(error)}")
                said = True
            time.sleep(SLOW_RETRY_SECONDS)
        except OSError:
            time.sleep(RETRY_SECONDS)


def connect_unix(path: Path) -> socket.socket:
    """Connect to a socket on a path; raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def connect_tls(end: ChannelEnd) -> ssl.SSLSocket:
    """Connect to the gate over TLS 1.3 and check its name; raises OSError, as ssl.SSLError is, or IdentityError."""
    check_key_file(end.key)
    context = client_context(end.certificate, end.key, end.authority)
    connection = socket.create_connection(split_address(end.address), timeout=HANDSHAKE_SECONDS)
    try:
        _keep_alive(connection)
        secured = context.wrap_socket(connection, server_hostname=end.peer)
        secured.settimeout(None)
    except OSError:
        connection.close()
        raise
    return secured


def check_key_file(path: Path) -> None:
    """Refuse a key that others can read; raises IdentityError."""
    try:
        check_private(path, path.stat())
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from None


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end of a Unix socket, from the kernel (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def hang_up(connection: socket.socket) -> None:
    """Wake whoever reads from a connection, from another thread or a signal handler.

    The plain socket's shutdown: the one of an SSLSocket takes the TLS state away under its reader.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def names(found: object) -> str:
    """The DNS names among a certificate's names, for a sentence."""
    dns = [value for kind, value in found if kind == "DNS"] if isinstance(found, tuple) else []
    return ", ".join(dns)[:300] or "no DNS name"


def _connect_tls(end: ChannelEnd | None) -> ssl.SSLSocket:
    assert end is not None  # noqa: S101  the configuration names one of the two
    return connect_tls(end)


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _close(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept, which close alone does not
    listener.close()


def _said(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.reason or "no TLS was spoken"
