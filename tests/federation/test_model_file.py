"""A model is fetched with its passport, and its app is run only where the passport names it."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from federation.errors import ConcordatError, IdentityError, UsageError
from federation.identity import Role
from federation.model_file import fetch_verified, write_keras
from federation.passport import Predicate
from federation.progress import list_line, standing_lines
from federation.run import SignedRun, app_digest, sign_run

from .test_passport import Site

CONTENT, APP = b"a model's archive", b"an app's bundle"
STARTED = subprocess.Popen


class Hub:
    """A coordinator that answers whatever a test has it answer."""

    def __init__(self, place: Site, run_text: str) -> None:
        self.place = place
        self.ops = place.founded.member("ops", Role.OPERATOR)
        place.founded.refresh()
        place.manifest = place.founded.authority.manifest()
        self.signed = sign_run(run_text, APP, self.ops.private_key(), self.ops.certificate.read_bytes(), ["silo-a"])
        self.app, self.content = APP, CONTENT
        self.said: dict[str, Any] = {"app": app_digest(APP)}
        self.ran: dict[str, Any] = {"digest": self.signed.digest}

    def passport(self, _run: str) -> bytes:
        said: Predicate = self.place.predicate.model_copy(
            update={
                **self.said,
                "run": self.place.predicate.run.model_copy(update=self.ran),
                "manifest": self.place.manifest.document.digest,
                "manifest_version": self.place.manifest.version,
            }
        )
        return self.place.issue(said, model=hashlib.sha256(CONTENT).hexdigest())

    def model(self, _run: str) -> bytes:
        return self.content

    def submission(self, _run: str) -> tuple[SignedRun, bytes]:
        return self.signed, self.app


@pytest.fixture
def hub(tmp_path: Path, run_text: str) -> Any:
    return Hub(Site(tmp_path / "f"), run_text)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that were started in place of the app's."""
    commands: list[list[str]] = []

    def start(command: list[str], **given: Any) -> subprocess.Popen[bytes]:
        commands.append(command)
        return STARTED([sys.executable, "-c", "raise SystemExit('it is not run here')"], **given)

    monkeypatch.setattr("federation.model_file.subprocess.Popen", start)
    monkeypatch.setattr("federation.model_file.importlib.util.find_spec", lambda _: object())
    return commands


def test_a_model_with_its_passport_is_taken(hub: Any) -> None:
    assert fetch_verified(hub, hub.ops, "r-1").content == CONTENT


def test_another_model_is_refused(hub: Any) -> None:
    hub.content = CONTENT + b"\0"
    with pytest.raises(IdentityError, match="the passport is of another model"):
        fetch_verified(hub, hub.ops, "r-1")


def test_the_passport_of_another_run_is_refused(hub: Any) -> None:
    with pytest.raises(IdentityError, match="the passport is of run r-1, expected r-2"):
        fetch_verified(hub, hub.ops, "r-2")


def test_the_app_that_the_passport_names_is_run_as_ones_own_or_not(
    hub: Any, started: list[list[str]], tmp_path: Path
) -> None:
    for operator, whose in (("ops", "own"), ("eve", "foreign")):
        hub.ran = {"digest": hub.signed.digest, "operator": operator}
        fetched = fetch_verified(hub, hub.ops, "r-1")
        with pytest.raises(ConcordatError, match="the model cannot be made: it is not run here"):
            write_keras(hub, hub.ops, "r-1", fetched, tmp_path / "model.keras")
        assert started[-1][-1] == whose
    assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("change", ["app", "text"])
def test_an_app_or_a_run_that_the_passport_does_not_name_is_not_run(
    hub: Any, started: list[list[str]], tmp_path: Path, change: str
) -> None:
    fetched = fetch_verified(hub, hub.ops, "r-1")
    if change == "app":
        hub.app = b"another app"
    else:
        text = hub.signed.text.replace("seed", "# seed") + "# changed\n"
        hub.signed = sign_run(text, APP, hub.ops.private_key(), hub.ops.certificate.read_bytes(), ["silo-a"])
    with pytest.raises(IdentityError, match=r"got (app|run) sha256:\w+, expected sha256:\w+, of which the passport"):
        write_keras(hub, hub.ops, "r-1", fetched, tmp_path / "model.keras")
    assert started == []


def test_without_tensorflow_the_archive_is_what_there_is(
    hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("federation.model_file.importlib.util.find_spec", lambda _: None)
    fetched = fetch_verified(hub, hub.ops, "r-1")
    with pytest.raises(UsageError, match="TensorFlow, which is not installed here"):
        write_keras(hub, hub.ops, "r-1", fetched, tmp_path / "model.keras")


def test_a_run_stands_in_one_line_in_the_list() -> None:
    run = {"run": "r-1", "state": "running", "closed": 2, "rounds": 5, "metrics": {"auc": 0.9}}
    assert list_line(run).split() == ["r-1", "running", "2/5", "rounds", "auc", "0.9000"]
    assert list_line({"run": "r-1", "state": "pending", "closed": 0}).split() == ["r-1", "pending"]


def test_what_can_be_fetched_is_shown() -> None:
    shown = "\n".join(
        standing_lines({"run": "r", "state": "completed", "resumed": 0, "checkpoints": [4, 5], "files": ["model.npz"]})
    )
    assert "checkpoints of rounds 4, 5" in shown
    assert "model.npz" in shown


def test_the_process_that_runs_the_app_says_why_it_made_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("kind: Other")
    for name in ("app.fab", "model.npz"):
        (tmp_path / name).write_bytes(b"")
    command = [sys.executable, "-P", "-m", "silo.worker.keras_file", str(tmp_path), "own"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "run.yaml" in done.stderr


IN = "import os, sys; os.chdir(sys.argv[1]); "
LEFT = {
    "a link to a key": (IN + "os.symlink('@KEY@', 'model.keras')", "left a link in place of its model"),
    "a directory": (IN + "os.mkdir('model.keras')", "Is a directory"),
    "a pipe": (IN + "os.mkfifo('model.keras')", "no regular file"),
    "nothing": (IN, "is missing"),
    "bytes that are no text": (IN + "os.write(2, bytes([255, 254])); sys.exit(1)", "the model cannot be made"),
    "words without end": (
        IN + "[os.write(1 + n % 2, b'x' * 10**6) for n in range(200)]; sys.exit(1)",
        "cannot be made",
    ),
    "deep directories": (
        IN + "[(os.mkdir('d'), os.chdir('d')) for _ in range(1500)]; sys.exit(1)",
        "the model cannot be made: it gave no reason",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_attack_what_an_app_leaves_in_place_of_its_model(
    hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    """An app may write in its directory whatever it likes; the operator's command reads it, and removes it."""
    code, words = LEFT[what]
    scratch, key = tmp_path / "scratch", tmp_path / "key.pem"
    scratch.mkdir()
    key.write_text("the operator's key")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr("federation.model_file.importlib.util.find_spec", lambda _: object())

    def start(command: list[str], **given: Any) -> subprocess.Popen[bytes]:
        return STARTED([sys.executable, "-c", code.replace("@KEY@", str(key)), command[-2]], **given)

    fetched = fetch_verified(hub, hub.ops, "r-1")
    monkeypatch.setattr("federation.model_file.subprocess.Popen", start)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConcordatError, match=words):
        write_keras(hub, hub.ops, "r-1", fetched, tmp_path / "model.keras")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    assert not (tmp_path / "model.keras").exists()
    assert not list(scratch.iterdir())
