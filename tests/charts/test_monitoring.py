"""Dashboard, alert rules and documentation name metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.entry import Event
from coordinator.metrics import CoordinatorMetrics
from federation.home import Home
from federation.metrics import CountedLog
from silo.gate.metrics import GateMetrics
from silo.gate.worker_link import WorkerLink

from .rendering import CHARTS, ROOT, rendered

DASHBOARD = json.loads((CHARTS / "coordinator" / "dashboards" / "concordat.json").read_text())
USED = re.compile(r"(concordat_\w+)(?:\{([^}]*)\})?")
ADDED_BY_PROMETHEUS = {"job", "instance", "le"}


@pytest.fixture(scope="module")
def samples() -> Iterator[dict[str, set[str]]]:
    """Every sample's name, with its labels, that a gate and a coordinator tell."""
    directory = Path(tempfile.mkdtemp(prefix="c-"))
    key = Ed25519PrivateKey.generate()
    home = Home(directory)
    link = WorkerLink(directory / "worker.sock")
    with CountedLog.open(home.audit, origin="f/silo/a", key=key) as log:
        gate = GateMetrics(home, log, link)
        log.append(Event(actor="a", action="run.admit", resource="r", decision="deny", rule="purposes.allow"))
        gate.exchanged(1, 1)
        coordinator = CoordinatorMetrics(home, log, lambda: {"a": True}, list)
        log.append(Event(actor="a", action="silo.refused", resource="r", decision="deny", rule="purposes.allow"))
        coordinator.happened({"event": "silo.answered", "silo": "a"})
        coordinator._bytes.labels("sent").inc()
        found: dict[str, set[str]] = {}
        for registry in (gate.registry, coordinator.registry):
            for family in registry.collect():
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        found.setdefault(sample.name, set()).update(sample.labels)
    link.close()
    yield found
    shutil.rmtree(directory)


def expressions() -> list[str]:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    out = [target["expr"] for panel in panels for target in panel["targets"]]
    for chart, case in (("silo", "hospital"), ("coordinator", "public")):
        groups: Any = rendered(chart, case).one("PrometheusRule")["spec"]["groups"]
        out += [rule["expr"] for group in groups for rule in group["rules"]]
    return out


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_exist(samples: dict[str, set[str]], expression: str) -> None:
    used = USED.findall(expression)
    assert used
    labels = {label for name, _ in used for label in samples[name]} | ADDED_BY_PROMETHEUS
    for name, selected in used:
        assert set(re.findall(r"(\w+)=", selected)) <= samples[name] | ADDED_BY_PROMETHEUS
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert set(re.split(r"[ ,]+", grouped)) <= labels


def test_every_metric_is_on_the_dashboard_and_in_the_documentation(samples: dict[str, set[str]]) -> None:
    shown = {name for expression in expressions() for name, _ in USED.findall(expression)}
    pages = (ROOT / "docs" / "monitoring.md").read_text()
    documented = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(concordat_\w+)` \|([^|]*)\|", pages, re.M)
    }
    families: dict[str, set[str]] = {}
    for name, labels in samples.items():
        families.setdefault(re.sub(r"_(bucket|count|sum)$", "", name), set()).update(labels - {"le"})
    assert documented == families
    assert {name for name in families if not any(one.startswith(name) for one in shown)} == set()


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    places = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, panel["title"]
        assert max(x for x, _ in cells) < 24
        places |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
