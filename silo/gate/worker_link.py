"""The gate's end of the channel: accepts the worker's connection and asks it for work."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

from federation.errors import ConcordatError
from silo.channel import ChannelError, Frame, receive, send

CONNECT_SECONDS = 90.0


class WorkerError(ConcordatError):
    """The worker is not there, went away, or says that it could not do what was asked."""


class WorkerLink:
    """Listens on the socket, checks who connects, and keeps the newest worker."""

    def __init__(self, path: Path, worker_uid: int | None = None) -> None:
        self._path = path
        self._uid = os.getuid() if worker_uid is None else worker_uid
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600 if worker_uid is None else 0o666)
        self._listener.listen(4)
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
                        advice=f"start it: concordat silo worker, socket {self._path}",
                    )
                self._changed.wait(min(left, 0.5))
            return self.hello

    def ask(self, frame: Frame, seconds: float) -> Frame:
        """Send a request and wait up to `seconds` for its answer; raises WorkerError with the worker's own sentence.

        A worker that is late is dropped: hanging up ends its trainer.
        """
        with self._changed:
            connection = self._connection
        if connection is None:
            raise WorkerError("no worker is connected")
        try:
            connection.settimeout(seconds)
            send(connection, frame)
            answer = receive(connection)
            connection.settimeout(None)
        except ChannelError as error:
            self.drop()
            raise WorkerError(f"the worker went away during {frame.op}: {error}") from None
        if answer.op == "error":
            raise WorkerError(str(answer.fields.get("message", "the worker failed"))[:1000])
        return answer

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
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening and let the worker go."""
        self._closing = True
        self.drop()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept, which close alone does not
        self._listener.close()
        self._path.unlink(missing_ok=True)
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
                connection, _ = self._listener.accept()
            except OSError:
                return
            if peer_uid(connection) not in {self._uid, 0}:
                connection.close()
                continue
            try:
                connection.settimeout(10)
                hello = receive(connection)
                connection.settimeout(None)
            except ChannelError:
                connection.close()
                continue
            with self._changed:
                if self._connection is not None:
                    self._connection.close()
                self._connection, self.hello = connection, dict(hello.fields)
                self._workers += 1
                self._changed.notify_all()


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end of a Unix socket, from the kernel (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
