"""A gateway whose interfaces record who came through, and a client that knocks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.proto import fleet_pb2

from coordinator.gateway import (
    Gateway,
    send_json,
)
from coordinator.identities import Identities
from coordinator.superlink import SuperLink
from federation.identity import Peer


class Door:
    """A gateway with interfaces that record who came through."""

    def __init__(self, federation: Any, directory: Path) -> None:
        self.members = {name: home.identity() for name, home in federation.homes.items()}
        self.first_used: list[str] = []
        self.link = SuperLink()
        self.came: list[tuple[str, str, str, bytes]] = []
        self.refused: list[tuple[str | None, str, str]] = []
        self.raises: Exception | None = None
        self.application = Gateway(
            Identities(federation.authority.manifest, directory / "certificates.json", self.first_use),
            self.link,
            self.interface("control"),
            self.interface("evidence"),
            self.interface("identity"),
            self.refuse,
        )

    def first_use(self, peer: Peer, _: dict[str, str | int | bool]) -> None:
        self.first_used.append(peer.uri)

    def interface(self, name: str) -> Callable[..., Awaitable[None]]:
        async def serve(peer: Peer, scope: dict[str, Any], body: bytes, send: Any) -> None:
            if self.raises is not None:
                raise self.raises
            self.came.append((name, peer.name, scope["path"], body))
            await send_json(send, 200, {"by": name})

        return serve

    def refuse(self, peer: Peer | None, path: str, reason: str) -> None:
        self.refused.append((peer.uri if peer else None, path, reason))


@pytest.fixture(name="door")
def door_fixture(federation: Any, tmp_path: Path) -> Door:
    return Door(federation, tmp_path)


@pytest.fixture(name="knock")
def knock_fixture(door: Door, client: Any) -> Any:
    return client(door.application)


def pull_of(node: Any) -> bytes:
    return fleet_pb2.PullMessagesRequest(node=node.node).SerializeToString()
