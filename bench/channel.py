"""A model over the mutually authenticated channel, beside the same transfer without TLS: see bench/README.md.

    .venv/bin/python bench/channel.py [--floats 25000000] [--transfers 9]

One server process holds a SuperLink and a gateway behind two listening sockets: the door as it is deployed, and the
same gateway on a plain socket. A silo's Fleet client fetches a model from it and pushes one back, over the one and the
other in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.authority import Authority
from coordinator.connections import PeerCertificateProtocol, Reception
from coordinator.gateway import Gateway
from coordinator.server import Server
from coordinator.superlink import Reply, SuperLink
from federation.addresses import split_address
from federation.crowd import Crowd
from federation.enrolment import join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role, public_key_pem
from federation.memory import keep_freed_memory
from federation.tls import client_context, server_context
from federation.wire import Envelope
from silo.gate.fleet import FleetConnection, FleetNode

NAME = "bench.example"
WANTED = 0.65


def member(directory: Path, authority: Authority, name: str, role: Role, *addresses: str) -> Home:
    home = Home(directory / name)
    request_enrolment(home, NAME, name, role, "DE", addresses)
    certificate, _ = authority.enrol(parse_request(home.request.read_bytes()))
    join(home, json.dumps(authority.bundle(certificate)).encode())
    return home


def listener() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    return made


class WithoutTls(PeerCertificateProtocol):
    """The HTTP protocol with the peer's certificate given and not proved."""

    given: bytes = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.certificate = self.given


class BothWays(Server):
    """The server as deployed, and a second, plain socket to the same application."""

    plain: socket.socket

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        reception = Reception(Crowd(64, 64), lambda _: None, lambda _: None)

        def make() -> asyncio.Protocol:
            return WithoutTls(
                reception, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        self.plain.listen(64)
        self.plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().create_server(make, sock=self.plain)
        await super().startup(sockets)


def serve(directory: Path, floats: int, pipe: Connection) -> None:
    """The server process: posts a model to the silo whenever the pipe asks for one."""
    keep_freed_memory()
    hub, silo = Home(directory / "hub"), Home(directory / "silo")
    certificate = x509.load_pem_x509_certificates(silo.certificate.read_bytes())[0]
    peer = silo.identity()
    link = SuperLink()
    node = link.enrol(peer.name, peer.public_key)
    arrived: list[Reply] = []
    run = link.open_run("@bench/channel", b"app", hashlib.sha256(b"app").hexdigest(), arrived.append)
    link.limit_replies(run, floats * 4 + 2**23)

    async def nothing(*_: object) -> None:
        raise AssertionError("only the Fleet interface is measured")

    gateway = Gateway(lambda _: peer, link, nothing, nothing, nothing, lambda *words: print(words, file=sys.stderr))
    tls, plain = listener(), listener()
    WithoutTls.given = certificate.public_bytes(Encoding.DER)
    context = server_context(hub.certificate, hub.key, hub.authority)

    def work() -> None:
        number = 0
        while pipe.recv() == "post":
            number += 1
            weights = np.random.default_rng(number).standard_normal(floats, dtype=np.float32)
            link.send(run, "train", Envelope({"round": number}, weights=weights), {peer.name: node}, 600.0, str(number))
            pipe.send(len(arrived))
            if arrived:
                link.take(arrived.pop())
        server.should_exit = True

    def ready() -> None:
        pipe.send((tls.getsockname()[1], plain.getsockname()[1]))
        threading.Thread(target=work, daemon=True).start()

    server = BothWays([(tls, gateway, context)], lambda _: None, ready, gateway.close)
    server.plain = plain
    server.run(sockets=[tls])


class PlainConnection(FleetConnection):
    """The Fleet client over TCP alone."""

    def _connect(self) -> http.client.HTTPSConnection:
        connection: Any = http.client.HTTPConnection(self._host, self._port, timeout=60, blocksize=1 << 20)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http = connection
        return self._http


def transfer(node: FleetNode, pipe: Connection) -> tuple[float, float]:
    """Seconds to fetch a model, and to push it back."""
    pipe.send("post")
    pipe.recv()
    task = node.pull()
    assert task is not None
    started = time.perf_counter()
    envelope = node.fetch(task)
    fetched = time.perf_counter()
    assert envelope.weights is not None
    # Another model, as training makes one: what the coordinator has already is not sent again.
    answer = Envelope({"status": "ok"}, weights=envelope.weights + np.float32(1))
    pushing = time.perf_counter()
    node.reply(task, answer)
    return fetched - started, time.perf_counter() - pushing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--floats", type=int, default=25_000_000, help="float32 values (default 25 million, 100 MB)")
    parser.add_argument("--transfers", type=int, default=9, help="transfers each way, after one to warm up (default 9)")
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="concordat-bench-") as name:
        directory = Path(name)
        authority = Authority(directory / "authority")
        authority.found(NAME)
        member(directory, authority, "hub", Role.COORDINATOR, "127.0.0.1:1")
        silo = member(directory, authority, "silo", Role.SILO)
        here, there = get_context("spawn").Pipe()
        server = get_context("spawn").Process(target=serve, args=(directory, options.floats, there), daemon=True)
        server.start()
        tls_port, plain_port = here.recv()
        key = silo.private_key()
        context = client_context(silo.certificate, silo.key, silo.authority)
        public = public_key_pem(key.public_key())
        host, _ = split_address("127.0.0.1:1")

        def node(kind: Callable[..., FleetConnection], port: int) -> FleetNode:
            made = FleetNode(lambda: kind(host, port, context, key), public)
            made.activate()
            return made

        sides = {"mTLS": node(FleetConnection, tls_port), "plain": node(PlainConnection, plain_port)}
        taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        load = os.getloadavg()[0]
        for number in range(options.transfers + 1):
            for side, silo_node in sides.items():
                seconds = transfer(silo_node, here)
                if number:
                    taken[side].append(seconds)
        here.send("end")
        server.join(20)
        server.kill()
    megabytes = options.floats * 4 / 1e6
    print(f"{megabytes:.0f} MB a model, {options.transfers} transfers each way and side, in turn; load {load:.1f}")
    print(f"{'MB/s':8} {'fetch':>8} {'(min-max)':>14} {'push':>8} {'(min-max)':>14}")
    rates: dict[str, list[float]] = {}
    for side, figures in taken.items():
        cells, rates[side] = [], []
        for column in zip(*figures, strict=True):
            speeds = sorted(megabytes / seconds for seconds in column)
            rates[side].append(statistics.median(speeds))
            cells.append(f"{statistics.median(speeds):8.0f} {f'({speeds[0]:.0f}-{speeds[-1]:.0f})':>14}")
        print(f"{side:8} " + " ".join(cells))
    fetch, push = (one / other for one, other in zip(rates["mTLS"], rates["plain"], strict=True))
    print(f"mTLS over plain: fetch {fetch:.2f}, push {push:.2f} (wanted: at least {WANTED} of it)")


if __name__ == "__main__":
    main()
