"""The channel between two pods: mutual TLS 1.3 under an authority of the silo's own, over real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trustme

from demo.ports import reserve_port
from federation import identity
from federation.errors import IdentityError, UsageError
from silo import transport
from silo.channel import ChannelError, Frame, payload_of, receive, send
from silo.config import ChannelEnd, WorkerConfig
from silo.gate.worker_link import WorkerError, WorkerLink
from silo.transport import check_key_file, connect_tls

SECONDS = 20.0


class Pki:
    """An authority and the files of one end of a channel."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(directory / "ca.crt"))

    def end(self, name: str, peer: str, address: str, issuer: trustme.CA | None = None) -> ChannelEnd:
        own = self.directory / name
        own.mkdir(exist_ok=True)
        issued = (issuer or self.authority).issue_cert(name)
        issued.private_key_pem.write_to_path(str(own / "tls.key"))
        issued.cert_chain_pems[0].write_to_path(str(own / "tls.crt"))
        (own / "tls.key").chmod(0o600)
        return ChannelEnd(
            address=address,
            certificate=own / "tls.crt",
            key=own / "tls.key",
            authority=self.directory / "ca.crt",
            peer=peer,
        )


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def link(pki: Pki) -> Iterator[WorkerLink]:
    link = WorkerLink(pki.end("gate", "worker", free_address()))
    yield link
    link.close()


def free_address() -> str:
    return f"127.0.0.1:{reserve_port()}"


def address_of(link: WorkerLink) -> str:
    return link._listener.where.removeprefix("address ")


def turned_away(link: WorkerLink, attempt: Callable[[], object]) -> None:
    """Whoever tries this is not taken for the worker; TLS 1.3 may tell the client so only when it reads."""
    before = link.turned_away
    with pytest.raises((OSError, ChannelError)):
        attempt()
    with link._changed:
        assert link._changed.wait_for(lambda: link.turned_away > before, SECONDS), "it was not turned away"
    assert link.worker == 0


def greet(end: ChannelEnd) -> None:
    with connect_tls(end) as connection:
        connection.settimeout(SECONDS)
        send(connection, Frame("hello", {}))
        receive(connection)


def test_a_worker_with_its_certificate_is_asked_and_answers(link: WorkerLink, pki: Pki) -> None:
    weights = np.arange(300_000, dtype=np.float32)
    with connect_tls(pki.end("worker", "gate", address_of(link))) as worker:
        assert worker.version() == "TLSv1.3"
        send(worker, Frame("hello", {"network": "as told"}))
        assert link.wait(SECONDS) == {"network": "as told"}

        def work() -> None:
            asked = receive(worker)
            send(worker, Frame("trained", {}, payload_of(asked.weights() * 2)))

        thread = threading.Thread(target=work)
        thread.start()
        answer = link.ask(Frame("train", {}, payload_of(weights)), SECONDS)
        thread.join()
    np.testing.assert_array_equal(answer.weights(), weights * 2)


def test_the_gate_says_nothing_unasked_after_the_handshake(link: WorkerLink, pki: Pki) -> None:
    """A byte from the gate ends a trainer at work, so not even a session ticket may come."""
    with connect_tls(pki.end("worker", "gate", address_of(link))) as worker:
        send(worker, Frame("hello", {}))
        link.wait(SECONDS)
        worker.settimeout(0.2)
        with pytest.raises(TimeoutError):
            worker.recv(1)


def test_a_certificate_of_another_authority_is_turned_away(link: WorkerLink, pki: Pki) -> None:
    end = pki.end("worker", "gate", address_of(link), issuer=trustme.CA())
    turned_away(link, lambda: greet(end))


def test_another_name_under_the_same_authority_is_turned_away(link: WorkerLink, pki: Pki) -> None:
    end = pki.end("someone", "gate", address_of(link))
    turned_away(link, lambda: greet(end))


def test_the_gates_own_certificate_does_not_pass_for_the_workers(link: WorkerLink, pki: Pki) -> None:
    own = pki.end("gate", "worker", address_of(link)).model_copy(update={"peer": "gate"})
    turned_away(link, lambda: greet(own))


def test_no_certificate_and_no_tls_are_turned_away(link: WorkerLink, pki: Pki) -> None:
    host, _, port = address_of(link).partition(":")

    def without_certificate() -> None:
        context = ssl.create_default_context(cafile=str(pki.directory / "ca.crt"))
        with (
            socket.create_connection((host, int(port)), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="gate") as tls,
        ):
            send(tls, Frame("hello", {}))
            receive(tls)

    def without_tls() -> None:
        with socket.create_connection((host, int(port)), SECONDS) as plain:
            send(plain, Frame("hello", {}))
            receive(plain)

    turned_away(link, without_certificate)
    turned_away(link, without_tls)


def test_older_tls_is_turned_away(link: WorkerLink, pki: Pki) -> None:
    end = pki.end("worker", "gate", address_of(link))
    context = ssl.create_default_context(cafile=str(end.authority))
    context.load_cert_chain(end.certificate, end.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = address_of(link).partition(":")

    def try_it() -> None:
        with socket.create_connection((host, int(port)), SECONDS) as plain:
            context.wrap_socket(plain, server_hostname="gate")

    turned_away(link, try_it)


def test_a_worker_does_not_talk_to_another_server(pki: Pki) -> None:
    stranger = WorkerLink(pki.end("stranger", "worker", free_address()))
    try:
        with pytest.raises(ssl.SSLCertVerificationError, match="'gate'"):
            connect_tls(pki.end("worker", "gate", address_of(stranger)))
    finally:
        stranger.close()


def test_a_worker_that_cannot_trust_its_gate_says_so_once_and_goes_on_when_it_can(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SLOW_RETRY_SECONDS", 0.0)
    address, stranger = free_address(), trustme.CA()
    link = WorkerLink(pki.end("gate", "worker", address, issuer=stranger))
    config = WorkerConfig.model_validate(
        {
            "apiVersion": "concordat/v1",
            "kind": "Worker",
            "silo": "hospital-a",
            "connect": pki.end("worker", "gate", address),
            "scratch": Path("s"),
            "datasets": {"heart": {"format": "csv", "path": Path("t.csv")}},
        }
    )
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        pki.end("gate", "worker", address)  # a certificate of the right authority takes the place of the wrong one

    try:
        with transport.connect(config, say) as connection:
            send(connection, Frame("hello", {"network": "here"}))
            assert link.wait(SECONDS) == {"network": "here"}
    finally:
        link.close()
    (sentence,) = said
    assert sentence.startswith("the gate cannot be trusted or does not trust this worker: ")


def test_a_renewed_certificate_is_used_from_the_next_connection_on(link: WorkerLink, pki: Pki) -> None:
    worker = pki.end("worker", "gate", address_of(link))
    with connect_tls(worker) as connection:
        first = connection.getpeercert(binary_form=True)
    pki.end("gate", "worker", address_of(link))
    with connect_tls(worker) as connection:
        assert connection.getpeercert(binary_form=True) != first


def test_silent_strangers_do_not_keep_the_worker_out(link: WorkerLink, pki: Pki) -> None:
    host, _, port = address_of(link).partition(":")
    strangers = [socket.create_connection((host, int(port)), SECONDS) for _ in range(3)]
    try:
        with connect_tls(pki.end("worker", "gate", address_of(link))) as worker:
            send(worker, Frame("hello", {"network": "here"}))
            assert link.wait(SECONDS) == {"network": "here"}
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_worker_that_hangs_up_is_noticed(link: WorkerLink, pki: Pki) -> None:
    worker = connect_tls(pki.end("worker", "gate", address_of(link)))
    send(worker, Frame("hello", {}))
    link.wait(SECONDS)
    worker.close()
    with pytest.raises(WorkerError, match="went away during train"):
        link.ask(Frame("train"), SECONDS)


def test_an_interrupted_gate_stops_waiting_for_an_answer(link: WorkerLink, pki: Pki) -> None:
    with connect_tls(pki.end("worker", "gate", address_of(link))) as worker:
        send(worker, Frame("hello", {}))
        link.wait(SECONDS)
        outcome: list[Exception] = []

        def ask() -> None:
            try:
                link.ask(Frame("train"), SECONDS)
            except WorkerError as error:
                outcome.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert receive(worker).op == "train"
        link.interrupt()
        thread.join(SECONDS)
        assert [type(error) for error in outcome] == [WorkerError]


def test_a_port_that_is_taken_is_one_sentence(link: WorkerLink, pki: Pki) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1:\d+ for the worker: Address already in use"):
        WorkerLink(pki.end("gate", "worker", address_of(link)))


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "accepted"),
    [
        (0o600, 1000, 1000, True),
        (0o400, 1000, 1000, True),
        (0o440, 0, 65532, True),  # a Secret in a pod: root's, read through the pod's group
        (0o440, 0, 0, False),
        (0o440, 1000, 1000, False),
        (0o640, 0, 65532, False),
        (0o660, 0, 65532, False),
        (0o444, 0, 65532, False),
        (0o604, 1000, 1000, False),
    ],
)
def test_a_key_that_others_can_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, reader: int, accepted: bool
) -> None:
    monkeypatch.setattr(identity.os, "geteuid", lambda: reader)
    path = SimpleNamespace(stat=lambda: SimpleNamespace(st_mode=0o100000 | mode, st_uid=owner))
    if accepted:
        check_key_file(path)  # type: ignore[arg-type]
    else:
        with pytest.raises(IdentityError, match=f"has mode {mode:04o}, expected 0600"):
            check_key_file(path)  # type: ignore[arg-type]
