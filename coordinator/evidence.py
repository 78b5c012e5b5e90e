"""The auditor's interface: the coordinator's own log, read-only. Reached with an auditor certificate alone."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from urllib.parse import parse_qs

from audit.served import read_checkpoint, read_segment, segment_names
from coordinator.gateway import EVIDENCE_PREFIX, Scope, Send, send_json, send_response
from coordinator.superlink import Response
from federation.errors import UsageError
from federation.identity import Peer

_TEXT, _BYTES = "text/plain; charset=utf-8", "application/octet-stream"
_SIZE = re.compile("0|[1-9][0-9]{0,14}")


class Evidence:
    """Serves the log up to a signed checkpoint, so that what is fetched while it grows verifies like a copy at rest.

    `segments` and `segments/NAME` take `?size=N`, the size in the checkpoint that was fetched first; without it they
    end at the checkpoint of the moment.
    """

    def __init__(self, log: Path) -> None:
        self._log = log

    async def __call__(self, _peer: Peer, scope: Scope, body: bytes, send: Send) -> None:
        """Answer one request."""
        name = scope["path"].removeprefix(EVIDENCE_PREFIX)
        if scope["method"] != "GET" or body:
            await send_json(send, 405, {"error": "evidence is read-only"})
            return
        try:
            found = await asyncio.to_thread(self._find, name, scope.get("query_string", b""))
        except FileNotFoundError:
            found = None
        if isinstance(found, list):
            await send_json(send, 200, found)
        elif found is not None:
            await send_response(send, found)
        else:
            await send_json(send, 404, {"error": f"no evidence named {name[:200]}"})

    def _find(self, name: str, query: bytes) -> Response | list[str] | None:
        if name in {"checkpoint", "cosigned", "log.vkey"}:
            return Response(200, (self._log / name).read_bytes(), _TEXT)
        if name == "witness" or name.startswith("witness/"):
            copies = self._witness_copies()
            if name == "witness":
                return copies
            is_copy = name.removeprefix("witness/") in copies
            return Response(200, (self._log / name).read_bytes(), _TEXT) if is_copy else None
        size = self._size(query)
        names = segment_names(self._log, size)
        if name == "segments":
            return names
        segment = name.removeprefix("segments/")
        return Response(200, read_segment(self._log, segment, size), _BYTES) if segment in names else None

    def _witness_copies(self) -> list[str]:
        folder = self._log / "witness"
        return sorted(path.name for path in folder.iterdir() if path.suffix != ".tmp") if folder.is_dir() else []

    def _size(self, query: bytes) -> int:
        signed = read_checkpoint(self._log)[1].size
        given = parse_qs(query.decode("ascii", "replace")).get("size", [str(signed)])[-1]
        if not _SIZE.fullmatch(given) or int(given) > signed:
            raise UsageError(f"got size {given[:40]}, expected a number up to {signed}, which is signed")
        return int(given)
