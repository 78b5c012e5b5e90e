"""A worker that does not keep to question and answer: floods, silence, half frames, second answers, second workers."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from federation.limits import LIMITS
from federation.wire import Kind
from silo.channel import MOST_PAYLOAD, ChannelError, Frame, payload_of, receive, send
from silo.gate import worker_link
from silo.gate.worker_link import WorkerError, WorkerLink, WorkerLostError

from .simulator import INITIAL, METRICS, SECONDS, GateBench, PlayedWorker, failed, prepared, trained

DEADLINE = 0.5


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "worker.sock"


@pytest.fixture
def link(path: Path) -> Iterator[WorkerLink]:
    link = WorkerLink(path)
    yield link
    link.close()


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    connection.connect(str(path))
    return connection


def head_of(**fields: object) -> bytes:
    return framed(json.dumps(fields).encode())


def framed(head: bytes) -> bytes:
    return struct.pack(">I", len(head)) + head


def answers(path: Path, link: WorkerLink, act: Callable[[socket.socket], None]) -> threading.Thread:
    """A worker that, once it is asked, does as it likes with its end of the connection."""
    connection = connected(path)
    send(connection, Frame("hello"))
    link.wait(SECONDS)

    def work() -> None:
        with connection:
            receive(connection)
            try:
                act(connection)
            except OSError:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (struct.pack(">I", 2**32 - 1), "got a frame head of 4294967295 bytes"),
        (head_of(op="trained", payload=MOST_PAYLOAD + 1), "got a frame with payload"),
        (head_of(op="trained", payload=-1), "got a frame with payload -1"),
        (head_of(op="trained", payload=10**300), "got a frame with payload 10000000000000000000,"),
        (head_of(op="trained", payload=True), "got a frame with payload True"),
        (head_of(op=["trained"], payload=0), "got a frame with payload 0"),
        (head_of(op="trained"), "not JSON with op and payload"),
        (framed(b"[" * 100_000), "not JSON"),
        (framed(b'{"op":' * 100_000), "not JSON"),
        (framed(b'{"op": "trained", "payload": 0, "steps": 1, "steps": 2}'), "not JSON"),
        (framed(b'{"op": "trained", "payload": 0, "metrics": {"auc": 0, "auc": 1}}'), "not JSON"),
        (framed(b'{"op": "trained", "payload": 0, "x": ' + b"9" * 5000 + b"}"), "not JSON"),
        (framed(b'{"op": "trained", "payload": 0, "x": "\xff\xfe"}'), "not JSON"),
        (framed(b'{"op": "trained", "payload": 0, "x": "\\ud800"}'), "not JSON"),
        (head_of(op="evaluated", payload=0), "got the answer 'evaluated', expected trained"),
        (head_of(op="\x1b[2J", payload=0), "expected trained"),
    ],
)
def test_what_is_no_answer_to_the_question_ends_the_worker_and_is_not_asked_for_again(
    link: WorkerLink, path: Path, answer: bytes, said: str
) -> None:
    thread = answers(path, link, lambda connection: connection.sendall(answer))
    with pytest.raises(WorkerError, match="went away during train") as raised:
        link.ask(Frame("train"), SECONDS)
    assert said in str(raised.value)
    assert not isinstance(raised.value, WorkerLostError), "a fresh worker would be asked the same"
    assert str(raised.value).isprintable()
    assert link.worker == 0
    thread.join(SECONDS)


def drip(connection: socket.socket, content: bytes) -> None:
    """Send a byte at a time, each long before a patient reader gives up."""
    for byte in content:
        connection.sendall(bytes([byte]))
        time.sleep(DEADLINE / 10)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda connection: drip(connection, b"\0" * 1000), id="a head in drips"),
        pytest.param(
            lambda connection: drip(connection, head_of(op="trained", payload=100)[:4] + b" " * 1000), id="spaces"
        ),
        pytest.param(
            lambda connection: (
                connection.sendall(head_of(op="trained", payload=1000)),
                drip(connection, b"\0" * 1000),
            ),
            id="a payload in drips",
        ),
        pytest.param(lambda connection: connection.recv(1), id="silence"),
    ],
)
def test_no_worker_keeps_the_gate_beyond_the_deadline(
    link: WorkerLink, path: Path, act: Callable[[socket.socket], None]
) -> None:
    thread = answers(path, link, act)
    started = time.monotonic()
    with pytest.raises(WorkerError, match="went away during train"):
        link.ask(Frame("train"), DEADLINE)
    assert time.monotonic() - started < 10 * DEADLINE
    assert link.worker == 0
    thread.join(SECONDS)


def test_a_worker_that_reads_nothing_keeps_the_gate_no_longer(link: WorkerLink, path: Path) -> None:
    with connected(path) as worker:
        send(worker, Frame("hello"))
        link.wait(SECONDS)
        with pytest.raises(WorkerError, match="went away during train"):
            link.ask(Frame("train", {}, bytes(32 * 1024 * 1024)), DEADLINE)
    assert link.worker == 0


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next(link: WorkerLink, path: Path) -> None:
    """Two answers to one question: the second would otherwise be the answer to the next question."""
    worker = PlayedWorker(path, prepare=lambda _: Frame("prepared", {"first": True}))
    link.wait(SECONDS)
    send(worker._connection, Frame("prepared", {"second": True}))
    with pytest.raises(WorkerLostError, match="spoke before it was asked"):
        link.ask(Frame("prepare"), SECONDS)
    assert worker.ended.wait(SECONDS)
    assert link.worker == 0


def test_who_connects_and_is_silent_keeps_no_worker_out(
    path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_link, "HANDSHAKE_SECONDS", 6 * DEADLINE)
    link = WorkerLink(path)
    silent = [connected(path) for _ in range(LIMITS.worker_handshakes - 1)]
    try:
        PlayedWorker(path)
        assert link.wait(SECONDS) == {"network": "simulated"}
        assert link.turned_away == 0, "the worker did not wait for the silent ones to be turned away"
        for connection in silent:
            with pytest.raises(ChannelError, match="closed the connection"):
                receive(connection)
        with link._changed:
            assert link._changed.wait_for(lambda: link.turned_away == len(silent), SECONDS)
    finally:
        link.close()


@pytest.mark.parametrize(
    "hello",
    [
        head_of(op="trained", payload=0),
        head_of(op="hello", payload=1000) + bytes(1000),
        struct.pack(">I", LIMITS.channel_header + 1),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_who_says_no_hello_is_no_worker(link: WorkerLink, path: Path, hello: bytes) -> None:
    PlayedWorker(path)
    link.wait(SECONDS)
    before = link.worker
    with connected(path) as stranger:
        stranger.sendall(hello)
        with pytest.raises(ChannelError):
            receive(stranger)
    assert link.worker == before, "and the worker that is there stays"
    assert link.ask(Frame("evaluate"), SECONDS).op == "evaluated"


def test_a_storm_of_reconnections_leaves_the_last_worker_and_no_threads(link: WorkerLink, path: Path) -> None:
    before = threading.active_count()
    for number in range(50):
        with connected(path) as one:
            send(one, Frame("hello", {"n": number}))
            link.next_hello(number, SECONDS)
    worker = PlayedWorker(path)
    link.next_hello(50, SECONDS)
    assert link.ask(Frame("evaluate"), SECONDS).op == "evaluated"
    worker.close()
    assert threading.active_count() <= before + 1 + LIMITS.worker_handshakes


# -- through the gate


def test_a_second_worker_takes_the_run_over_only_by_a_view_of_its_own(bench: GateBench) -> None:
    first = bench.work(train=lambda frame: trained(frame.weights()))
    bench.admit()
    second = bench.work(prepare=lambda _: prepared(rows=10), train=lambda _: trained(INITIAL + 9))
    assert first.ended.wait(SECONDS)
    answer = bench.round(1)
    assert answer.config["rule"] == "datasets.rows.minimum"
    assert second.asked == ["prepare"]


@pytest.mark.parametrize(
    "answer",
    [
        Frame("evaluated", {"metrics": METRICS}),
        Frame("hello", {}),
        Frame("prepared", prepared().fields),
        Frame("trained", {"metrics": METRICS, "steps": 5, "planned": 5}, bytes(LIMITS.reply_overhead + 100)),
    ],
)
def test_an_answer_of_another_kind_or_size_fails_the_round_and_the_next_worker_serves(
    bench: GateBench, answer: Frame
) -> None:
    bench.work(train=lambda _: answer)
    bench.admit()
    assert "the worker went away during train" in failed(bench.round(1))
    bench.work()
    assert bench.round(1).config["status"] == "ok", "nothing of the round had left"


def test_weights_for_an_evaluation_are_not_read(bench: GateBench) -> None:
    bench.work(evaluate=lambda _: Frame("evaluated", {"metrics": METRICS}, payload_of(INITIAL + 1)))
    bench.admit()
    answer = bench.round(3, kind=Kind.EVALUATE)
    assert (answer.config["status"], answer.weights) == ("ok", None)
