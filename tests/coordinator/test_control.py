"""The operator's and the auditor's interface of a whole coordinator, without sockets."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.errors import AuditLocked, AuditWriteError
from audit.verify import VerificationFailure, verify
from coordinator.checkpoints import Checkpoints
from coordinator.control import FOLLOWERS
from coordinator.gateway import CONTROL_PREFIX, EVIDENCE_PREFIX
from coordinator.service import Coordinator, prepare_home
from federation.errors import IdentityError, UsageError
from federation.identity import Role, load_certificate, load_private_key
from federation.limits import LIMITS
from federation.manifest import sign_manifest, store_manifest
from federation.run import app_digest, parse_signed_run, sign_run
from federation.wire import weights_digest

APP = b"the app's bundle"
RUN = """\
apiVersion: concordat/v1
kind: Run
metadata:
  name: tumour-classifier
purpose: HMB
dataset: wisconsin
features: [radius, texture]
label: {column: malignant}
app: {path: app, model: "model:build_model"}
strategy:
  rounds: 3
"""


class Hub:
    """A coordinator with its federation, asked through its door."""

    def __init__(self, founded: Any, client: Any) -> None:
        self.founded = founded
        self.homes = founded.homes
        self.coordinator = Coordinator(self.homes["hub"])
        self.client = client(self.coordinator._gateway)
        self.stopped = ""

    def close(self) -> None:
        self.coordinator._runs.stop()
        self.coordinator._log.close()

    def control(self, path: str, method: str = "GET", body: object = None, who: str = "ops") -> Any:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.client.call(self.homes[who], CONTROL_PREFIX + path, method, raw)

    def evidence(self, path: str, method: str = "GET", body: bytes = b"") -> Any:
        return self.client.call(self.homes["aud"], EVIDENCE_PREFIX + path, method, body)

    def signed(self, text: str = RUN, app: bytes = APP, who: str = "ops") -> dict[str, Any]:
        home = self.homes[who]
        signed = sign_run(text, app, home.private_key(), home.certificate.read_bytes(), ["silo-a", "silo-b"])
        return {**signed.fields(), "app": base64.b64encode(app).decode()}

    def submit(self) -> str:
        answer = self.control("runs", "POST", self.signed())
        assert answer.status == 201, answer.body
        return str(answer.json["run"])

    def actions(self) -> list[dict[str, Any]]:
        """What is in the log."""
        lines = b"".join(path.read_bytes() for path in sorted((self.homes["hub"].audit / "segments").glob("*.jsonl")))
        return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture
def hub(federation: Any, client: Any, tmp_path: Path) -> Iterator[Hub]:
    """A coordinator of one's own."""
    made = Hub(federation.copy(tmp_path / "federation"), client)
    yield made
    made.close()


@pytest.fixture(scope="module")
def still(federation: Any, client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A coordinator with one run that was stopped, for requests that change nothing."""
    made = Hub(federation.copy(tmp_path_factory.mktemp("still") / "federation"), client)
    made.stopped = made.submit()
    made.coordinator._runs.stop()
    yield made
    made.close()


# -- submitting


def test_a_signed_run_is_recorded_kept_and_begun(hub: Hub):
    run = hub.submit()
    assert re.fullmatch(r"tumour-classifier-[0-9a-f]{12}", run)
    directory = hub.homes["hub"].runs / run
    assert directory.stat().st_mode & 0o777 == 0o700
    assert ((directory / "run.yaml").read_text(), (directory / "app.fab").read_bytes()) == (RUN, APP)
    entry = next(entry for entry in hub.actions() if entry["action"] == "run.submit")
    assert (entry["actor"], entry["decision"], entry["run"]) == ("spiffe://cardio.example/operator/ops", "allow", run)
    assert entry["detail"]["purpose"] == "HMB"
    (listed,) = hub.control("runs").json
    assert (listed["run"], listed["state"], listed["closed"]) == (run, "running", 0)


def test_one_run_executes_at_a_time(hub: Hub):
    run = hub.submit()
    answer = hub.control("runs", "POST", hub.signed())
    assert answer.status == 422
    assert f"run {run} is executing; wait for its end" in answer.json["error"]
    assert hub.control(f"runs/{run}/stop", "POST").status == 202
    assert follow(hub, run)[-1]["event"] == "run.stopped"
    hub.coordinator._runs.stop()
    assert hub.submit() != run


def test_submissions_that_are_refused_leave_nothing(hub: Hub):
    good = hub.signed()
    broken = RUN.replace("rounds: 3", "rounds: 0")
    cases: dict[str, list[Any]] = {
        "not a signed run with its app": [
            b"",
            b"{",
            b"[]",
            b"5",
            b'"app"',
            b"{}",
            b"[" * 100_000,
            b"\xff",
            {**good, "app": None},
            {**good, "app": "!"},
            {**good, "app": "\u00e9"},
            {**good, "app": [1]},
        ],
        "without a usable field": [
            {**good, "signature": "!"},
            {**good, "signature": "\u00e9"},
            {**good, "run": []},
            {**good, "operator": 5},
            {name: value for name, value in good.items() if name != "operator"},
            {**good, "run": "\ud800"},
        ],
        "larger than a run may be": [{**good, "run": "#" * (LIMITS.document + 1)}],
        "which was signed": [{**good, "app": base64.b64encode(b"another app").decode()}],
        "does not verify": [
            {**good, "run": RUN.replace("rounds: 3", "rounds: 4")},
            {**good, "signature": hub.signed(who="ops-b")["signature"]},
        ],
        "signed by ops-b, expected ops": [hub.signed(who="ops-b")],
        "signed by a silo": [hub.signed(who="silo-a")],
        "run.yaml:11:11: ": [hub.signed(broken)],
        "kind": [hub.signed("kind: SiloPolicy\n")],
        "not a PEM certificate": [{**good, "operator": "x"}],
    }
    for reason, bodies in cases.items():
        for body in bodies:
            answer = hub.control("runs", "POST", body)
            assert (answer.status, reason in answer.json["error"]) == (422, True), (reason, answer.body)
    assert hub.control("runs").json == []
    assert not hub.homes["hub"].runs.exists() or list(hub.homes["hub"].runs.iterdir()) == []
    ops = "spiffe://cardio.example/operator/ops"
    assert [(entry["actor"], entry["action"]) for entry in hub.actions()] == [(ops, "certificate.first_use")]


def test_an_app_that_is_too_large_is_refused(hub: Hub):
    answer = hub.control("runs", "POST", hub.signed(app=bytes(LIMITS.app + 1)))
    assert (answer.status, "at most" in answer.json["error"]) == (422, True)
    assert hub.control("runs", "POST", hub.signed(app=bytes(LIMITS.app))).status == 201


def test_a_run_that_cannot_be_recorded_does_not_begin(hub: Hub):
    assert hub.control("runs").json == []
    hub.coordinator._log.close()
    answer = hub.control("runs", "POST", hub.signed())
    assert (answer.status, "refuses to append" in answer.json["error"]) == (422, True)
    assert hub.control("runs").json == []


def test_a_certificate_whose_first_use_cannot_be_recorded_is_not_let_in(hub: Hub):
    hub.coordinator._log.close()
    for _ in range(2):
        with pytest.raises(AuditWriteError):
            hub.control("runs", "POST", hub.signed())
    assert not (hub.homes["hub"].path / "certificates.json").exists()
    assert not hub.homes["hub"].runs.exists()


# -- following, stopping, fetching


def follow(hub: Hub, run: str, query: str = "") -> list[dict[str, Any]]:
    answer = hub.control(f"runs/{run}/events{query}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.body.splitlines() if line]


def test_a_run_is_followed_from_any_event_to_its_end(still: Hub):
    events = follow(still, still.stopped)
    assert [event["event"] for event in events] == ["run.started", "run.stopped"]
    assert [event["number"] for event in events] == [1, 2]
    assert follow(still, still.stopped, "?after=1") == events[1:]
    assert follow(still, still.stopped, "?after=2") == []


def test_a_follower_sees_events_as_they_happen(hub: Hub):
    run = hub.submit()

    async def go() -> list[str]:
        exchange = hub.client.exchange(hub.homes["ops"], f"{CONTROL_PREFIX}runs/{run}/events")
        task = hub.client.run(exchange)
        await asyncio.wait_for(exchange.started.wait(), 60)
        assert not task.done()
        await asyncio.to_thread(hub.coordinator._runs.get(run).stop)
        await asyncio.wait_for(task, 60)
        return [json.loads(line)["event"] for line in exchange.answer.body.splitlines() if line]

    assert asyncio.run(go())[-1] == "run.stopped"


def test_followers_neither_outlive_their_peers_nor_keep_others_waiting(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.control.FOLLOW_SECONDS", 600.0)
    run = hub.submit()

    async def go() -> None:
        followers = [
            hub.client.exchange(hub.homes["ops"], f"{CONTROL_PREFIX}runs/{run}/events") for _ in range(FOLLOWERS + 8)
        ]
        tasks = [hub.client.run(exchange) for exchange in followers]
        for exchange in followers:
            await asyncio.wait_for(exchange.started.wait(), 60)
        silo = hub.client.exchange(hub.homes["silo-a"], "/v1/fleet/pull-messages")
        await asyncio.wait_for(hub.client.run(silo), 60)
        assert silo.answer.status == 403
        for exchange in followers:
            exchange.gone.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert not any(exchange.answer.complete for exchange in followers)
        await asyncio.to_thread(hub.coordinator._runs.get(run).stop)

    asyncio.run(go())


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "\u00b2", "%C2%B2", "9" * 5000, "+1", "0x1", ""])
def test_a_place_in_the_events_is_a_number(still: Hub, value: str):
    answer = still.control(f"runs/{still.stopped}/events?after={value}&")
    if value:
        assert (answer.status, "expected a number" in answer.json["error"]) == (422, True)
    else:
        assert answer.status == 200


def test_a_model_is_there_once_the_run_has_completed(hub: Hub):
    run = hub.submit()
    answer = hub.control(f"runs/{run}/model")
    assert (answer.status, "has no model" in answer.json["error"]) == (422, True)
    (hub.homes["hub"].runs / run / "model.npz").write_bytes(b"weights")
    answer = hub.control(f"runs/{run}/model")
    assert (answer.status, answer.body) == (200, b"weights")


def test_what_was_submitted_can_be_fetched_as_it_was_signed(still: Hub):
    answer = still.control(f"runs/{still.stopped}/submission")
    fields = answer.json
    app = base64.b64decode(fields.pop("app"))
    signed = parse_signed_run(fields)
    assert (answer.status, app, signed.text, signed.app_digest) == (200, APP, RUN, app_digest(APP))


def test_a_checkpoint_is_fetched_as_long_as_it_is_kept(hub: Hub):
    run = hub.submit()
    hub.coordinator._runs.stop()
    assert "it has closed no round" in hub.control(f"runs/{run}/checkpoints/1").json["error"]
    weights = np.arange(6, dtype=np.float32)
    state = {"digest": weights_digest(weights), "shapes": [["kernel", [2, 2]], ["bias", [2]]]}
    kept = Checkpoints(hub.homes["hub"].runs / run)
    for number in (1, 2, 3):
        kept.save(number, weights, state)
    shown = hub.control(f"runs/{run}").json
    assert (shown["checkpoints"], shown["files"]) == ([2, 3], [])
    answer = hub.control(f"runs/{run}/checkpoints/3")
    assert answer.status == 200
    with np.load(io.BytesIO(answer.body), allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays.files} == {
            "000:kernel": [[0, 1], [2, 3]],
            "001:bias": [4, 5],
        }
    assert "it keeps those of rounds 2, 3" in hub.control(f"runs/{run}/checkpoints/1").json["error"]
    vectors = next((kept._directory).glob("000003.f32"))
    vectors.write_bytes(bytes(24))
    assert "do not have the digest" in hub.control(f"runs/{run}/checkpoints/3").json["error"]


@pytest.mark.parametrize("number", ["0", "-1", "1.0", "a", "1" * 5000, "%2e%2e", "\u0661"])
def test_what_is_no_number_of_a_round_finds_no_checkpoint(still: Hub, number: str):
    answer = still.control(f"runs/{still.stopped}/checkpoints/{number}")
    assert answer.status in {404, 422}
    assert len(answer.body) < 500


@pytest.mark.parametrize("run", ["none", "..", ".", "%2e%2e", "", "a" * 5000, "\u00e9"])
@pytest.mark.parametrize("call", ["events", "model", "stop"])
def test_a_run_that_is_not_here_is_not_found(still: Hub, run: str, call: str):
    answer = still.control(f"runs/{run}/{call}", "POST" if call == "stop" else "GET")
    assert answer.status in {404, 422}
    assert "error" in answer.json
    assert len(answer.body) < 500


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "unknown"),
        ("DELETE", "runs"),
        ("POST", "members"),
        ("GET", "runs/x/stop"),
        ("POST", "runs/x/model"),
        ("GET", "runs/x/model/y"),
        ("GET", "runs/x/checkpoints"),
        ("POST", "runs/x/submission"),
        ("GET", "runs/../../ca-key.pem"),
        ("GET", "runs/x/../../../key.pem"),
        ("GET", "../evidence/checkpoint"),
    ],
)
def test_a_call_that_is_not_there_is_not_found(still: Hub, method: str, path: str):
    assert still.control(path, method).status == 404


# -- members


def test_members_are_listed_with_who_is_connected(still: Hub):
    members = still.control("members").json
    assert [(m["name"], m["role"], m["country"], m["online"]) for m in members] == [
        ("hub", "coordinator", "DE", False),
        ("ops", "operator", "DE", False),
        ("ops-b", "operator", "DE", False),
        ("aud", "auditor", "DE", False),
        ("silo-a", "silo", "DE", False),
        ("silo-b", "silo", "DE", False),
    ]


def test_a_member_enrolled_meanwhile_is_known_at_once(hub: Hub):
    new = hub.founded.member("ops-c", Role.OPERATOR)
    assert hub.client.call(new, CONTROL_PREFIX + "runs").status == 403
    hub.founded.refresh()
    assert hub.client.call(new, CONTROL_PREFIX + "runs").status == 200


def test_a_member_that_left_or_changed_its_role_is_refused_at_once(hub: Hub):
    key = load_private_key(hub.founded.authority.key)
    issuer = load_certificate(hub.founded.authority.issuer.read_bytes())
    text = hub.founded.authority.manifest().document.text
    changed = text.replace("name: ops-b\n  role: operator", "name: ops-b\n  role: auditor").replace(
        "version: 7", "version: 8"
    )
    assert changed != text
    store_manifest(hub.homes["hub"].path, changed, sign_manifest(changed, key, issuer))
    answer = hub.control("runs", who="ops-b")
    assert (answer.status, answer.body) == (403, b"ops-b is a auditor in the manifest, a operator in its certificate")
    left = changed.replace("name: ops-b", "name: ops-z").replace("version: 8", "version: 9")
    store_manifest(hub.homes["hub"].path, left, sign_manifest(left, key, issuer))
    answer = hub.control("runs", who="ops-b")
    assert (answer.status, b"ops-b is not a member" in answer.body) == (403, True)
    assert hub.control("runs").status == 200


def test_a_manifest_that_does_not_verify_lets_nobody_in(hub: Hub):
    path = hub.homes["hub"].manifest
    content = path.read_bytes()
    for damaged in (content.replace(b"country: DE", b"country: FR"), b"\xff" + content):
        path.write_bytes(damaged)
        assert hub.control("runs").status == 403


def test_who_is_refused_is_recorded(hub: Hub):
    hub.control("runs", who="silo-a")
    hub.client.call(None, CONTROL_PREFIX + "runs")
    refused = [entry for entry in hub.actions() if entry["action"] == "connection.refused"]
    assert [(e["actor"], e["decision"], e["rule"], e["resource"]) for e in refused] == [
        ("spiffe://cardio.example/silo/silo-a", "deny", "gateway.identity", CONTROL_PREFIX + "runs"),
        ("unidentified", "deny", "gateway.identity", CONTROL_PREFIX + "runs"),
    ]


# -- evidence


def fetch(hub: Hub, target: Path) -> Path:
    """The log as an auditor fetches it."""
    (target / "segments").mkdir(parents=True)
    (target / "payloads").mkdir()
    for name in ("checkpoint", "log.vkey", *(f"segments/{name}" for name in hub.evidence("segments").json)):
        answer = hub.evidence(name)
        assert answer.status == 200
        (target / name).write_bytes(answer.body)
    return target


def test_the_evidence_verifies_where_the_auditor_keeps_it(hub: Hub, tmp_path: Path):
    hub.submit()
    hub.control("runs", who="silo-a")
    hub.coordinator._runs.stop()
    vkey = hub.founded.authority.manifest().federation.member("hub").log
    folder = fetch(hub, tmp_path / "evidence")
    report = verify(folder, vkey)
    assert (report.key_source, report.size) == ("given", len(hub.actions()))
    assert report.size >= 4
    segment = next((folder / "segments").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b"ops", b"opz", 1))
    with pytest.raises(VerificationFailure):
        verify(folder, vkey)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "unknown",
        "../key.pem",
        "../log-key.pem",
        "checkpoint/../../key.pem",
        "checkpoint/",
        "segments/",
        "segments/..",
        "segments/../checkpoint",
        "segments/../../key.pem",
        "segments/%2e%2e/%2e%2e/key.pem",
        "/etc/passwd",
        "segments//etc/passwd",
        "payloads/000000000000.json",
        "payloads",
        "lock",
        "segments/000000000000.jsonl/..",
        "segments/000000000000.jsonl\x00",
        "\u00e9",
    ],
)
def test_nothing_but_the_log_is_evidence(still: Hub, path: str):
    answer = still.evidence(path)
    assert answer.status == 404
    assert b"PRIVATE" not in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "PATCH"])
def test_evidence_is_read_only(still: Hub, method: str):
    for path in ("checkpoint", "segments", "segments/000000000000.jsonl"):
        assert still.evidence(path, method).status == 405
    assert still.evidence("checkpoint", "GET", b"body").status == 405


# -- the coordinator's own home


def test_a_home_that_cannot_be_a_coordinators_is_refused(hub: Hub, found: Callable[..., Any], tmp_path: Path):
    with pytest.raises(IdentityError, match="home of the silo silo-a, expected a coordinator"):
        Coordinator(hub.homes["silo-a"])
    with pytest.raises(UsageError, match="is not a directory"):
        prepare_home(tmp_path / "none")
    other = found(folder="g").member("hub", Role.COORDINATOR)
    with pytest.raises(UsageError, match="no address for hub; give --listen"):
        Coordinator(other)
    with pytest.raises(UsageError, match="expected host:port"):
        Coordinator(other, "nowhere")


def test_two_coordinators_do_not_share_a_home(hub: Hub):
    with pytest.raises(AuditLocked):
        Coordinator(hub.homes["hub"])
