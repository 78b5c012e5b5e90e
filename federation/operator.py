"""The operator's client of the control interface."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, Self

import httpx

from federation.addresses import split_address
from federation.answers import HEADERS, parse_answer, read_answer, read_events, shallow
from federation.app_bundle import read_bundle
from federation.errors import (
    ConcordatError,
    Exit,
    IdentityError,
    RefusedError,
    UnreachableError,
    UsageError,
    WireError,
)
from federation.home import Home, read_limited
from federation.identity import Role
from federation.json_text import parse_json
from federation.limits import LIMITS
from federation.manifest import accept_manifest, load_manifest
from federation.membership import coordinator_context
from federation.release import request_release
from federation.run import SignedRun, load_run, parse_signed_run, sign_run
from federation.statistics.document import load_statistics
from federation.statistics.result import FORMAT
from federation.submission import DEFAULT_VALIDITY
from federation.wire import MANIFEST, MANIFEST_SIGNATURE

CONTROL = "/concordat/v1/control/"
RECONNECT_SECONDS = 120.0
RETRY_SECONDS = 0.2
_MODEL = 4 * 4 * LIMITS.model_values
"""The bytes of a checkpoint: the model's values, and as many again for each state that a strategy keeps beside them."""
ENDS = frozenset({"run.completed", "run.failed", "run.refused", "run.stopped"})
"""The events that end a run."""


class OperatorClient:
    """Talks to the coordinator with an operator's certificate."""

    def __init__(self, home: Home) -> None:
        identity = home.identity()
        if identity.role is not Role.OPERATOR:
            raise IdentityError(f"{home.path} is the home of the {identity.role} {identity.name}, expected an operator")
        manifest = load_manifest(home)
        coordinator = manifest.federation.coordinator
        if not coordinator.addresses:
            raise UsageError(f"the manifest has no address for {coordinator.name}")
        self._home = home
        self._address = coordinator.addresses[0]
        split_address(self._address)
        self._http = httpx.Client(
            base_url=f"https://{self._address}",
            verify=coordinator_context(home),
            headers=HEADERS,
            timeout=httpx.Timeout(30.0),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def submit(self, run_file: Path, app: bytes | None = None, validity: timedelta = DEFAULT_VALIDITY) -> str:
        """Sign and submit a run with its app, or with a bundle of it that was made before; returns the run's id.

        No silo admits it for the first time once the validity of the signature is over.
        """
        content = read_limited(run_file, LIMITS.document)
        run = load_run(content, source=str(run_file)).model
        if app is None:
            app = build_app(run_file.resolve().parent / run.app.path)
        else:
            read_bundle(app)
        return self._submit(content, app, run.silos, validity)

    def submit_statistics(self, file: Path, validity: timedelta = DEFAULT_VALIDITY) -> str:
        """Sign and submit a run of statistics, which has no app; returns the run's id."""
        content = read_limited(file, LIMITS.document)
        return self._submit(content, b"", load_statistics(content, source=str(file)).model.silos, validity)

    def _submit(self, content: bytes, app: bytes, chosen: Literal["all"] | Collection[str], validity: timedelta) -> str:
        silos = self._every_silo() if chosen == "all" else chosen
        certificate = read_limited(self._home.certificate, LIMITS.certificate)
        signed = sign_run(content.decode(), app, self._home.private_key(), certificate, silos, validity)
        body = {**signed.fields(), "app": base64.b64encode(app).decode()}
        return str(self._object(self._call("POST", "runs", body), "run")["run"])

    def _every_silo(self) -> list[str]:
        """The silos of the newest manifest, which is verified and kept; raises ManifestError for an older one."""
        fields = self._object(self._call("GET", "manifest"))
        manifest = accept_manifest(self._home, str(fields.get(MANIFEST)), str(fields.get(MANIFEST_SIGNATURE)))
        return [member.name for member in manifest.federation.with_role(Role.SILO)]

    def runs(self) -> list[dict[str, Any]]:
        """Every run and its state."""
        return self._objects(self._call("GET", "runs"), "run", "state")

    def members(self) -> list[dict[str, Any]]:
        """Every member, and whether it is connected."""
        return self._objects(self._call("GET", "members"), "name", "role", "country", "online")

    def stop(self, run: str) -> None:
        """Ask a run to end."""
        self._call("POST", f"runs/{run}/stop")

    def resume(self, run: str) -> None:
        """Have a run that failed or was stopped go on from its last closed round."""
        self._call("POST", f"runs/{run}/resume")

    def show(self, run: str) -> dict[str, Any]:
        """How a run stands."""
        found = self._object(self._call("GET", f"runs/{run}"), "run", "state")
        if type(found.get("number", 0)) is not int:
            raise WireError(f"{self._address} sent a run's standing that cannot be read")
        return found

    def model(self, run: str) -> bytes:
        """The final model of a completed run, as a NumPy archive."""
        return self._request("GET", f"runs/{run}/model", limit=_MODEL)

    def checkpoint(self, run: str, number: int) -> bytes:
        """The model after a closed round whose checkpoint is kept, as a NumPy archive."""
        return self._request("GET", f"runs/{run}/checkpoints/{number}", limit=_MODEL)

    def submission(self, run: str) -> tuple[SignedRun, bytes]:
        """What was submitted, and its app; raises WireError. Nothing is verified yet."""
        fields = self._object(self._call("GET", f"runs/{run}/submission"))
        try:
            app = base64.b64decode(fields.pop("app"), validate=True)
        except (ValueError, KeyError, TypeError):
            raise WireError("the coordinator sent no app with the run") from None
        return parse_signed_run(fields), app

    def release(self, run: str, run_digest: str, model: str) -> dict[str, dict[str, str]]:
        """Ask the silos that keep a run's model for its release to this operator; returns what each said."""
        certificate = read_limited(self._home.certificate, LIMITS.certificate)
        request = request_release(run, run_digest, model, self._home.private_key(), certificate)
        said = self._object(self._call("POST", f"runs/{run}/release", request.fields()))
        return {silo: self._object(fields, "status", "rule", "reason") for silo, fields in said.items()}

    def passport(self, run: str) -> bytes:
        """The signed passport of a completed run's model."""
        return self._request("GET", f"runs/{run}/passport", limit=LIMITS.passport)

    def statistics(self, run: str) -> Any:
        """The merged statistics of a completed run, as JSON gives them; raises ConcordatError for anything else."""
        content = self._request("GET", f"runs/{run}/statistics", limit=LIMITS.statistics_result)
        try:
            found = shallow(parse_json(content))
            sound = found["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise ConcordatError(f"{self._address} sent statistics that cannot be read")
        return found

    def follow(self, run: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """The run's events as they happen, until it ends; raises UnreachableError where the stream breaks."""
        url = f"{CONTROL}runs/{run}/events"
        try:
            with self._http.stream("GET", url, params={"after": after}) as response:
                if response.status_code != 200:
                    raise _problem(response.status_code, read_answer(response, LIMITS.control_answer))
                yield from read_events(response, LIMITS.event_line)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._address} does not answer: {error}") from None
        except httpx.InvalidURL:
            raise _no_id(run) from None

    def follow_on(self, run: str, patience: float = RECONNECT_SECONDS, after: int = 0) -> Iterator[dict[str, Any]]:
        """The run's events until it ends, also where the coordinator is away for up to `patience` seconds meanwhile.

        `after` is the number of the event after which to begin.

        Raises UnreachableError where it is away for longer, or was not there to begin with.
        """
        lost = time.monotonic()
        while True:
            problem = UnreachableError(f"{self._address} ended the stream before the run ended")
            ended = False
            try:
                for event in self.follow(run, after):
                    # Numbers go on over restarts; an event that a crash took with it comes again under its number.
                    after, lost = int(event["number"]), time.monotonic()
                    ended = event["event"] in ENDS
                    yield event
            except UnreachableError as error:
                problem = error
            if ended:
                return
            if after == 0 or time.monotonic() - lost > patience:
                raise problem
            time.sleep(RETRY_SECONDS)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return parse_answer(self._request(method, path, body))

    def _object(self, answer: object, *names: str) -> dict[str, Any]:
        if isinstance(answer, dict) and all(name in answer for name in names):
            return answer
        raise WireError(f"{self._address} sent an answer that cannot be read: it has no {', '.join(names) or 'fields'}")

    def _objects(self, answer: object, *names: str) -> list[dict[str, Any]]:
        return (
            [self._object(one, *names) for one in answer] if isinstance(answer, list) else [self._object(answer, "[]")]
        )

    def _request(self, method: str, path: str, body: object = None, *, limit: int = LIMITS.control_answer) -> bytes:
        try:
            with self._http.stream(method, CONTROL + path, json=body) as response:
                content = read_answer(response, limit)
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"{self._address} does not answer: {error}", advice="is the coordinator running?"
            ) from None
        except httpx.InvalidURL:
            raise _no_id(path) from None
        if not response.is_success:
            raise _problem(response.status_code, content)
        return content


def _no_id(given: str) -> WireError:
    return WireError(f"got {given[:100]!r}, expected a run's id")


def _problem(status: int, content: bytes) -> ConcordatError:
    if status == HTTPStatus.FORBIDDEN:
        return RefusedError(f"the coordinator refused: {content.decode('utf-8', 'replace')[:1000]}")
    try:
        answer = parse_json(content)
        kind = RefusedError if answer.get("exit_code") == Exit.REFUSED else ConcordatError
        return kind(str(answer["error"])[:2000])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ConcordatError(f"the coordinator answered {status}")


def build_app(directory: Path) -> bytes:
    """Bundle a Flower app with Flower's own command; raises UsageError with its words where it refuses.

    Raises BundleError for a bundle that every silo would refuse.
    """
    if not (directory / "pyproject.toml").is_file():
        raise UsageError(
            f"{directory} is not a Flower app: it has no pyproject.toml", advice="set app.path in run.yaml"
        )
    flwr = Path(sys.executable).with_name("flwr")
    with tempfile.TemporaryDirectory(prefix="concordat-app-") as out:
        done = subprocess.run(
            [str(flwr), "build", "--app", str(directory)],
            cwd=out,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": out, "FLWR_TELEMETRY_ENABLED": "0", "LANG": "C.UTF-8"},
        )
        bundles = list(Path(out).glob("*.fab"))
        if done.returncode != 0 or len(bundles) != 1:
            # Without the frame that is drawn around it on a terminal.
            words = " ".join(re.sub("[\u2500-\u257f]", " ", done.stderr or done.stdout).split())
            raise UsageError(f"flwr build refused {directory}: {words[:500]}")
        bundle = read_limited(bundles[0], LIMITS.app)
    read_bundle(bundle)
    return bundle
