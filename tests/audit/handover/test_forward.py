"""Forwarding against a TLS collector of our own, which reads RFC 5425 frames and can hang up when a test says so."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from audit import forward
from audit.entry import Event
from audit.errors import AuditError, VerificationError
from audit.forward import Forwarder, ForwardError, Target, decode_cursor, encode_cursor
from audit.log import AuditLog
from audit.merkle import Frontier, leaf_hash
from audit.query import SelectionError
from audit.snapshot import take

from .conftest import FEDERATION, Party, key_of

RFC5424 = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) ([!-~]{1,48}) (-|[!-~]{1,128})"
    rb' ([!-~]{1,32}) \[meta sequenceId="([1-9]\d*)"\] \xef\xbb\xbf(.*)',
    re.DOTALL,
)


class InterruptedByTestError(Exception):
    pass


class Collector:
    """Keeps every message it receives; `hang_up_after` makes it close a connection after so many."""

    def __init__(self, certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        if clients is not None:
            clients.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"localhost:{self._listener.getsockname()[1]}"
        self.received: queue.Queue[bytes] = queue.Queue()
        self.hang_up_after: queue.Queue[int] = queue.Queue()
        self._link = self._listener
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def take(self, count: int) -> list[bytes]:
        return [self.received.get(timeout=60) for _ in range(count)]

    def close(self) -> None:
        """Hang up and listen no more; a second call does nothing."""
        for end in (self._listener, self._link):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            limit = self.hang_up_after.get_nowait() if not self.hang_up_after.empty() else 10**9
            self._link = plain.dup()  # so that `close` can hang up whatever TLS does with the other
            try:
                with self._context.wrap_socket(plain, server_side=True) as link, link.makefile("rb") as stream:
                    for _ in range(limit):
                        length = b"".join(iter(lambda: stream.read(1), b" ")) if stream.peek(1) else b""
                        if not length:
                            break
                        self.received.put(stream.read(int(length)))
            except OSError:
                continue
            finally:
                with contextlib.suppress(OSError):
                    self._link.shutdown(socket.SHUT_RDWR)
                self._link.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def collector(authority: trustme.CA) -> Iterator[Collector]:
    collector = Collector(authority.issue_cert("localhost"))
    yield collector
    collector.close()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


def forwarder(party: Party, address: str, ca: str, cursor: Path) -> Forwarder:
    return Forwarder(party.directory, Target.parse(address, ca), cursor, [party.vkey])


def reopen(party: Party) -> AuditLog:
    return AuditLog.open(party.directory, origin=f"{FEDERATION}/{party.role}/{party.name}", key=key_of(party.name))


def test_messages_are_those_of_the_rfc_and_carry_the_entries(parties, collector, ca, tmp_path):
    assert forwarder(parties[1], collector.address, ca, tmp_path / "cursor").run(once=True) == 13
    entries = list(take(parties[1].directory).entries())
    for entry, message in zip(entries, collector.take(13), strict=True):
        match = RFC5424.fullmatch(message)
        assert (int(match[7]), match[8]) == (entry.seq + 1, entry.line)
        assert (match[2].decode(), match[3].decode()) == (entry.fields["time"], "heart.example/silo/north")
        assert int(match[1]) == 13 * 8 + (4 if entry.fields["decision"] == "deny" else 6)
        assert match[6].decode() == entry.fields["action"]


def test_it_resumes_from_its_cursor(parties, collector, ca, tmp_path):
    assert forwarder(parties[0], collector.address, ca, tmp_path / "cursor").run(once=True) == 10
    assert forwarder(parties[0], collector.address, ca, tmp_path / "cursor").run(once=True) == 0
    with reopen(parties[0]) as log:
        log.append(Event("hub", "run.note", "run/x"))
    assert forwarder(parties[0], collector.address, ca, tmp_path / "cursor").run(once=True) == 1
    assert [json.loads(RFC5424.fullmatch(item)[8])["seq"] for item in collector.take(11)] == list(range(11))
    assert (tmp_path / "cursor").stat().st_mode & 0o777 == 0o600


def test_each_entry_arrives_at_least_once_over_broken_connections(parties, collector, ca, tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "BATCH", 2)
    monkeypatch.setattr(forward, "RETRY_SECONDS", (0.01,))
    for count in (1, 3, 2, 5):
        collector.hang_up_after.put(count)
    said: list[str] = []
    over = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if over.is_set():
            raise InterruptedByTestError

    def follow() -> None:
        with contextlib.suppress(InterruptedByTestError):
            forwarder(parties[1], collector.address, ca, tmp_path / "cursor").run(say=say)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    arrived: set[int] = set()
    while len(arrived) < 13:
        arrived.add(json.loads(RFC5424.fullmatch(collector.take(1)[0])[8])["seq"])
    assert arrived == set(range(13))
    assert sum(text.startswith("connected") for text in said) == 5
    over.set()
    collector.close()
    thread.join(60)
    assert not thread.is_alive()


def test_a_collector_that_is_not_trusted_gets_nothing(parties, collector, tmp_path):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(ForwardError, match=r"not trusted.*CERTIFICATE_VERIFY_FAILED"):
        forwarder(parties[0], collector.address, str(tmp_path / "other.pem"), tmp_path / "cursor").run(once=True)
    assert collector.received.empty()
    assert not (tmp_path / "cursor").exists()


def test_a_collector_with_another_name_gets_nothing(parties, collector, ca, tmp_path):
    address = collector.address.replace("localhost", "127.0.0.1")
    with pytest.raises(ForwardError, match="not trusted"):
        forwarder(parties[0], address, ca, tmp_path / "cursor").run(once=True)
    assert collector.received.empty()


def test_a_collector_that_asks_for_it_is_shown_our_certificate(parties, authority, ca, tmp_path):
    own = tmp_path / "own.pem"
    authority.issue_cert("gate.example").private_key_and_cert_chain_pem.write_to_path(str(own))
    asking = Collector(authority.issue_cert("localhost"), clients=authority)
    own.chmod(0o644)
    with pytest.raises(ForwardError, match="run chmod 600"):
        Target.parse(asking.address, ca, str(own))
    own.chmod(0o600)
    target = Target.parse(asking.address, ca, str(own))
    assert Forwarder(parties[0].directory, target, tmp_path / "cursor").run(once=True) == 10
    assert len(asking.take(10)) == 10
    asking.close()


def test_nothing_is_sent_of_a_log_that_does_not_continue_what_was_sent(parties, collector, ca, tmp_path):
    import shutil

    old = Party("hub", "coordinator", shutil.copytree(parties[0].directory, tmp_path / "old"), parties[0].vkey)
    with reopen(parties[0]) as log:
        log.append(Event("hub", "run.note", "run/x"))
    forwarder(parties[0], collector.address, ca, tmp_path / "cursor").run(once=True)
    with pytest.raises(VerificationError, match="it was set back"):
        forwarder(old, collector.address, ca, tmp_path / "cursor").run(once=True)
    with pytest.raises(VerificationError, match="use one for each log"):
        forwarder(parties[1], collector.address, ca, tmp_path / "cursor").run(once=True)
    assert len(collector.take(11)) == 11
    assert collector.received.empty()


def test_a_cursor_is_read_back():
    tree = Frontier()
    for n in range(11):
        tree.append(leaf_hash(b"%d" % n))
        again = decode_cursor(encode_cursor("a+b+c", tree), "a+b+c")
        assert (again.size, again.root()) == (tree.size, tree.root())


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["schema", "size", "peaks", "vkey"]), x)).map(lambda x: json.dumps(x).encode()))  # fmt: skip  # noqa: E501
def test_a_damaged_cursor_is_one_kind_of_error(data: bytes):
    with pytest.raises(VerificationError):
        decode_cursor(data, "a+b+c")


@given(st.text(max_size=40))
def test_an_address_is_read_or_refused(text: str):
    try:
        Target.parse(text, "/absent")
    except (AuditError, OSError):
        return
    raise AssertionError(text)


def test_an_address_needs_host_and_port(ca: str):
    for address in ("logs.example.org", "logs.example.org:", ":6514", "a b:1", "x:0", "x:99999", "http://x:1"):
        with pytest.raises(SelectionError, match="expected HOST:PORT"):
            Target.parse(address, ca)
    assert (Target.parse("[::1]:6514", ca).host, Target.parse("x:6514", ca).port) == ("::1", 6514)


@pytest.mark.federation
def test_the_command_forwards_what_is_there(parties, collector, ca, tmp_path):
    command = [sys.executable, "-m", "federation", "audit", "forward", str(parties[1].directory)]
    command += ["--to", collector.address, "--ca", ca, "--once", "--key", parties[1].vkey]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 entries were received" in done.stderr
    assert len(collector.take(13)) == 13
    assert (parties[1].directory / "forward.cursor").exists()
