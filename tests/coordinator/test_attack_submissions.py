"""Operators who submit what was signed before, or what no silo would admit."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.gateway import CONTROL_PREFIX
from federation.identity import sign
from federation.manifest import accept_manifest, verify_manifest
from federation.run import SignedRun, sign_run
from federation.submission import DOMAIN
from federation.wire import MANIFEST, MANIFEST_SIGNATURE

from .test_control import APP, RUN, Hub

BOTH = ("silo-a", "silo-b")


@pytest.fixture
def hub(federation: Any, client: Any, tmp_path: Path) -> Iterator[Hub]:
    """A coordinator of one's own."""
    made = Hub(federation.copy(tmp_path / "federation"), client)
    yield made
    made.close()


def signed(hub: Hub, text: str = RUN, silos: tuple[str, ...] = BOTH, **times: Any) -> SignedRun:
    home = hub.homes["ops"]
    return sign_run(text, APP, home.private_key(), home.certificate.read_bytes(), silos, **times)


def post(hub: Hub, run: SignedRun, who: str = "ops") -> Any:
    return hub.control("runs", "POST", {**run.fields(), "app": base64.b64encode(APP).decode()}, who)


def stop(hub: Hub) -> None:
    hub.coordinator._runs.stop()


def test_what_was_signed_once_is_submitted_once(hub: Hub, client: Any) -> None:
    run = signed(hub)
    assert post(hub, run).status == 201
    stop(hub)
    for anew in (False, True):
        if anew:  # the coordinator's process was started anew
            hub.coordinator._log.close()
            hub = Hub(hub.founded, client)
        answer = post(hub, run)
        assert answer.status == 422
        assert "was submitted before, as tumour-classifier-" in answer.json["error"]
        assert "submit the run again" in answer.json["error"]
    assert [entry["action"] for entry in hub.actions()].count("run.submit") == 1
    assert post(hub, signed(hub)).status == 201
    hub.close()


def test_an_id_is_made_of_what_was_signed(hub: Hub) -> None:
    run = signed(hub)
    name = post(hub, run).json["run"]
    assert name == f"tumour-classifier-{run.digest.removeprefix('sha256:')[:12]}"
    recorded = next(entry for entry in hub.actions() if entry["action"] == "run.submit")
    assert (recorded["run"], recorded["detail"]["digest"]) == (name, run.digest)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"now": datetime.now(UTC) - timedelta(days=8)}, "was good until"),
        ({"now": datetime.now(UTC) + timedelta(hours=1)}, "set the clocks"),
        ({"silos": ("silo-a", "silo-x")}, "signed for silo-x, expected silos of the federation"),
        ({"silos": ("silo-a", "ops")}, "signed for ops, expected silos of the federation"),
        ({"text": RUN + "silos: [silo-a]\n"}, "the run names the silos silo-a, expected those"),
        ({"text": RUN + "silos: [silo-b]\n", "silos": ("silo-a",)}, "the run names the silos silo-b"),
    ],
)
def test_what_no_silo_would_admit_is_refused_at_once_and_leaves_nothing(
    hub: Hub, changes: dict[str, Any], words: str
) -> None:
    answer = post(hub, signed(hub, **changes))
    assert (answer.status, words in answer.json["error"]) == (422, True), answer.json
    assert hub.control("runs").json == []
    assert not hub.homes["hub"].runs.exists()


def test_a_submission_of_one_operator_is_no_other_ones(hub: Hub) -> None:
    run = signed(hub)
    assert "signed by ops, expected ops-b" in post(hub, run, "ops-b").json["error"]
    home = hub.homes["ops-b"]
    taken = SignedRun(
        run.text,
        run.submission,
        sign(home.private_key(), DOMAIN, run.submission.content),
        home.certificate.read_bytes(),
    )
    assert "got ops-b, expected ops" in post(hub, taken, "ops-b").json["error"]
    assert post(hub, run).status == 201


def test_the_manifest_that_an_operator_signs_by_is_the_newest_and_signed(hub: Hub) -> None:
    shown = hub.control("manifest").json
    verified = verify_manifest(shown[MANIFEST], shown[MANIFEST_SIGNATURE], hub.founded.ca)
    assert verified.document.digest == hub.founded.authority.manifest().document.digest
    for who in ("silo-a", "aud"):
        assert hub.client.call(hub.homes[who], CONTROL_PREFIX + "manifest").status == 403


def test_a_silo_that_left_is_left_out_where_a_run_is_resumed(hub: Hub, client: Any) -> None:
    """It stays in the signature; the run goes on with the others."""
    run = post(hub, signed(hub)).json["run"]
    stop(hub)
    hub.coordinator._log.close()
    hub.founded.authority.revoke("silo-b", "left")
    hub.founded.refresh()
    hub = Hub(hub.founded, client)
    assert hub.control(f"runs/{run}/resume", "POST").status == 202
    (execution,) = hub.coordinator._runs.executed()
    assert execution._silos() == ["silo-a"]
    hub.close()


def test_a_run_of_an_operator_who_left_is_not_resumed(hub: Hub, client: Any) -> None:
    run = post(hub, signed(hub)).json["run"]
    stop(hub)
    hub.founded.authority.revoke("ops", "left")
    newest = hub.founded.authority.manifest()
    accept_manifest(hub.homes["hub"], newest.document.text, newest.signature)
    assert hub.control(f"runs/{run}/resume", "POST").status == 403
    answer = hub.control(f"runs/{run}/resume", "POST", who="ops-b")
    assert (answer.status, "ops was revoked" in answer.json["error"]) == (422, True), answer.json
