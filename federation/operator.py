"""The operator's client of the control interface."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from federation.errors import ConcordatError, IdentityError, RefusedError, UnreachableError, UsageError
from federation.home import Home, read_limited
from federation.identity import Role
from federation.limits import LIMITS
from federation.manifest import load_manifest
from federation.run import SignedRun, load_run, sign_run
from federation.tls import client_context

CONTROL = "/concordat/v1/control/"


class OperatorClient:
    """Talks to the coordinator with an operator's certificate."""

    def __init__(self, home: Home) -> None:
        identity = home.identity()
        if identity.role is not Role.OPERATOR:
            raise IdentityError(f"{home.path} is the home of a {identity.role}, expected an operator")
        coordinator = load_manifest(home).federation.coordinator
        if not coordinator.addresses:
            raise UsageError(f"the manifest has no address for {coordinator.name}")
        self._home = home
        self._address = coordinator.addresses[0]
        self._http = httpx.Client(
            base_url=f"https://{self._address}",
            verify=client_context(home.certificate, home.key, home.authority),
            timeout=httpx.Timeout(30.0),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def submit(self, run_file: Path) -> str:
        """Bundle the run's app, sign both, submit them; returns the run's id."""
        content = read_limited(run_file, LIMITS.document)
        run = load_run(content, source=str(run_file)).model
        app = build_app(run_file.resolve().parent / run.app.path)
        certificate = read_limited(self._home.certificate, LIMITS.certificate)
        signed: SignedRun = sign_run(content.decode(), app, self._home.private_key(), certificate)
        body = {**signed.fields(), "app": base64.b64encode(app).decode()}
        return str(self._call("POST", "runs", body)["run"])

    def runs(self) -> list[dict[str, Any]]:
        """Every run and its state."""
        return list(self._call("GET", "runs"))

    def members(self) -> list[dict[str, Any]]:
        """Every member, and whether it is connected."""
        return list(self._call("GET", "members"))

    def stop(self, run: str) -> None:
        """Ask a run to end."""
        self._call("POST", f"runs/{run}/stop")

    def model(self, run: str) -> bytes:
        """The final model of a completed run, as a NumPy archive."""
        return self._request("GET", f"runs/{run}/model").content

    def follow(self, run: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """The run's events as they happen, until it ends; raises UnreachableError where the stream breaks."""
        url = f"{CONTROL}runs/{run}/events"
        try:
            with self._http.stream("GET", url, params={"after": after}) as response:
                if response.status_code != 200:
                    response.read()
                    raise _problem(response)
                for line in response.iter_lines():
                    if len(line) > LIMITS.event_line:
                        raise ConcordatError("got an event that is larger than an event may be")
                    if line:
                        yield json.loads(line)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._address} does not answer: {error}") from None

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return self._request(method, path, body).json()

    def _request(self, method: str, path: str, body: object = None) -> httpx.Response:
        try:
            response = self._http.request(method, CONTROL + path, json=body)
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"{self._address} does not answer: {error}", advice="is the coordinator running?"
            ) from None
        if response.status_code >= 400:
            raise _problem(response)
        return response


def _problem(response: httpx.Response) -> ConcordatError:
    if response.status_code == 403:
        return RefusedError(f"the coordinator refused: {response.text[:1000]}")
    try:
        return ConcordatError(str(response.json()["error"])[:2000])
    except (ValueError, KeyError, TypeError):
        return ConcordatError(f"the coordinator answered {response.status_code}")


def build_app(directory: Path) -> bytes:
    """Bundle a Flower app with Flower's own command; raises UsageError with its words where it refuses."""
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
            words = " ".join((done.stderr or done.stdout).split())
            raise UsageError(f"flwr build refused {directory}: {words[:500]}")
        return read_limited(bundles[0], LIMITS.app)
