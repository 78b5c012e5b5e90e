"""Namespaces of a run's own: its processes see and reach no others, and the kernel ends them all with the run."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from silo.confinement import CLONE_NEWUSER, map_own_user
from silo.worker.children import adopt_orphans, end_children, exit_code_of, forked, number_outside

_NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000  # mounts, host name, IPC, processes
_MS_REC, _MS_SLAVE, _NOSUID_NODEV_NOEXEC = 1 << 14, 1 << 19, 2 | 4 | 8

_libc = ctypes.CDLL(None, use_errno=True)

_MESSAGE = 16
HANG_UP_SECONDS = 5.0
"""How long a process has to end by itself after its gate hung up."""


@dataclass(frozen=True)
class Enclosed:
    """What a process knows of its enclosure."""

    number: int
    """Its process id outside."""
    said: str
    """How it is kept from other processes."""
    own_ipc: bool
    """Whether System V memory, semaphores and queues are in a namespace that ends with it."""
    _keeper: socket.socket

    def end_with(self, connection: socket.socket) -> None:
        """Have the keeper outside end this process when the other side of a connection is gone."""
        socket.send_fds(self._keeper, [b"."], [connection.fileno()])
        self._keeper.close()


@dataclass(frozen=True)
class Enclosure:
    """What this host allows a run to have of its own."""

    said: str
    namespaces: bool
    user: bool = False
    """A user namespace, which gives the right to make the others."""
    proc: bool = False
    """A /proc of its own, in which no other process is seen."""

    def run(self, work: Callable[[Enclosed], int]) -> int:
        """Have a child work in namespaces of its own; returns its exit code once every process in them has ended.

        For a fork made for this alone, which becomes the child's keeper: what it does is out of the child's reach.
        Where the host allows no namespaces, who made the keeper ends what the child left behind.
        """
        refused = self._enter() if self.namespaces else 0
        if refused:
            return refused
        here, there = socket.socketpair()
        with here:
            child = forked(lambda: self._within(work, here, there))
            there.close()
            return _kept(child, here)

    def _enter(self) -> int:
        """Make the namespaces for this process's children; returns the number of the error."""
        uid, gid = os.getuid(), os.getgid()
        if _libc.unshare(_NEW_NAMESPACES | (CLONE_NEWUSER if self.user else 0)) != 0:
            return ctypes.get_errno()
        try:
            if self.user:
                map_own_user(uid, gid)
        except OSError as error:
            return error.errno or 1
        return 0

    def _within(self, work: Callable[[Enclosed], int], outer: socket.socket, inner: socket.socket) -> int:
        outer.close()
        enclosed = Enclosed(number_outside(), self.said, self.namespaces, inner)
        return (_own_proc() if self.proc else 0) or work(enclosed)


def _kept(child: int, told: socket.socket) -> int:
    """Wait for a child, and end it where the connection that it tells of is hung up; returns its exit code."""
    ended = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    waiting.register(told, select.POLLIN)
    if told.fileno() in dict(waiting.poll()):
        waiting.unregister(told)
        _, connections, _, _ = socket.recv_fds(told, _MESSAGE, 1)
        for connection in connections:
            waiting.register(connection, select.POLLRDHUP)
        if ended not in dict(waiting.poll()):
            # The child notices too and ends, unless submitted code keeps it busy.
            waiting.unregister(connections[0])
            if not waiting.poll(HANG_UP_SECONDS * 1000):
                os.kill(child, signal.SIGKILL)
    return exit_code_of(child)


def find_enclosure() -> Enclosure:
    """The strongest enclosure that this host allows, tried out; call it before any thread starts."""
    own, code = "processes, IPC, host name and mounts of its own", 0
    for user, proc in ((False, True), (True, True), (False, False), (True, False)):
        found = Enclosure(own if proc else f"{own}, BUT THE HOST'S PROCESSES ARE SEEN in /proc", True, user, proc)
        code = exit_code_of(forked(lambda tried=found: tried.run(lambda _: 0)))  # type: ignore[misc]
        if code == 0:
            return found
    reason = os.strerror(code) if code > 0 else "the process that tried was killed"
    return Enclosure(f"PROCESSES NOT SEPARATED: this host allows no namespaces ({reason})", namespaces=False)


def enclosed(work: Callable[[], int]) -> int:
    """Do some work in an enclosure and leave no process of it behind; returns its exit code."""
    enclosure = find_enclosure()
    adopt_orphans()
    code = exit_code_of(forked(lambda: enclosure.run(lambda _: work())))
    end_children()
    return code


def _own_proc() -> int:
    """Put a /proc over the host's that has the namespace's processes alone; returns the number of the error."""
    # What is mounted on the host later is seen here too, and not the other way round.
    if _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None) != 0:
        return ctypes.get_errno()
    if _libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(_NOSUID_NODEV_NOEXEC), None) != 0:
        return ctypes.get_errno()
    return 0
