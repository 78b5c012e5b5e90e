"""Logs of three parties about one run, written with the real writer, in the words that gates and coordinators use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.cosignature import cosign, with_signature
from audit.entry import Event
from audit.keys import vkey_of
from audit.log import AuditLog

FEDERATION = "heart.example"
RUN, OTHER = "heart-7f3a21", "heart-other"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<!-- \u202e=cmd|x\\ \u2028."
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Party:
    name: str
    role: str
    directory: Path
    vkey: str


@dataclass
class Clock:
    now: datetime = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=40)
        return self.now


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def write_logs(folder: Path, *, other_model: bool = False, hostile: str = "") -> list[Party]:
    clock, parties, logs = Clock(), [], {}
    for role, name in (("coordinator", "hub"), ("silo", "north"), ("silo", "south")):
        origin, key = f"{FEDERATION}/{role}/{name}", key_of(name)
        directory = folder / name
        logs[name] = AuditLog.open(directory, origin=origin, key=key, clock=clock)
        parties.append(Party(name, role, directory, vkey_of(origin, key.public_key())))

    def add(name: str, action: str, **fields: object) -> None:
        role = "coordinator" if name == "hub" else "silo"
        actor = fields.pop("actor", f"spiffe://{FEDERATION}/{role}/{name}")
        run = fields.pop("run", RUN)
        logs[name].append(Event(actor=actor, action=action, resource=f"run/{run}" if run else name, run=run, **fields))

    policies = {name: digest(f"policy of {name}") for name in ("north", "south")}
    add("hub", "coordinator.start", run=None, detail={"version": "0.1.0"})
    for name, policy in policies.items():
        add(name, "gate.start", run=None, policy=policy, detail={"policy_version": 3, "version": "0.1.0"})
    operator = f"spiffe://{FEDERATION}/operator/olga"
    submitted = {"digest": digest("run"), "app": digest("app"), "purpose": "HMB"}
    add(
        "hub",
        "run.submit",
        actor=operator,
        decision="allow",
        rule="control.operator",
        reason="signed",
        detail=submitted,
    )
    add("hub", "run.begin", detail={"app": digest("app"), "quorum": 2, "silos": "north,south"})
    for name, policy in policies.items():
        admission = {
            "run_digest": digest("run"),
            "app": digest("app"),
            "purpose": "HMB",
            "dataset": "heart",
            "operator": operator,
            "parties": "hub:DE,north:DE,south:FR",
            "location": "policy.yaml:1:1",
        }
        decided = {"policy": policy, "rule": "admission.allow", "reason": f"admitted {hostile}".strip()}
        add(name, "run.admit", decision="allow", detail=admission, **decided)
        separation = {"network": "empty network namespace", "files": "files confined by Landlock (version 7)"}
        add(name, "worker.connected", run=None, policy=policy, detail=separation)
        view = {"dataset": "heart", "columns": "age,sex,chol", "rows": 120, "view": digest(name)}
        add(name, "view.build", decision="allow", policy=policy, rule="view.allow", reason="allowed", detail=view)
    for number in (1, 2, 3):
        model = digest(f"model {number}")
        add("hub", "round.begin", round=number, detail={"model": model, "silos": "north,south"})
        for name, policy in policies.items():
            seen = digest("a crafted model") if other_model and (name, number) == ("south", 2) else model
            common = {"decision": "allow", "policy": policy, "round": number, "reason": "allowed"}
            add(name, "round.ingress", rule="ingress.allow", detail={"model": seen}, **common)
            update = {
                "update": digest(f"{name} {number}"),
                "norm_micro": 900000 // number,
                "bytes": 6148,
                "examples": 80,
            }
            payload = {"metrics": {"loss": 0.7 / number, "auc": 0.8 + number / 30}}
            add(name, "round.egress", rule="egress.allow", detail=update, payload=payload, **common)
        ended = {"model": digest(f"model {number + 1}"), "silos": "north,south", "examples": 160, "dropped": ""}
        add("hub", "round.end", round=number, detail=ended)
    debit = {"epsilon_micro": 412000, "delta": "1e-5"}
    add("north", "ledger.debit", decision="allow", policy=policies["north"], rule="privacy.budget", detail=debit)
    asked = {"purpose": "POA", "dataset": "heart", "location": "policy.yaml:11:3", "parties": "hub:DE,north:DE"}
    add(
        "north",
        "message.refused",
        decision="deny",
        policy=policies["north"],
        rule="default-deny",
        reason="no rule allows it",
    )
    add("hub", "run.end", detail={"outcome": "completed"})
    refused = {
        "decision": "deny",
        "policy": policies["north"],
        "rule": "purposes.allow",
        "reason": "POA is not allowed",
    }
    add("north", "run.admit", run=OTHER, detail=asked, **refused)
    notes = {name: log.checkpoint for name, log in logs.items()}
    for log in logs.values():
        log.close()
    for witness, name in (("hub", "north"), ("hub", "south"), ("north", "hub")):
        held = folder / witness / "witness"
        held.mkdir(exist_ok=True)
        (held / name).write_text(countersigned(notes[name], parties, witness))
    return parties


def countersigned(note: str, parties: list[Party], witness: str) -> str:
    """A checkpoint with the signature of another party, as its witness store keeps it."""
    name = next(party.vkey.partition("+")[0] for party in parties if party.name == witness)
    line = cosign(note.partition("\n\n")[0] + "\n", name, key_of(witness), 1793520060)
    return with_signature(note, line)


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> list[Party]:
    return write_logs(tmp_path_factory.mktemp("parties"))


@pytest.fixture
def parties(_written: list[Party], tmp_path: Path) -> list[Party]:
    """Copies that a test may alter."""
    copies = []
    for party in _written:
        shutil.copytree(party.directory, tmp_path / "logs" / party.name)
        copies.append(Party(party.name, party.role, tmp_path / "logs" / party.name, party.vkey))
    return copies


@pytest.fixture
def directories(parties: list[Party]) -> list[str]:
    return [str(party.directory) for party in parties]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Opens a page in a real browser without a network and gives its document as the browser left it."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    answers = (
        path for path in found if not subprocess.run([path, "--version"], capture_output=True, check=False).returncode
    )
    program = next(answers, None)
    if program is None:
        pytest.skip("no Chromium found")
    profile = tmp_path_factory.mktemp("browser")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-extensions", "--proxy-server=127.0.0.1:9"]
    flags += [f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom"]

    def dump(page: Path) -> str:
        with subprocess.Popen(
            [program, *flags, page.as_uri()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                return process.communicate(timeout=120)[0].decode()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    return dump


def last_json(document: str) -> object:
    """What a test page of ours left in its element `out`."""
    import html

    return json.loads(html.unescape(document.partition('<pre id="out">')[2].partition("</pre>")[0]))
