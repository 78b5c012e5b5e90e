"""Uvicorn's server behind our own doors: one event loop, and for each listening socket an application and a context."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast

import uvicorn

from coordinator.door import Door, OnRefused, PeerCertificateProtocol

Listener = tuple[socket.socket, Any, ssl.SSLContext]


class Server(uvicorn.Server):
    """Serves several applications, each behind a door of its own.

    `on_ready` is called once it listens, `on_stop` when it is asked to stop.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        on_refused: OnRefused,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(_config(listeners[0][1]))
        self._listeners = listeners
        self._on_refused = on_refused
        self._on_ready = on_ready
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Listen; the sockets are those of the listeners."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        doors = []
        for index, (listener, application, context) in enumerate(self._listeners):
            config = self.config if index == 0 else _config(application)
            door = Door(listener, context, self._maker(config), self._on_refused)
            door.open()
            doors.append(door)
        self.servers = cast(list[asyncio.base_events.Server], doors)
        self.started = True
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and let what is under way end."""
        self._on_stop()
        await super().shutdown(sockets)

    def _maker(self, config: uvicorn.Config) -> Callable[[], asyncio.Protocol]:
        return lambda: PeerCertificateProtocol(
            config=config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _config(application: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        application,
        http=PeerCertificateProtocol,
        ws="none",
        log_level="warning",
        log_config=None,
        access_log=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=2,
        server_header=False,
        lifespan="on",
    )
    config.load()
    return config
