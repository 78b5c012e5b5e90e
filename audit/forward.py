"""Entries sent to a syslog collector: RFC 5424 messages over TLS with the framing of RFC 5425."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import socket
import ssl
import stat
import struct
import termios
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import AuditError, VerificationError
from audit.follow import Follower
from audit.limits import LIMITS
from audit.merkle import Frontier
from audit.query import SelectionError
from audit.snapshot import Entry, take
from audit.store import replace_file
from audit.verify import VerificationFailure, read_plain

FACILITY = 13  # log audit, RFC 5424 section 6.2.1
_SEVERITY = {"allow": 6, "record": 6, "deny": 4}  # informational, warning
_BOM = b"\xef\xbb\xbf"
BATCH = 256  # entries between two waits for the collector's machine
CONNECT_SECONDS = 10.0
RECEIVED_SECONDS = 30.0
POLL_SECONDS = 0.25
GRACE_SECONDS = 5.0
RETRY_SECONDS = (1, 2, 5, 10, 30)


class ForwardError(AuditError):
    """The collector cannot be reached, or is not the one whose certificate is trusted."""


@dataclass(frozen=True)
class Target:
    """A collector and the TLS context it is spoken to with."""

    host: str
    port: int
    context: ssl.SSLContext

    @classmethod
    def parse(cls, address: str, ca: str, certificate: str | None = None) -> Target:
        """Read `HOST:PORT`, the trusted certificates and our own; SelectionError or ForwardError."""
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]{1,253})):([0-9]{1,5})", address)
        if match is None or not 0 < int(match[3]) < 65536:
            raise SelectionError(f"got --to {address[:100]!r}, expected HOST:PORT, such as logs.example.org:6514")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # which RFC 5425 collectors must speak
        for file in (ca, certificate):
            # From a pipe into which nobody writes TLS would read for ever.
            if file is not None and not stat.S_ISREG(Path(file).stat().st_mode):
                raise ForwardError(f"{file} is no regular file, expected one in PEM")
        try:
            context.load_verify_locations(ca)
            if certificate is not None:
                if stat.S_IMODE(Path(certificate).stat().st_mode) & 0o077:
                    raise ForwardError(f"others may read {certificate}, which holds a key: run chmod 600 {certificate}")
                context.load_cert_chain(certificate)
        except ssl.SSLError as error:
            raise ForwardError(f"{ca if certificate is None else certificate} holds no usable PEM: {error}") from error
        return cls(match[1] or match[2], int(match[3]), context)

    def connect(self) -> ssl.SSLSocket:
        """A connection whose other end proved to be the host; ForwardError."""
        try:
            plain = socket.create_connection((self.host, self.port), timeout=CONNECT_SECONDS)
        except OSError as error:
            raise ForwardError(f"{self.host}:{self.port} does not answer: {error.strerror or error}") from error
        try:
            return self.context.wrap_socket(plain, server_hostname=self.host)
        except (ssl.SSLError, OSError) as error:
            plain.close()
            raise ForwardError(f"{self.host}:{self.port} is not trusted: {error}") from error


def message(entry: Entry, origin: str) -> bytes:
    """An entry as an RFC 5424 message: its line as it stands is the text, so that a collector can hash it."""
    fields = entry.fields
    priority = FACILITY * 8 + _SEVERITY[fields["decision"]]
    host = re.sub(r"[^!-~]", "-", origin)[:255]
    kind = re.sub(r"[^!-~]", "-", str(fields["action"]))[:32]
    sequence = entry.seq % (2**31 - 1) + 1
    head = f'<{priority}>1 {fields["time"]} {host} concordat - {kind} [meta sequenceId="{sequence}"] '
    return head.encode("ascii") + _BOM + entry.line


def frame(text: bytes) -> bytes:
    """A message as it goes over TLS: its length, a space, itself (RFC 5425 section 4.3)."""
    return b"%d %b" % (len(text), text)


def encode_cursor(vkey: str, tree: Frontier) -> bytes:
    """How far a collector has got: the tree over all that it received."""
    value = {"schema": "concordat/forward-cursor/v1", "vkey": vkey, "size": tree.size}
    peaks = [peak.hex() for peak in tree.peaks]
    return json.dumps({**value, "peaks": peaks}, sort_keys=True).encode() + b"\n"


def decode_cursor(data: bytes, vkey: str) -> Frontier:
    """The tree of a cursor of this log; VerificationError for anything else."""
    try:
        value: Any = json.loads(data) if len(data) <= LIMITS.cursor else None
        if value["schema"] != "concordat/forward-cursor/v1" or type(value["size"]) is not int:
            raise ValueError("another schema")
        peaks = [bytes.fromhex(peak) for peak in value["peaks"]]
        if not 0 <= value["size"] <= LIMITS.tree_size or any(len(peak) != 32 for peak in peaks):
            raise ValueError("impossible size or hashes")
        tree, owner = Frontier(value["size"], peaks), value["vkey"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise VerificationError(f"the cursor is damaged ({error}): delete it to send everything again") from error
    if owner != vkey:
        raise VerificationError(f"the cursor is of the log of {str(owner)[:200]}, this is {vkey}: use one for each log")
    return tree


class Forwarder:
    """Sends one log to one collector, from where its cursor stands."""

    def __init__(
        self, directory: str | os.PathLike[str], target: Target, cursor: Path, keys: Sequence[str] = ()
    ) -> None:
        snapshot = take(directory, keys)
        self._target, self._cursor, self._vkey, self._directory = target, cursor, snapshot.vkey, directory
        self._origin = snapshot.origin
        self._name = f"{target.host}:{target.port}"
        self._tree = self._load()
        self._marks: deque[tuple[float, Frontier]] = deque()  # what was acknowledged, and when

    def run(self, *, once: bool = False, say: Callable[[str], None] = lambda _: None) -> int:
        """Send until interrupted, or with `once` all that is there; returns how many entries were sent.

        A broken connection is opened again after a pause, with `once` it is a ForwardError. VerificationError where
        the log does not verify, or does not continue what was sent before.
        """
        sent, failures = 0, 0
        while True:
            try:
                with self._target.connect() as link:
                    say(f"connected to {self._name}; {self._tree.size} entries were received")
                    follower, self._marks = Follower(self._directory, self._vkey, self._tree.copy()), deque()
                    while True:
                        sent += self._send(link, follower)
                        failures = 0
                        if once:
                            self._part(link)
                            self._confirm(follower.tree)
                            return sent
                        if _is_closed(link, POLL_SECONDS):
                            raise ForwardError(f"{self._name} closed the connection")
            except (ForwardError, OSError) as error:
                if once:
                    raise ForwardError(f"{error}; {self._tree.size} entries were received") from error
                pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                say(f"{error}; trying again in {pause} s")
                time.sleep(pause)

    def _send(self, link: ssl.SSLSocket, follower: Follower) -> int:
        count = 0
        for entry in follower.poll():
            link.sendall(frame(message(entry, self._origin)))
            count += 1
            if count % BATCH == 0:
                self._drain(link)
                self._mark(follower.tree)
        if count % BATCH:
            self._drain(link)
            self._mark(follower.tree)
        self._mark(None)
        return count

    def _drain(self, link: ssl.SSLSocket) -> None:
        """Wait until the collector's machine has acknowledged every byte."""
        deadline, ended = time.monotonic() + RECEIVED_SECONDS, select.poll()
        ended.register(link, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        waiting = 1
        while waiting:
            (waiting,) = struct.unpack("i", fcntl.ioctl(link.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
            if ended.poll(2 if waiting else 0):
                raise ForwardError(f"{self._name} closed the connection")
            if time.monotonic() > deadline:
                raise ForwardError(f"{self._name} takes nothing more")

    def _mark(self, tree: Frontier | None) -> None:
        """Note what was acknowledged just now, and move the cursor over what was so long ago.

        What a machine has acknowledged its collector may not have read yet, and it is lost where the collector
        ends before. A connection that ends tells so soon: what is older than GRACE_SECONDS then was read.
        """
        now = time.monotonic()
        if tree is not None:
            self._marks.append((now, tree.copy()))
        reached = None
        while self._marks and now - self._marks[0][0] >= GRACE_SECONDS:
            reached = self._marks.popleft()[1]
        if reached is not None:
            self._confirm(reached)

    def _part(self, link: ssl.SSLSocket) -> None:
        """Close in order. A collector that answers, or ends without a reset, has read all that was sent."""
        try:
            link.unwrap()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return
        except OSError as error:
            if error.errno:  # Python reports an end without an answer as an error of number 0
                raise ForwardError(f"{self._name} did not read to the end: {error.strerror or error}") from error

    def _confirm(self, tree: Frontier) -> None:
        """Move the cursor, durably."""
        if tree.size != self._tree.size:
            replace_file(self._cursor, encode_cursor(self._vkey, tree), mode=0o600)
            self._tree = tree.copy()

    def _load(self) -> Frontier:
        try:
            return decode_cursor(read_plain(self._cursor, LIMITS.cursor), self._vkey)
        except FileNotFoundError:
            return Frontier()
        except VerificationFailure as failure:  # a pipe or a link in a log's directory, which somebody else made
            raise VerificationError(str(failure)) from None


def _is_closed(link: ssl.SSLSocket, seconds: float) -> bool:
    """Whether the collector closed the connection within that time. It sends nothing else that matters here."""
    if not select.select([link], [], [], seconds)[0]:
        return False
    waits = link.gettimeout()
    link.setblocking(False)
    try:
        return not link.recv(4096)
    except ssl.SSLWantReadError:  # a session ticket
        return False
    finally:
        link.settimeout(waits)
