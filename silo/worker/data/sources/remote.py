"""A database over TCP: one connection, TLS made here, and the driver at a Unix socket that only this process has.

The driver makes no connections of its own to the network: it gets a plain connection within this process, whose other
end is relayed through TLS (verify-full) to the connection that the door handed over.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from silo.dataset.sources import SqlQuery
from silo.worker.door import CONNECT_SECONDS, Door
from silo.worker.errors import DataError

HERE = "/proc/self/cwd"
"""The directory of the Unix socket as the driver is told it: a path of this length always fits."""
SOCKET = ".s.PGSQL.5432"
_TLS_REQUEST = struct.pack("!II", 8, 80877103)
"""SSLRequest, of the message formats of PostgreSQL's protocol."""
_SASL = struct.pack("!I", 10)
_FIRST_ANSWER = 1 << 16
_BLOCK = 1 << 16


@contextlib.contextmanager
def reached(source: SqlQuery) -> Iterator[str]:
    """The directory of a Unix socket that leads to the database, while the context lasts; raises DataError."""
    secured = _secured(_connected(source), source)
    before, place = Path.cwd(), tempfile.mkdtemp()
    os.chdir(place)
    try:
        with secured, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(SOCKET)
            listener.listen(1)
            thread = threading.Thread(target=_relay_one, args=(listener, secured), daemon=True)
            thread.start()
            yield HERE
    finally:
        os.chdir(before)
        shutil.rmtree(place, ignore_errors=True)


def _connected(source: SqlQuery) -> socket.socket:
    assert source.address is not None  # noqa: S101  asked of databases over TCP alone
    door = Door.inherited()
    if door is not None:
        with contextlib.closing(door):
            return door.connect(source.address)
    # The data's owner looks at a source with commands of their own, which have the owner's network.
    host, _, port = source.address.rpartition(":")
    try:
        return socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
    except OSError as error:
        raise DataError(f"the database cannot be reached: {type(error).__name__}") from None


def _secured(connection: socket.socket, source: SqlQuery) -> socket.socket:
    """The connection within TLS, its certificate checked for the URL's host; as it is for a loopback without CA."""
    if source.authority is None:
        return connection
    connection.settimeout(CONNECT_SECONDS)
    try:
        context = ssl.create_default_context(cafile=source.authority)
        connection.sendall(_TLS_REQUEST)
        if connection.recv(1) != b"S":
            connection.close()
            raise DataError("the database offers no TLS")
        secured = context.wrap_socket(connection, server_hostname=source.host)
    except ssl.SSLCertVerificationError as error:
        raise DataError(f"the database's certificate is not what it has to be: {error.verify_message}") from None
    except OSError as error:
        raise DataError(f"TLS with the database failed: {type(error).__name__}") from None
    secured.settimeout(None)
    return secured


def _relay_one(listener: socket.socket, secured: socket.socket) -> None:
    """Take the driver's one connection and relay it until either side ends."""
    with contextlib.suppress(OSError, ValueError):
        plain, _ = listener.accept()
        with plain:
            if isinstance(secured, ssl.SSLSocket):
                _begin(plain, secured)
            _relay(plain, secured)


def _begin(plain: socket.socket, secured: ssl.SSLSocket) -> None:
    """Relay the first question and its answer, without the mechanisms that bind to a TLS of the driver's own.

    The driver takes an offer of one on a connection without TLS for an attack. The certificate was checked here.
    """
    secured.sendall(plain.recv(_BLOCK))
    while True:
        kind, size = struct.unpack("!cI", _exactly(secured, 5))
        if not 4 <= size <= _FIRST_ANSWER:
            raise ValueError(size)
        body = without_binding(kind, _exactly(secured, size - 4))
        plain.sendall(struct.pack("!cI", kind, len(body) + 4) + body)
        if kind != b"v":  # NegotiateProtocolVersion, after which the answer comes
            return


def without_binding(kind: bytes, body: bytes) -> bytes:
    """The body of a server's message; of AuthenticationSASL without mechanisms with channel binding."""
    if kind != b"R" or body[:4] != _SASL:
        return body
    kept = [name for name in body[4:].split(b"\0") if name and not name.endswith(b"-PLUS")]
    return _SASL + b"".join(name + b"\0" for name in kept) + b"\0"


def _exactly(secured: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = secured.recv(size - len(found))
        if not part:
            raise ValueError(size)
        found += part
    return found


def _relay(plain: socket.socket, secured: socket.socket) -> None:
    # One thread for both ways: TLS is not to be read and written at once.
    while True:
        waiting = isinstance(secured, ssl.SSLSocket) and secured.pending() > 0
        ready = [secured] if waiting else select.select([plain, secured], [], [])[0]
        for one, other in ((plain, secured), (secured, plain)):
            if one not in ready:
                continue
            part = one.recv(_BLOCK)
            if not part:
                return
            other.sendall(part)
