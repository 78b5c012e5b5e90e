"""The operator's interface: submit, follow, stop and fetch runs. Reached with an operator certificate alone."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import parse_qs

from coordinator.events import EventLog
from coordinator.execution import Execution
from coordinator.gateway import CONTROL_PREFIX, Scope, Send, send_json, send_response
from coordinator.ownership import is_own, require_own
from coordinator.recorded import RecordedRun, describe
from coordinator.registry import checkpoint, fetched, kept_of
from coordinator.releases import Releases, Run
from coordinator.superlink import Response, SuperLink
from federation.errors import IdentityError, RefusedError, UsageError, WireError
from federation.identity import Peer
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.release import parse_release_request
from federation.run import SignedRun, app_digest, parse_signed_run
from federation.wire import MANIFEST, MANIFEST_SIGNATURE

FOLLOW_SECONDS = 10.0
FOLLOWERS = 32
LISTED = ("run", "state", "purpose", "submitted", "closed", "rounds")
"""What the list of runs says of each; of an operator's own runs it gives the metrics, too."""


class Runs:
    """The coordinator's runs, those of earlier processes among them; one executes at a time, in its own thread."""

    def __init__(
        self, make: Callable[[SignedRun, bytes, Peer], Execution], again: Callable[[RecordedRun, Peer], Execution]
    ) -> None:
        self._make = make
        self._again = again
        self._runs: dict[str, Execution | RecordedRun] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.hold = threading.Lock()
        """Whoever asks silos for something beside a run holds this meanwhile, and only while `is_idle`."""

    def submit(self, signed: SignedRun, app: bytes, operator: Peer) -> Execution:
        """Accept a run and start it; raises UsageError while another one executes."""
        with self._lock:
            self._require_idle()
            return self._start(self._make(signed, app, operator))

    def resume(self, run_id: str, operator: Peer) -> Execution:
        """Go on with a run that failed or was stopped; raises UsageError for any other, or while one executes."""
        run = self.get(run_id)
        with self._lock:
            self._require_idle()
            if run.state not in {"failed", "stopped"}:
                raise UsageError(f"run {run_id} is {run.state}, expected one that failed or was stopped")
            return self._start(self._again(RecordedRun(run.directory), operator))

    def know(self, runs: Iterable[RecordedRun]) -> None:
        """Take over the runs of earlier processes."""
        with self._lock:
            self._runs |= {run.run_id: run for run in runs}

    def take_up(self, run: Execution) -> None:
        """Go on with a run that an earlier process was interrupted in."""
        with self._lock:
            self._start(run)

    def is_idle(self) -> bool:
        """Whether no run is executed, nor about to be."""
        return not self._active()

    def _active(self) -> list[Execution | RecordedRun]:
        return [run for run in list(self._runs.values()) if run.state in {"pending", "running"}]

    def _require_idle(self) -> None:
        active = self._active()
        if active:
            raise UsageError(
                f"run {active[0].run_id} is executing",
                advice="wait for its end, or stop it with: concordat run stop " + active[0].run_id,
            )

    def _start(self, run: Execution) -> Execution:
        self._runs[run.run_id] = run
        thread = threading.Thread(target=self._execute, args=(run,), name=f"run-{run.run_id}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return run

    def _execute(self, run: Execution) -> None:
        with self.hold:
            pass  # what was asked of silos beside a run has its answers, or gave up
        run.execute()

    def get(self, run_id: str) -> Execution | RecordedRun:
        """A run by its id; raises UsageError."""
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            raise UsageError(f"no run {run_id[:80]!r} here", advice="list them with: concordat run list")
        return run

    def all(self) -> list[Execution | RecordedRun]:
        """Every run, oldest first."""
        with self._lock:
            return list(self._runs.values())

    def executed(self) -> list[Execution]:
        """The runs that this process executes or has executed."""
        return [run for run in self.all() if isinstance(run, Execution)]

    def exclude(self, silo: str) -> None:
        """Have what executes go on without a silo."""
        for run in self.executed():
            if run.state == "running":
                run.exclude(silo)

    def stop(self) -> None:
        """Stop what executes and wait for it to have recorded its end."""
        for run in self.executed():
            run.stop()
        self._join()

    def suspend(self) -> None:
        """Interrupt what executes, to be taken up by the next process, and wait for it to have recorded that."""
        for run in self.executed():
            run.suspend()
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=10)


class Control:
    """Answers the control interface."""

    def __init__(
        self,
        runs: Runs,
        superlink: SuperLink,
        members: Callable[[], list[dict[str, Any]]],
        releases: Releases,
        not_own: Callable[[Peer, str, str], None],
        manifest: Callable[[], SignedManifest],
    ) -> None:
        """`not_own` records that an operator asked for what is another's: who, of which run, the reason."""
        self._not_own = not_own
        self._runs = runs
        self._releases = releases
        self._superlink = superlink
        self._members = members
        self._manifest = manifest
        # Whoever follows a run waits in a thread; these are its own, so that no silo's request waits for one.
        self._followers = ThreadPoolExecutor(FOLLOWERS, thread_name_prefix="follow")
        # So does whoever asks silos that are silent: silos are asked one question after the other.
        self._askers = ThreadPoolExecutor(1, thread_name_prefix="release")
        self._asking: set[str] = set()
        """The operators whose question has no answer yet."""

    async def __call__(self, peer: Peer, scope: Scope, body: bytes, send: Send) -> None:
        """Answer one request; raises ConcordatError for what cannot be done."""
        method = scope["method"]
        parts = scope["path"].removeprefix(CONTROL_PREFIX).strip("/").split("/")
        match (method, *parts):
            case ("GET", "members"):
                online = self._superlink.online()
                await send_json(send, 200, [{**m, "online": m["name"] in online} for m in self._members()])
            case ("GET", "manifest"):
                newest = await asyncio.to_thread(self._manifest)
                fields = {MANIFEST: newest.document.text, MANIFEST_SIGNATURE: newest.signature}
                await send_json(send, 200, fields)
            case ("GET", "runs"):
                await send_json(send, 200, await asyncio.to_thread(self._list, peer))
            case ("POST", "runs"):
                run = await asyncio.to_thread(self._submit, peer, body)
                await send_json(send, 201, {"run": run.run_id})
            case ("GET", "runs", run_id) if run_id:
                await send_json(send, 200, await asyncio.to_thread(self._describe, run_id, peer))
            case ("GET", "runs", run_id, "events"):
                query = parse_qs(scope["query_string"].decode("ascii", "replace"))
                await self._follow(await asyncio.to_thread(self._events, run_id, peer), _after(query), send)
            case ("POST", "runs", run_id, "stop"):
                # Any operator may end a run: it gives nothing away, and the run's end says who asked for it.
                self._runs.get(run_id).stop(f"the operator {peer.name}")
                await send_json(send, 202, {"run": run_id})
            case ("POST", "runs", run_id, "resume"):
                await asyncio.to_thread(self._runs.resume, run_id, peer)
                await send_json(send, 202, {"run": run_id})
            case ("POST", "runs", run_id, "release"):
                await send_json(send, 200, await self._asked(run_id, peer, body))
            case ("GET", "runs", run_id, ("model" | "passport" | "submission" | "statistics") as what):
                await send_response(send, await asyncio.to_thread(self._fetched, run_id, peer, what))
            case ("GET", "runs", run_id, "checkpoints", number):
                await send_response(send, await asyncio.to_thread(self._checkpoint, run_id, peer, number))
            case _:
                await send_json(send, 404, {"error": f"no such call: {method} {scope['path'][:200]}"})

    def _of(self, run_id: str) -> Run:
        run = self._runs.get(run_id)
        return run_id, run.directory, run.events.after(0, 0.0)[0]

    def _fetched(
        self, run_id: str, peer: Peer, what: Literal["model", "passport", "submission", "statistics"]
    ) -> Response:
        """A file of a run: the model if the silos let it go to this operator, its passport to any operator."""
        run = self._runs.get(run_id)
        if what == "model":
            self._releases.require(self._of(run_id), peer)
        elif what != "passport":
            self._require_own(run, peer)
        return fetched(run, what)

    def _require_own(self, run: Execution | RecordedRun, peer: Peer) -> None:
        try:
            require_own(run, peer)
        except RefusedError as error:
            self._not_own(peer, run.run_id, str(error))
            raise

    def _checkpoint(self, run_id: str, peer: Peer, number: str) -> Response:
        """A round's model, kept from an operator as the final one is: the last round's is that very model."""
        response = checkpoint(self._runs.get(run_id), number)
        self._releases.require(self._of(run_id), peer)
        return response

    async def _asked(self, run_id: str, peer: Peer, body: bytes) -> dict[str, dict[str, str]]:
        if peer.name in self._asking:
            raise UsageError(f"{peer.name} asks for a release already", advice="wait for its answer")
        self._asking.add(peer.name)
        asking = self._askers.submit(self._release, run_id, peer, body)
        asking.add_done_callback(lambda _: self._asking.discard(peer.name))
        return await asyncio.wrap_future(asking)

    def _release(self, run_id: str, peer: Peer, body: bytes) -> dict[str, dict[str, str]]:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise WireError("the request is not one for a release")
        return self._releases.ask(self._of(run_id), parse_release_request(fields), peer)

    def _submit(self, peer: Peer, body: bytes) -> Execution:
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

    def _events(self, run_id: str, peer: Peer) -> EventLog:
        run = self._runs.get(run_id)
        self._require_own(run, peer)
        return run.events

    def _describe(self, run_id: str, peer: Peer) -> dict[str, Any]:
        run = self._runs.get(run_id)
        self._require_own(run, peer)
        return {**describe(run_id, run.state, run.events.after(0, 0.0)[0]), **kept_of(run.directory)}

    def _list(self, peer: Peer) -> list[dict[str, Any]]:
        """Every run in short."""
        found = []
        for run in self._runs.all():
            known = describe(run.run_id, run.state, run.events.after(0, 0.0)[0])
            names = (*LISTED, "metrics") if is_own(run, peer) else LISTED
            found.append({name: known[name] for name in names if name in known})
        return found

    async def _follow(self, log: EventLog, after: int, send: Send) -> None:
        """Stream the run's events as JSON lines until it ends; an empty line shows that the stream lives."""
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        ended, loop = False, asyncio.get_running_loop()
        while not ended:
            events, ended = await loop.run_in_executor(self._followers, log.after, after, FOLLOW_SECONDS)
            after += len(events)
            lines = b"".join(json.dumps(event).encode() + b"\n" for event in events) or b"\n"
            await send({"type": "http.response.body", "body": lines, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _after(query: Mapping[str, list[str]]) -> int:
    value = query.get("after", ["0"])[0]
    if not re.fullmatch(r"[0-9]{1,12}", value):
        raise UsageError(f"got after={value[:20]!r}, expected a number")
    return int(value)
