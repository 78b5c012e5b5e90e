"""Uvicorn's server behind our own doors: one event loop, and for each listening socket an application and a context."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast

import uvicorn

from coordinator.connections import IDLE_SECONDS, PeerCertificateProtocol, Reception
from coordinator.door import Door, OnRefused
from federation.crowd import Crowd
from federation.limits import LIMITS

Listener = tuple[socket.socket, Any, ssl.SSLContext]
"""A listening socket, its application, and its context; one that asks for no certificate is for strangers."""

FILES_OF_OTHERS = 256
"""Open files that connections leave to the log, the runs and the libraries."""


class Server(uvicorn.Server):
    """Serves several applications, each behind a door of its own.

    `on_ready` is called once it listens, `on_stop` when it is asked to stop. `name_of` gives the member that a
    certificate (DER) stands for, by which its connections are counted.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        on_refused: OnRefused,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
        name_of: Callable[[bytes], str | None] = lambda certificate: hashlib.sha256(certificate).hexdigest(),
    ) -> None:
        super().__init__(_config(listeners[0][1]))
        self._listeners = listeners
        self._on_refused = on_refused
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._name_of = name_of

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Listen; the sockets are those of the listeners."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        doors = []
        room = room_for_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        for index, (listener, application, context) in enumerate(self._listeners):
            config = self.config if index == 0 else _config(application)
            door = Door(listener, context, self._maker(config, self._reception(context, room)), self._on_refused, room)
            door.open()
            doors.append(door)
        self.servers = cast(list[asyncio.base_events.Server], doors)
        self.started = True
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and let what is under way end."""
        self._on_stop()
        await super().shutdown(sockets)

    def _reception(self, context: ssl.SSLContext, room: float) -> Reception:
        strangers = context.verify_mode == ssl.CERT_NONE
        together = LIMITS.stranger_connections if strangers else LIMITS.connections
        of_one = LIMITS.stranger_connections_of_one if strangers else LIMITS.member_connections
        crowd: Crowd[PeerCertificateProtocol] = Crowd(max(1, int(room * together)), of_one)
        senders: Crowd[PeerCertificateProtocol] = Crowd(together, LIMITS.large_bodies)
        return Reception(crowd, senders, self._name_of, self._on_refused, strangers)

    def _maker(self, config: uvicorn.Config, reception: Reception) -> Callable[[], asyncio.Protocol]:
        return lambda: PeerCertificateProtocol(
            reception, config=config, server_state=self.server_state, app_state=self.lifespan.state
        )


def room_for_connections(files: int) -> float:
    """The share of the limits on connections that a process has room for with so many open files, at most 1.

    Without this a flood would take the files that the log needs.
    """
    wanted = LIMITS.connections + LIMITS.stranger_connections + 2 * LIMITS.pending_handshakes
    return 1.0 if files < 0 else min(1.0, max(0, files - FILES_OF_OTHERS) / wanted)


def _config(application: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        application,
        http=PeerCertificateProtocol,
        ws="none",
        # A client can cause warnings, as many as it likes; what it did wrong is recorded within the budget.
        log_level="error",
        log_config=None,
        access_log=False,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=2,
        server_header=False,
        lifespan="on",
    )
    config.load()
    return config
