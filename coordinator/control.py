"""The operator's interface: submit, follow, stop and fetch runs. Reached with an operator certificate alone."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from coordinator.executor import Executor
from coordinator.gateway import CONTROL_PREFIX, Scope, Send, send_json, send_response
from coordinator.superlink import Response, SuperLink
from federation.errors import IdentityError, UsageError, WireError
from federation.identity import Peer
from federation.limits import LIMITS
from federation.run import SignedRun, app_digest, parse_signed_run

FOLLOW_SECONDS = 10.0
FOLLOWERS = 32


class Runs:
    """The runs of this coordinator's process; one executes at a time, in its own thread."""

    def __init__(self, make: Callable[[SignedRun, bytes, Peer], Executor]) -> None:
        self._make = make
        self._runs: dict[str, Executor] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def submit(self, signed: SignedRun, app: bytes, operator: Peer) -> Executor:
        """Accept a run and start it; raises UsageError while another one executes."""
        with self._lock:
            active = [run for run in self._runs.values() if run.state in {"pending", "running"}]
            if active:
                raise UsageError(
                    f"run {active[0].run_id} is executing",
                    advice="wait for its end, or stop it with: concordat run stop " + active[0].run_id,
                )
            run = self._make(signed, app, operator)
            self._runs[run.run_id] = run
            thread = threading.Thread(target=run.execute, name=f"run-{run.run_id}", daemon=True)
            self._threads.append(thread)
        thread.start()
        return run

    def get(self, run_id: str) -> Executor:
        """A run by its id; raises UsageError."""
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            raise UsageError(f"no run {run_id[:80]!r} here", advice="list them with: concordat run list")
        return run

    def all(self) -> list[Executor]:
        """Every run, oldest first."""
        with self._lock:
            return list(self._runs.values())

    def exclude(self, silo: str) -> None:
        """Have what executes go on without a silo."""
        for run in self.all():
            if run.state == "running":
                run.exclude(silo)

    def stop(self) -> None:
        """Stop what executes and wait for it to have recorded its end."""
        for run in self.all():
            run.stop()
        for thread in self._threads:
            thread.join(timeout=10)


class Control:
    """Answers the control interface."""

    def __init__(self, runs: Runs, superlink: SuperLink, members: Callable[[], list[dict[str, Any]]]) -> None:
        self._runs = runs
        self._superlink = superlink
        self._members = members
        # Whoever follows a run waits in a thread; these are its own, so that no silo's request waits for one.
        self._followers = ThreadPoolExecutor(FOLLOWERS, thread_name_prefix="follow")

    async def __call__(self, peer: Peer, scope: Scope, body: bytes, send: Send) -> None:
        """Answer one request; raises ConcordatError for what cannot be done."""
        method = scope["method"]
        parts = scope["path"].removeprefix(CONTROL_PREFIX).strip("/").split("/")
        match (method, *parts):
            case ("GET", "members"):
                online = self._superlink.online()
                await send_json(send, 200, [{**m, "online": m["name"] in online} for m in self._members()])
            case ("GET", "runs"):
                await send_json(send, 200, [{"run": run.run_id, "state": run.state} for run in self._runs.all()])
            case ("POST", "runs"):
                run = await asyncio.to_thread(self._submit, peer, body)
                await send_json(send, 201, {"run": run.run_id})
            case ("GET", "runs", run_id, "events"):
                query = parse_qs(scope["query_string"].decode("ascii", "replace"))
                await self._follow(self._runs.get(run_id), _after(query), send)
            case ("POST", "runs", run_id, "stop"):
                self._runs.get(run_id).stop()
                await send_json(send, 202, {"run": run_id})
            case ("GET", "runs", run_id, "model"):
                model = self._runs.get(run_id).directory / "model.npz"
                if not model.exists():
                    raise UsageError(f"run {run_id} has no model", advice="it has not completed")
                content = await asyncio.to_thread(model.read_bytes)
                await send_response(send, Response(200, content, "application/octet-stream"))
            case _:
                await send_json(send, 404, {"error": f"no such call: {method} {scope['path'][:200]}"})

    def _submit(self, peer: Peer, body: bytes) -> Executor:
        try:
            fields = json.loads(body)
            app = base64.b64decode(fields.pop("app"), validate=True)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise WireError("the request is not a signed run with its app") from None
        signed = parse_signed_run(fields)
        if len(app) > LIMITS.app:
            raise UsageError(f"got an app of {len(app)} bytes, expected at most {LIMITS.app}")
        if app_digest(app) != signed.app_digest:
            raise IdentityError(f"got app {app_digest(app)}, expected {signed.app_digest}, which was signed")
        return self._runs.submit(signed, app, peer)

    async def _follow(self, run: Executor, after: int, send: Send) -> None:
        """Stream the run's events as JSON lines until it ends; an empty line shows that the stream lives."""
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        ended, loop = False, asyncio.get_running_loop()
        while not ended:
            events, ended = await loop.run_in_executor(self._followers, run.events.after, after, FOLLOW_SECONDS)
            after += len(events)
            lines = b"".join(json.dumps(event).encode() + b"\n" for event in events) or b"\n"
            await send({"type": "http.response.body", "body": lines, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _after(query: Mapping[str, list[str]]) -> int:
    value = query.get("after", ["0"])[0]
    if not re.fullmatch(r"[0-9]{1,12}", value):
        raise UsageError(f"got after={value[:20]!r}, expected a number")
    return int(value)


def write_submission(directory: Path, signed: SignedRun, app: bytes) -> None:
    """Keep what was submitted beside the run's results."""
    (directory / "run.yaml").write_text(signed.text)
    (directory / "signed.json").write_text(json.dumps(signed.fields()) + "\n")
    (directory / "app.fab").write_bytes(app)
