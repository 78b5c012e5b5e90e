"""Starter policies at work: what they leave open is filled in as their first lines ask, and real silos keep them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from demo.federate import Deployment
from demo.founding import Founded, SiloPlace, found
from demo.scenarios import DataSource, scenario
from federation.identity import new_key, public_key_pem, save_private_key
from federation.run import app_digest, load_run
from policies.lint.checks import lint
from policies.model import load_policy
from silo.cli import app as silo_app
from silo.governance.cli import policy as policy_app

from .conftest import Running, entries_of, run_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

PURPOSE = "DS:MONDO:0005267"
STARTERS = {"hospital-a": "no-hospital", "hospital-b": "eu-bank", "hospital-c": "no-hospital"}
REVIEWERS = {"no-hospital": ("ingrid-dahl", "lars-moen"), "eu-bank": ("model-validation", "ict-risk")}
COUNTRIES = {"hospital-a": "DE", "hospital-b": "FR", "hospital-c": "NO"}
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


def filled(text: str, changes: dict[str, str]) -> str:
    """A text with each of these passages replaced; fails where one is not there once."""
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def in_days(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


def fill_in(starter: str, country: str, columns: list[str], digest: str) -> dict[str, str]:
    """What each starter asks its reader to change: names, dates, references, columns, the digest of the app."""
    listed = ", ".join(columns)
    zeros = "sha256:" + 64 * "0"
    if starter == "no-hospital":
        return {
            "effective: 2026-11-01": f"effective: {in_days(-1)}",
            "silo: NO": f"silo: {country}",
            "expires: 2028-12-31": f"expires: {in_days(400)}",
            "expires: 2027-12-31": f"expires: {in_days(400)}",
            "expires: 2027-11-30": f"expires: {in_days(400)}",
            "persons: [forskningsavdelingen]": "persons: [operator]",
            "  hjerte:": "  wisconsin:",
            "[alder, kjonn, blodtrykk, kolesterol, diagnose]": f"[{listed}]",
            zeros: digest,
            "Mon-Sun 17:00-07:00 Europe/Oslo": "Mon-Sun 00:00-24:00 Europe/Oslo",
        }
    return {
        "effective: 2026-11-01": f"effective: {in_days(-1)}",
        "silo: NL": f"silo: {country}",
        "{countries: [EU], basis: gdpr-art-6-1-f}\n    metrics": (
            "{countries: [EEA], basis: gdpr-art-6-1-f}\n    metrics"
        ),
        "metrics: {countries: [EU]": "metrics: {countries: [EEA]",
        "expires: 2027-12-31": f"expires: {in_days(400)}",
        "expires: 2027-11-30": f"expires: {in_days(400)}",
        "expires: 2027-10-31": f"expires: {in_days(400)}",
        "allow: [fraud-detection, market-abuse-detection]": f'allow: ["{PURPOSE}"]',
        "persons: [financial-crime]": "persons: [operator]",
        "  transactions:": "  wisconsin:",
        "[account, amount, channel, hour, counterparty_country, reported]": f"[account, {listed}]",
        "minimum: 1000": "minimum: 100",
        "minimum_count: 100": "minimum_count: 20",
        zeros: digest,
        '["Mon-Fri 20:00-06:00 Europe/Amsterdam", "Sat-Sun 00:00-24:00 Europe/Amsterdam"]': (
            '["Mon-Sun 00:00-24:00 Europe/Amsterdam"]'
        ),
    }


def with_columns(table: Path, added: Callable[[int], dict[str, str]]) -> None:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [{**row, **added(number)} for number, row in enumerate(rows)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def equip(founded: Founded, place: SiloPlace) -> None:
    """The compliance officer's desk: the starter copied and filled in, reviewers' keys made, the table's columns."""
    starter, desk = STARTERS[place.name], place.gate.path
    copied = runner.invoke(policy_app, ["new", "--from", starter, "--into", str(desk / "draft")])
    assert copied.exit_code == 0, copied.output
    run = load_run(founded.run_file.read_text()).model
    columns = [*run.features, run.label.column]
    draft = desk / "draft" / "policy.yaml"
    text = filled(draft.read_text(), fill_in(starter, COUNTRIES[place.name], columns, app_digest(founded.app)))
    draft.write_text(text)
    assert not lint(load_policy(draft), datetime.now(UTC), 30), "nothing is left open"
    place.policy.write_text(text)
    silo = place.silo_config.read_text()
    lines = [f"  {name}: {name}.pub" for name in REVIEWERS[starter]]
    for name in REVIEWERS[starter]:
        key = new_key()
        save_private_key(desk / f"{name}.pem", key)
        (desk / f"{name}.pub").write_bytes(public_key_pem(key.public_key()))
    (desk / "approvals").mkdir()
    place.silo_config.write_text(
        silo + "\n".join(["approvals:", "  directory: approvals", "  reviewers:", *(f"  {line}" for line in lines)])
    )
    if starter == "no-hospital":
        # Every tenth row is without consent, every tenth with a reservation.
        with_columns(
            place.data,
            lambda n: {"samtykke": "yes" if n % 10 else "no", "reservasjon": "yes" if n % 10 == 1 else "no"},
        )
    else:
        with_columns(place.data, lambda n: {"account": f"NL{n:08d}"})


@pytest.fixture(scope="module")
def starters(short_tmp: Callable[[str], Path]) -> Iterator[Running]:
    founded = found(short_tmp("lib"), scenario("breast_cancer"), DataSource())
    for place in founded.silos.values():
        equip(founded, place)
    yield from run_of(Running(founded, Deployment(founded)))


def approve(running: Running, run_file: Path) -> None:
    """Two reviewers at each silo read and sign, as the policy asks."""
    bundle = running.founded.directory / "app.fab"
    bundle.write_bytes(running.founded.app)
    for place in running.founded.silos.values():
        for name in REVIEWERS[STARTERS[place.name]]:
            words = ["approve", str(run_file), "--config", str(place.silo_config), "--app", str(bundle), "--yes",
                     "--reviewer", name, "--key", str(place.gate.path / f"{name}.pem")]  # fmt: skip
            done = runner.invoke(silo_app, words)
            assert done.exit_code == 0, done.output


def test_a_hospital_and_a_bank_run_under_starter_policies(starters: Running) -> None:
    allowed = starters.run_file("allowed", purpose=f'"{PURPOSE}"', rounds="2", metrics="[loss, auc, num_examples]")
    approve(starters, allowed)
    events = starters.follow(starters.submit(allowed))
    assert events[-1]["event"] == "run.completed", [e for e in events if e["event"] == "silo.refused"]
    closed = [event for event in events if event["event"] == "round.closed"]
    assert [sorted(event["silos"]) for event in closed] == [sorted(STARTERS)] * 2
    for place in starters.founded.silos.values():
        (view,) = entries_of(place.gate.audit, action="view.build")
        withheld = STARTERS[place.name] == "no-hospital"
        assert view["decision"] == "allow", view
        assert (int(view["detail"]["withheld_rows"]) > 0) == withheld, view["detail"]
        (admitted,) = entries_of(place.gate.audit, action="run.admit", decision="allow")[:1]
        assert admitted["rule"] == "admission.allow"


def test_a_run_that_breaks_them_is_refused_by_the_rules_they_name(starters: Running) -> None:
    """More rounds than the hospitals allow, and a figure that the bank does not hand out."""
    broken = starters.run_file("broken", purpose=f'"{PURPOSE}"', rounds="150")
    approve(starters, broken)
    events = starters.follow(starters.submit(broken))
    assert events[-1]["event"] == "run.refused", events
    refused = {event["silo"]: event["rule"] for event in events if event["event"] == "silo.refused"}
    assert refused == {
        "hospital-a": "runs.max_rounds",
        "hospital-b": "egress.metrics.allow",
        "hospital-c": "runs.max_rounds",
    }


def test_a_run_that_nobody_approved_is_refused(starters: Running) -> None:
    unread = starters.run_file("unread", purpose=f'"{PURPOSE}"', rounds="3", metrics="[loss, auc, num_examples]")
    events = starters.follow(starters.submit(unread))
    assert events[-1]["event"] == "run.refused", events
    assert {event["rule"] for event in events if event["event"] == "silo.refused"} == {"apps.reviewers"}
