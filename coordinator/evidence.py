"""The auditor's interface: the coordinator's own log, read-only. Reached with an auditor certificate alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coordinator.gateway import EVIDENCE_PREFIX, Scope, Send, send_json, send_response
from coordinator.superlink import Response
from federation.identity import Peer

_FILES = {
    "checkpoint": "text/plain; charset=utf-8",
    "log.vkey": "text/plain; charset=utf-8",
}


class Evidence:
    """Serves the files of the log as they lie on disk, so that they verify like a copy of the directory."""

    def __init__(self, log: Path) -> None:
        self._log = log

    async def __call__(self, _peer: Peer, scope: Scope, body: bytes, send: Send) -> None:
        """Answer one request."""
        name = scope["path"].removeprefix(EVIDENCE_PREFIX)
        if scope["method"] != "GET" or body:
            await send_json(send, 405, {"error": "evidence is read-only"})
        elif name in _FILES:
            content = await asyncio.to_thread((self._log / name).read_bytes)
            await send_response(send, Response(200, content, _FILES[name]))
        elif name == "segments":
            names = await asyncio.to_thread(self._segments)
            await send_json(send, 200, names)
        elif name.startswith("segments/") and name.removeprefix("segments/") in self._segments():
            content = await asyncio.to_thread((self._log / name).read_bytes)
            await send_response(send, Response(200, content, "application/octet-stream"))
        else:
            await send_json(send, 404, {"error": f"no evidence named {name[:200]}"})

    def _segments(self) -> list[str]:
        return sorted(path.name for path in (self._log / "segments").iterdir())
