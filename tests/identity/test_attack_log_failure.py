"""A coordinator whose log takes no more, or that was just started: honest silos are lost for a while, never refused."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.verify import verify
from federation.addresses import split_address
from federation.errors import ConcordatError, UnreachableError
from federation.home import Home
from federation.identity import load_private_key, public_key_pem
from federation.processes import Child, command_line, stop_all
from federation.tls import client_context, stranger_context
from silo.channel import Frame, send
from silo.gate.fleet import FleetConnection, FleetNode, FleetRefusedError

from .conftest import EVIDENCE, Online, wait_until

pytestmark = pytest.mark.federation

POLICY = (Path(__file__).parents[1] / "smallest_policy.yaml").read_text()


class Silo(threading.Thread):
    """What a gate does at the coordinator: it activates, pulls, and activates again where it is told to or lost it."""

    def __init__(self, online: Online, home: Home) -> None:
        super().__init__(daemon=True)
        host, port = split_address(online.address)
        context = client_context(home.certificate, home.key, home.authority)
        key = load_private_key(home.key)
        self._node = FleetNode(lambda: FleetConnection(host, port, context, key), public_key_pem(key.public_key()))
        self._ending = threading.Event()
        self.activations = 0
        self.refused: list[str] = []
        self.lost: list[str] = []

    def run(self) -> None:
        active = False
        while not self._ending.is_set():
            try:
                if not active:
                    self._node.activate()
                    active, self.activations = True, self.activations + 1
                self._node.pull()
            except FleetRefusedError as error:
                if not active:
                    self.refused.append(str(error))  # here a gate ends
                active = False
            except UnreachableError as error:
                self.lost.append(str(error))
                self._ending.wait(0.02)
            except ConcordatError as error:
                self.refused.append(str(error))

    def end(self) -> None:
        self._ending.set()
        self._node.interrupt()
        self.join(30)


@pytest.fixture
def online(short_tmp: Callable[[str], Path]) -> Iterator[Online]:
    federation = Online(short_tmp("full"))
    federation.start()
    yield federation
    assert federation.child is not None
    stop_all([federation.child])


@pytest.fixture
def silos(online: Online) -> Iterator[list[Silo]]:
    threads = [Silo(online, online.member(f"silo-{number}")) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(thread.activations for thread in threads), "three silos that are connected")
    yield threads
    for thread in threads:
        thread.end()


def denied(online: Online) -> list[str]:
    return [f"{entry['actor']} {entry['reason']}" for entry in online.entries() if entry["decision"] == "deny"]


def test_silos_that_were_connected_before_a_restart_are_not_refused(online: Online, silos: list[Silo]):
    child = online.child
    assert child is not None
    for count, number in enumerate((signal.SIGTERM, signal.SIGKILL), start=2):
        child.signal(number)
        child.wait(30)
        child = online.start()
        wait_until(lambda count=count: all(silo.activations >= count for silo in silos), "all of them again")
    assert denied(online) == []
    assert [silo.refused for silo in silos] == [[], [], []]


def test_a_coordinator_that_cannot_record_ends_with_a_sentence(online: Online, silos: list[Silo]):
    child = online.child
    assert child is not None
    newcomer, auditor = online.member("newcomer"), online.home("silo-0")
    # From here on the operating system refuses to let its files grow, as a full disk would.
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    # Its first use of a certificate has to be recorded; so has this refusal.
    for home, path in ((newcomer, EVIDENCE), (auditor, EVIDENCE)):
        try:
            assert online.call(home, path).status == 503
        except OSError:
            break  # it has ended meanwhile
    assert child.wait(30) == 1
    child.join()
    said = child.output()
    assert "the coordinator stops, because it cannot record what it decides: cannot record in" in said
    assert "Traceback" not in said
    before = [silo.activations for silo in silos]
    online.start()
    wait_until(lambda: all(silo.activations > before[n] for n, silo in enumerate(silos)), "all of them again")
    assert [silo.refused for silo in silos] == [[], [], []]
    assert denied(online) == []
    member = online.authority.manifest().federation.member("hub")
    assert verify(online.coordinator.audit, member.log).size > 0


def test_a_gate_that_cannot_record_ends_with_a_sentence_also_where_nothing_is_asked_of_it(
    online: Online, short_tmp: Callable[[str], Path]
):
    home, site = online.member("silo-a"), short_tmp("gate")
    (site / "policy.yaml").write_text(POLICY)
    settings = "apiVersion: concordat/v1\nkind: Silo\npolicy: policy.yaml\nsocket: run/worker.sock\n"
    (site / "silo.yaml").write_text(settings)
    command = command_line("silo", "gate", str(site / "silo.yaml"), "--home", str(home.path))
    gate = Child("gate", command, site / "gate.log", dict(os.environ))
    try:

        def grown() -> int:
            return sum(path.stat().st_size for path in home.audit.glob("segments/*.jsonl"))

        def idle() -> bool:
            """Its log has an entry of the coordinator's, and grew no further for a while."""
            before = grown()
            time.sleep(2)
            return before > 0 and (site / "run" / "worker.sock").exists() and grown() == before

        wait_until(idle, "a gate that waits")
        resource.prlimit(gate.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(str(site / "run" / "worker.sock"))
            send(worker, Frame("hello", {"network": "none"}))
            assert gate.wait(30) == 1
    finally:
        gate.signal(signal.SIGKILL)
    gate.join()
    said = gate.output()
    assert "refuses to append" in said
    assert "Traceback" not in said


def test_one_that_fails_at_a_strangers_handshake_ends_too(online: Online):
    """The event loop does not wait for that entry, and nobody waits for its answer."""
    child = online.child
    assert child is not None
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    host, port = split_address(online.address)
    context = stranger_context(online.authority.certificate.read_text())
    with socket.create_connection((host, port), 30) as plain, contextlib.suppress(OSError):
        context.wrap_socket(plain, server_hostname=host).recv(1)
    assert child.wait(30) == 1
    child.join()
    assert "Traceback" not in child.output()
