"""The NetworkPolicies: what they select, and who may reach whom by them."""

from __future__ import annotations

from typing import Any

import pytest

from .rendering import CASES, HelmRefusedError, Object, Rendered, parse, rendered, template

each_case = pytest.mark.parametrize(("chart", "case"), CASES)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "only labels are used"
    return selector.get("matchLabels", {}).items() <= labels.items()


def policies_of(release: Rendered, pod: Object) -> list[Object]:
    labels = pod["metadata"]["labels"]
    return [one["spec"] for one in release.kind("NetworkPolicy") if selects(one["spec"]["podSelector"], labels)]


def egress_of(release: Rendered, pod: Object) -> list[Any]:
    return [rule for policy in policies_of(release, pod) for rule in policy.get("egress", ())]


def ingress_of(release: Rendered, pod: Object) -> list[Any]:
    return [rule for policy in policies_of(release, pod) for rule in policy.get("ingress", ())]


@each_case
def test_every_pod_is_under_a_policy_that_denies_everything(chart: str, case: str) -> None:
    release = rendered(chart, case)
    for name, pod in release.pods():
        denying = [
            policy
            for policy in policies_of(release, pod)
            if policy["policyTypes"] == ["Ingress", "Egress"] and not policy.get("ingress") and not policy.get("egress")
        ]
        assert denying, name


@each_case
def test_a_rule_always_names_a_peer_and_a_port(chart: str, case: str) -> None:
    """A rule without either allows every peer or every port."""
    for policy in rendered(chart, case).kind("NetworkPolicy"):
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                assert rule[peers], policy["metadata"]["name"]
                assert all(peer for peer in rule[peers]), policy["metadata"]["name"]
                assert all(set(port) == {"port", "protocol"} for port in rule["ports"]), policy["metadata"]["name"]


@pytest.mark.parametrize("case", [case for chart, case in CASES if chart == "silo"])
def test_the_worker_reaches_its_gates_port_and_nothing_else(case: str) -> None:
    release = rendered("silo", case)
    gate = release.pod("gate")
    channel = next(p["containerPort"] for p in gate["spec"]["containers"][0]["ports"] if p["name"] == "channel")
    (rule,) = egress_of(release, release.pod("worker"))
    (peer,) = rule["to"]
    assert set(peer) == {"podSelector"}, "pods of this namespace alone"
    chosen = [name for name, pod in release.pods() if selects(peer["podSelector"], pod["metadata"]["labels"])]
    assert len(chosen) == 1
    assert chosen[0].endswith("-gate")
    assert rule["ports"] == [{"port": channel, "protocol": "TCP"}]


def test_a_database_is_one_more_rule_of_the_worker_and_of_no_one_else() -> None:
    sets = {"worker.data.sql.cidrs": '["10.2.3.4/32", "fd00::4/128"]', "worker.data.sql.port": "5433"}
    release = parse(template("silo", "default", sets))
    before = rendered("silo", "default")
    first, second = egress_of(release, release.pod("worker"))
    assert [first] == egress_of(before, before.pod("worker"))
    assert second == {
        "to": [{"ipBlock": {"cidr": "10.2.3.4/32"}}, {"ipBlock": {"cidr": "fd00::4/128"}}],
        "ports": [{"port": 5433, "protocol": "TCP"}],
    }
    for component in ("gate", "enrolment", "test"):
        assert egress_of(release, release.pod(component)) == egress_of(before, before.pod(component))
    with pytest.raises(HelmRefusedError, match="cidrs"):
        template("silo", "default", {"worker.data.sql.cidrs": '["db.example"]'})


@pytest.mark.parametrize("case", [case for chart, case in CASES if chart == "silo"])
def test_nothing_reaches_the_worker(case: str) -> None:
    release = rendered("silo", case)
    assert ingress_of(release, release.pod("worker")) == []


def test_the_gate_reaches_the_coordinator_and_the_name_service() -> None:
    release = rendered("silo", "default")
    coordinator, names = egress_of(release, release.pod("gate"))
    assert coordinator == {
        "to": [{"ipBlock": {"cidr": "203.0.113.10/32"}}],
        "ports": [{"port": 9443, "protocol": "TCP"}],
    }
    assert [port["port"] for port in names["ports"]] == [53, 53]
    assert names["to"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ]


def test_nobody_reads_metrics_who_is_not_named() -> None:
    release = rendered("silo", "default")
    for rule in ingress_of(release, release.pod("gate")):
        for peer in rule["from"]:
            component = peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            assert (component, rule["ports"][0]["port"]) in {("worker", 9551), ("test", 9550)}


@pytest.mark.parametrize("case", [case for chart, case in CASES if chart == "coordinator"])
def test_the_coordinator_opens_no_connection(case: str) -> None:
    release = rendered("coordinator", case)
    assert egress_of(release, release.pod("coordinator")) == []


@pytest.mark.parametrize("case", [case for chart, case in CASES if chart == "silo"])
def test_the_gate_mounts_no_data_and_the_worker_no_home(case: str) -> None:
    release = rendered("silo", case)
    data = release.pod("worker")["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    for name, pod in release.pods():
        claims = {
            v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v
        }
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        if name.startswith("Deployment"):
            assert claims == {data}
            assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] is True
        else:
            assert data not in claims, (name, component)
    assert [m for m in release.pod("worker")["spec"]["containers"][0]["volumeMounts"] if m["name"] == "home"] == []
