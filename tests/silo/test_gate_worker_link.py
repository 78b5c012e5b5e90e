"""The gate's end of the channel, over real sockets."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from silo.channel import ChannelError, Frame, receive, send
from silo.gate.worker_link import WorkerError, WorkerLink
from silo.transport import peer_uid

from .simulator import SECONDS, PlayedWorker

T = TypeVar("T")
NOBODY = 65534


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "worker.sock"


@pytest.fixture
def link(path: Path) -> Iterator[WorkerLink]:
    link = WorkerLink(path)
    yield link
    link.close()


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(SECONDS)
    connection.connect(str(path))
    return connection


def _closed(connection: socket.socket) -> bool:
    """Whether the other end closes; waits for it."""
    try:
        receive(connection)
    except ChannelError:
        return True
    return False


def test_without_a_worker_the_error_says_what_to_start(link: WorkerLink, path: Path) -> None:
    with pytest.raises(WorkerError, match=f"no worker is connected; start it: concordat silo worker, socket {path}"):
        link.wait(timeout=0)
    with pytest.raises(WorkerError, match="no worker is connected"):
        link.ask(Frame("initial"), 30.0)
    assert link.worker == 0
    assert link.next_hello(0, timeout=0) == (None, 0)


def test_the_socket_is_for_its_owner_alone(link: WorkerLink, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_directory_made_for_the_socket_is_private(short_path: Path) -> None:
    link = WorkerLink(short_path / "run" / "worker.sock")
    try:
        assert (short_path / "run").stat().st_mode & 0o777 == 0o700
    finally:
        link.close()


def test_a_stale_socket_is_replaced_and_the_own_one_removed(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    link = WorkerLink(path)
    worker = PlayedWorker(path)
    assert link.wait(SECONDS) == {"network": "simulated"}
    link.close()
    assert worker.ended.wait(SECONDS)
    assert not path.exists()


def test_closing_ends_the_listening_thread(path: Path) -> None:
    before = set(threading.enumerate())
    link = WorkerLink(path)
    (thread,) = set(threading.enumerate()) - before
    with _connect(path) as worker:
        send(worker, Frame("hello"))
        link.wait(SECONDS)  # the thread has served one worker and listens for the next
        link.close()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_ask_brings_the_workers_answer(link: WorkerLink, path: Path) -> None:
    worker = PlayedWorker(path, evaluate=lambda frame: Frame("evaluated", {"n": len(frame.payload)}, b"back"))
    assert link.wait(SECONDS)["network"] == "simulated"
    answer = link.ask(Frame("evaluate", {"round": 2}, b"weights!"), 30.0)
    assert (answer.op, answer.fields, bytes(answer.payload)) == ("evaluated", {"n": 8}, b"back")
    assert worker.frames[0].fields == {"round": 2}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"message": "the file of the data source is missing"}, "^the file of the data source is missing$"),
        ({"message": "x" * 5000}, "^x{1000}$"),
        ({}, "^the worker failed$"),
    ],
)
def test_the_workers_own_sentence_is_the_error_and_the_worker_stays(
    link: WorkerLink, path: Path, fields: dict[str, str], said: str
) -> None:
    PlayedWorker(path, prepare=lambda _: Frame("error", fields))
    link.wait(SECONDS)
    with pytest.raises(WorkerError, match=said):
        link.ask(Frame("prepare"), 30.0)
    assert link.ask(Frame("evaluate", {}, b"1234"), 30.0).op == "evaluated"


def _say_hello_as(user: int, path: Path) -> str:
    """Connect and say hello as another user; whether the gate let that user in or turned it away."""
    if os.getuid() != 0 or (switch := shutil.which("setpriv")) is None:
        pytest.skip("needs root and setpriv(1), to become another user")
    python = shutil.which("python3", path="/usr/bin:/bin") or pytest.skip(
        "needs root and a python3 that every user may run"
    )
    command = [switch, f"--reuid={user}", f"--regid={user}", "--clear-groups", python, "-I", "-c", HELLO, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        return child.stdout.readline().strip()


HELLO = """
import socket, sys
head = b'{"op":"hello","payload":0}'
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
try:
    s.connect(sys.argv[1])
    s.sendall(len(head).to_bytes(4, "big") + head)
    print("turned away" if s.recv(4) == b"" else "asked", flush=True)
except (BrokenPipeError, ConnectionResetError):
    print("turned away", flush=True)
"""


def test_another_user_is_turned_away(link: WorkerLink, path: Path) -> None:
    path.chmod(0o666)  # even where the file's mode would let it in
    assert _say_hello_as(NOBODY, path) == "turned away"
    assert link.next_hello(0, timeout=0) == (None, 0)
    PlayedWorker(path)
    assert link.wait(SECONDS)


def test_the_mode_of_the_socket_keeps_another_user_out(link: WorkerLink, path: Path) -> None:
    assert _say_hello_as(NOBODY, path) == ""  # PermissionError at connect


def test_a_worker_of_its_own_user_is_let_in_and_no_third_one(path: Path) -> None:
    link = WorkerLink(path, worker_uid=NOBODY)
    try:
        assert _say_hello_as(NOBODY - 1, path) == "turned away"
        with ThreadPoolExecutor(1) as pool:
            saying = pool.submit(_say_hello_as, NOBODY, path)
            link.wait(SECONDS)
            with pytest.raises(WorkerError, match="went away"):
                link.ask(Frame("initial"), 30.0)
            assert saying.result(SECONDS) == "asked"
    finally:
        link.close()


def test_the_kernel_names_the_peers_user() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert peer_uid(left) == os.getuid()


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_stranger_who_does_not_say_hello_changes_nothing(link: WorkerLink, path: Path, data: bytes) -> None:
    with _connect(path) as stranger:
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        assert _closed(stranger)
    assert link.worker == 0
    PlayedWorker(path)
    assert link.wait(SECONDS)["network"] == "simulated"
    assert link.worker == 1


def test_a_worker_that_dies_while_idle_is_noticed(link: WorkerLink, path: Path) -> None:
    with _connect(path) as worker:
        send(worker, Frame("hello", {"n": 1}))
        assert link.wait(SECONDS) == {"n": 1}
    with pytest.raises(WorkerError, match="no worker is connected"):
        link.wait(timeout=0)
    PlayedWorker(path)
    assert link.wait(SECONDS) == {"network": "simulated"}
    assert link.worker == 2


def test_asking_a_worker_that_died_while_idle_is_an_error(link: WorkerLink, path: Path) -> None:
    with _connect(path) as worker:
        send(worker, Frame("hello"))
        link.wait(SECONDS)
    with pytest.raises(WorkerError, match="went away during train"):
        link.ask(Frame("train", {}, b"1234"), 30.0)
    assert link.worker == 0


def test_a_worker_that_dies_while_it_works_is_an_error_and_a_fresh_one_serves(link: WorkerLink, path: Path) -> None:
    PlayedWorker(path, train=lambda _: None)
    link.wait(SECONDS)
    with pytest.raises(WorkerError, match="the worker went away during train: the other end closed"):
        link.ask(Frame("train"), 30.0)
    with pytest.raises(WorkerError, match="no worker is connected"):
        link.ask(Frame("train"), 30.0)
    PlayedWorker(path)
    link.wait(SECONDS)
    assert link.ask(Frame("evaluate", {}, b"1234"), 30.0).op == "evaluated"


def test_an_answer_that_is_no_frame_ends_the_worker(link: WorkerLink, path: Path) -> None:
    with _connect(path) as worker, ThreadPoolExecutor(1) as pool:
        send(worker, Frame("hello"))
        link.wait(SECONDS)

        def answer() -> None:
            receive(worker)
            worker.sendall(struct.pack(">I", 100_000) + b"[" * 100_000)

        answering = pool.submit(answer)
        with pytest.raises(WorkerError, match="went away during initial: got a frame head"):
            link.ask(Frame("initial"), 30.0)
        answering.result(SECONDS)
    assert link.worker == 0


def test_a_dropped_worker_is_let_go_and_a_fresh_one_is_another(link: WorkerLink, path: Path) -> None:
    first = PlayedWorker(path)
    link.wait(SECONDS)
    assert link.worker == 1
    link.drop()
    assert first.ended.wait(SECONDS)
    assert link.worker == 0
    link.drop()  # nothing is there: nothing happens
    PlayedWorker(path)
    link.wait(SECONDS)
    assert link.worker == 2


def test_the_newest_worker_replaces_the_one_before(link: WorkerLink, path: Path) -> None:
    first = PlayedWorker(path)
    link.wait(SECONDS)
    second = PlayedWorker(path)
    assert first.ended.wait(SECONDS)
    assert link.wait(SECONDS)
    link.ask(Frame("evaluate", {}, b"1234"), 30.0)
    assert (first.asked, second.asked) == ([], ["evaluate"])


def test_each_worker_is_announced_once(link: WorkerLink, path: Path) -> None:
    with _connect(path) as first:
        send(first, Frame("hello", {"n": 1}))
        assert link.next_hello(0, SECONDS) == ({"n": 1}, 1)
        assert link.next_hello(1, timeout=0) == (None, 1)
        with _connect(path) as second:
            send(second, Frame("hello", {"n": 2}))
            assert link.next_hello(1, SECONDS) == ({"n": 2}, 2)


def test_wait_returns_when_a_worker_comes(link: WorkerLink, path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(link.wait, SECONDS)
        PlayedWorker(path)
        assert waiting.result(SECONDS) == {"network": "simulated"}


def test_interrupt_wakes_who_waits_for_an_answer(link: WorkerLink, path: Path) -> None:
    asked = threading.Event()
    let_go = threading.Event()

    def slow(_: Frame) -> None:
        asked.set()
        let_go.wait(SECONDS)

    worker = PlayedWorker(path, train=slow)
    link.wait(SECONDS)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(link.ask, Frame("train"), 30.0)
        assert asked.wait(SECONDS)
        link.interrupt()
        with pytest.raises(WorkerError, match="went away during train"):
            asking.result(SECONDS)
    let_go.set()
    assert worker.ended.wait(SECONDS)


def test_interrupt_wakes_who_waits_for_a_worker(link: WorkerLink) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(link.wait, 10 * SECONDS)
        link.interrupt()
        with pytest.raises(WorkerError, match="no worker is connected"):
            waiting.result(SECONDS)


def test_a_worker_that_is_late_is_dropped(link: WorkerLink, path: Path) -> None:
    let_go = threading.Event()
    worker = PlayedWorker(path, train=lambda _: let_go.wait(SECONDS))
    link.wait(SECONDS)
    with pytest.raises(WorkerError, match="went away during train"):
        link.ask(Frame("train"), 0.2)
    assert link.worker == 0
    let_go.set()
    assert worker.ended.wait(SECONDS)
