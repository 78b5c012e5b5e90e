"""The one way to a database on another host: a process that opens connections to declared addresses, to hand them over.

It stays in the network that the worker leaves, and reads nothing: it has no data, no credentials and no key, and what
crosses a connection never passes through it. Whoever holds the other end of its control socket asks for a database by
its number and gets a connected socket; the reader of the data then has that one connection and no other way.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from subprocess import DEVNULL, Popen

from federation.addresses import split_address
from federation.processes import PARENT_VARIABLE, end_with_parent_if_asked
from silo.confinement import SYSTEM_CONFIGURATION, confine_files, drop_capabilities, runtime_paths
from silo.sockets import keep_tcp_ports
from silo.worker.errors import DataError

DOOR_VARIABLE = "CONCORDAT_DATABASE_DOOR"
"""Names the control socket's descriptor and the databases, `<fd> <host:port> ...`, to trainer and reader alone."""
CONNECT_SECONDS = 15.0
_MESSAGE = 300
_HOW = b"how"


class Door:
    """The asking side: the control socket, and which databases are behind it."""

    def __init__(self, control: socket.socket, addresses: Sequence[str]) -> None:
        self._control, self._addresses = control, tuple(addresses)

    @classmethod
    def inherited(cls) -> Door | None:
        """The door that the process which started this one has passed on; None where there is none."""
        number, *addresses = os.environ.get(DOOR_VARIABLE, "").split() or [""]
        return cls(socket.socket(fileno=os.dup(int(number))), addresses) if number else None

    @property
    def descriptor(self) -> int:
        """The control socket, to be passed on."""
        return self._control.fileno()

    def variable(self) -> dict[str, str]:
        """What tells a process that it was passed the door."""
        return {DOOR_VARIABLE: " ".join((str(self.descriptor), *self._addresses))}

    def connect(self, address: str) -> socket.socket:
        """A connection to a database that was declared when the worker started; raises DataError."""
        if address not in self._addresses:
            raise DataError("the database was not declared when the worker started; start the worker again")
        said, descriptors = self._ask(str(self._addresses.index(address)).encode())
        if not descriptors:
            raise DataError(f"the database cannot be reached: {said}")
        return socket.socket(fileno=descriptors[0])

    def how(self) -> str:
        """How the process behind the door is confined."""
        return self._ask(_HOW)[0]

    def close(self) -> None:
        """Give the way up, for good."""
        self._control.close()

    def _ask(self, question: bytes) -> tuple[str, list[int]]:
        """Ask over a socket of this question's own, so that no answer to an earlier one is taken for it."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here:
            try:
                with there:
                    socket.send_fds(self._control, [question], [there.fileno()])
                here.settimeout(2 * CONNECT_SECONDS)
                said, descriptors, _, _ = socket.recv_fds(here, _MESSAGE, 1)
            except OSError as error:
                return type(error).__name__, []
        return said.decode("utf-8", "replace") or "the process that opens connections is gone", list(descriptors)


def shut() -> None:
    """Close what was passed on of the door, and forget it: nothing that comes after finds it."""
    number = os.environ.pop(DOOR_VARIABLE, "").split()[:1]
    if number:
        with contextlib.suppress(OSError):
            os.close(int(number[0]))


def open_door(addresses: Sequence[str]) -> tuple[Door, Popen[bytes]]:
    """Start the process that opens connections to these addresses, `host:port`; call it before leaving the network."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = Popen(
            [sys.executable, "-P", "-m", "silo.worker.door", str(there.fileno()), *addresses],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            cwd="/",
            pass_fds=[there.fileno()],
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        )
    return Door(here, addresses), process


def _serve(control: socket.socket, addresses: Sequence[str], confinement: str) -> None:
    while True:
        question, descriptors, _, _ = socket.recv_fds(control, _MESSAGE, 1)
        if not question:
            return
        for number in descriptors:
            with socket.socket(fileno=number) as reply, contextlib.suppress(OSError):
                if question == _HOW:
                    reply.send(confinement.encode()[:_MESSAGE])
                else:
                    _hand_over(reply, addresses[int(question)])


def _hand_over(reply: socket.socket, address: str) -> None:
    """Open one connection and send it; of a failure its kind is told, which holds no address."""
    try:
        with socket.create_connection(split_address(address), CONNECT_SECONDS) as connection:
            connection.setblocking(True)
            passed = array.array("i", [connection.fileno()])
            reply.sendmsg([b"connected"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
    except OSError as error:
        reply.send(type(error).__name__.encode())


def main() -> None:
    """Confine this process, then serve until nobody is left to ask."""
    end_with_parent_if_asked()
    control, addresses = socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]
    files = confine_files([*runtime_paths(), SYSTEM_CONFIGURATION], [])
    drop_capabilities()
    ports = keep_tcp_ports([split_address(address)[1] for address in addresses])
    _serve(control, addresses, f"{files}; {ports}")


if __name__ == "__main__":
    main()
