"""The gate's end of the channel: accepts the worker's connection and asks it for work."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from federation.crowd import Crowd, network_of
from federation.errors import ConcordatError
from federation.limits import LIMITS
from silo.channel import ANSWERS, MOST_PAYLOAD, ChannelError, Frame, NoFrameError, receive, send
from silo.config import ChannelEnd
from silo.transport import HANDSHAKE_SECONDS, Listener, NotAWorkerError, TlsListener, UnixListener, hang_up

CONNECT_SECONDS = 90.0


class WorkerError(ConcordatError):
    """The worker is not there, went away, or says that it could not do what was asked."""


class WorkerLostError(WorkerError):
    """The worker ended before its time was over; a fresh one can do the same work."""


class WorkerLink:
    """Listens for the worker, checks who connects, and keeps the newest worker."""

    def __init__(self, where: Path | ChannelEnd, worker_uid: int | None = None) -> None:
        self._listener: Listener = UnixListener(where, worker_uid) if isinstance(where, Path) else TlsListener(where)
        self._waiting: Crowd[socket.socket] = Crowd(LIMITS.worker_handshakes, LIMITS.worker_handshakes)
        self.turned_away = 0
        """How many connections were not a worker's."""
        self._closing = False
        self._changed = threading.Condition()
        self._connection: socket.socket | None = None
        self.hello: dict[str, Any] = {}
        self._workers = 0
        self._thread = threading.Thread(target=self._accept, name="worker-socket", daemon=True)
        self._thread.start()

    def wait(self, timeout: float = CONNECT_SECONDS) -> dict[str, Any]:
        """What the worker said of itself when it connected, waiting for it; raises WorkerError."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._connection is None or not self._alive():
                left = deadline - time.monotonic()
                if left <= 0 or self._closing:
                    raise WorkerError(
                        "no worker is connected",
                        advice=f"start it: concordat silo worker, {self._listener.where}",
                    )
                self._changed.wait(min(left, 0.5))
            return self.hello

    def ask(self, frame: Frame, seconds: float, payload: int = MOST_PAYLOAD) -> Frame:
        """Send a request and wait up to `seconds` for its answer, whose payload has at most so many bytes.

        Raises WorkerError, for a worker that failed with its own sentence. A worker that is late, or that does not keep
        to question and answer, is dropped: hanging up ends its trainer.
        """
        with self._changed:
            connection = self._connection
            if connection is not None and not self._alive():
                raise WorkerLostError(
                    f"the worker went away during {frame.op}: it hung up, or spoke before it was asked"
                )
        if connection is None:
            raise WorkerLostError("no worker is connected")
        deadline = time.monotonic() + seconds
        try:
            with _within(connection, seconds):
                send(connection, frame)
                answer = receive(connection, payload)
            if answer.op not in {ANSWERS.get(frame.op), "error"}:
                raise NoFrameError(f"got the answer {answer.op[:20]!a}, expected {ANSWERS.get(frame.op)}")
        except ChannelError as error:
            self._let_go(connection)
            fault = isinstance(error, NoFrameError) or self._closing or time.monotonic() >= deadline
            kind = WorkerError if fault else WorkerLostError
            raise kind(f"the worker went away during {frame.op}: {error}") from None
        except BaseException:
            # Whatever it was, the answer may still come, and would be taken for the answer to the next question.
            self._let_go(connection)
            raise
        if answer.op == "error":
            raise WorkerError(str(answer.fields.get("message", "the worker failed"))[:1000])
        return answer

    def _let_go(self, connection: socket.socket) -> None:
        with self._changed:
            connection.close()
            if self._connection is connection:  # and not the fresh one that already took its place
                self._connection = None

    def end_work(self) -> None:
        """Hang up on the current worker, whatever it is doing; may be called while another thread waits for it."""
        with self._changed:
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """End the current worker; its supervisor starts a fresh one, which will connect."""
        with self._changed:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @property
    def worker(self) -> int:
        """The number of the worker now connected: workers are counted as they come; 0 where there is none."""
        with self._changed:
            return self._workers if self._connection is not None else 0

    def next_hello(self, seen: int, timeout: float = 1.0) -> tuple[dict[str, Any] | None, int]:
        """What the next worker after `seen` said of itself, or None after a while; and how many there were."""
        with self._changed:
            self._changed.wait_for(lambda: self._workers > seen or self._closing, timeout)
            return (self.hello if self._workers > seen else None), self._workers

    def interrupt(self) -> None:
        """Wake a thread that waits for the worker's answer; may be called from a signal handler."""
        self._closing = True
        connection = self._connection
        if connection is not None:
            hang_up(connection)

    def close(self) -> None:
        """Stop listening and let the worker go."""
        self._closing = True
        self.drop()
        self._listener.close()
        with self._changed:
            self._changed.notify_all()

    def _alive(self) -> bool:
        """Whether the idle connection is still open: an idle worker never speaks first."""
        assert self._connection is not None  # noqa: S101  callers hold the condition
        if self._connection.fileno() < 0 or select.select([self._connection], [], [], 0)[0]:
            self._connection.close()
            self._connection = None
            return False
        return True

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection = self._listener.accept()
            except NotAWorkerError:
                self._turn_away()
                continue
            except OSError:
                return
            self._greet_beside_others(connection)

    def _greet_beside_others(self, connection: socket.socket) -> None:
        """Whoever reaches the door can open a connection and say nothing: each gets a thread and a deadline.

        Of too many the one that has waited longest goes, so that the worker gets in all the same.
        """
        try:
            network = "" if connection.family == socket.AF_UNIX else network_of(str(connection.getpeername()[0]))
        except OSError:
            self._turn_away(connection)
            return
        leaving = self._waiting.enter(connection, network)
        if leaving is not None:
            hang_up(leaving)
        threading.Thread(target=self._greet_within, args=(connection,), daemon=True).start()

    def _greet_within(self, connection: socket.socket) -> None:
        try:
            with _within(connection, HANDSHAKE_SECONDS):
                self._greet(connection)
        finally:
            self._waiting.leave(connection)

    def _greet(self, connection: socket.socket) -> None:
        """Take over a connection whose other end is the worker; any other is closed."""
        try:
            self._listener.admit(connection)
            hello = receive(connection, 0)
            if hello.op != "hello":
                raise NotAWorkerError("whoever connected did not say hello")
        except (ChannelError, NotAWorkerError, OSError):
            self._turn_away(connection)
            return
        with self._changed:
            if self._closing:
                connection.close()
                return
            if self._connection is not None:
                self._connection.close()
            self._connection, self.hello = connection, dict(hello.fields)
            self._workers += 1
            self._changed.notify_all()

    def _turn_away(self, connection: socket.socket | None = None) -> None:
        if connection is not None:
            connection.close()
        with self._changed:
            self.turned_away += 1
            self._changed.notify_all()


@contextlib.contextmanager
def _within(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Hang up on whoever is at the other end when the time is over, however often a byte of theirs comes."""
    deadline = threading.Timer(seconds, hang_up, (connection,))
    deadline.daemon = True
    deadline.start()
    try:
        yield
    finally:
        deadline.cancel()
