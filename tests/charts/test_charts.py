"""What Helm makes of the charts: valid for three Kubernetes versions, restricted, closed, and as it was."""

from __future__ import annotations

import copy
import importlib.machinery
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import kubernetes_validate
import pytest

from .cluster import cluster
from .pod_security import violations
from .rendering import CASES, CHARTS, ROOT, HelmRefusedError, comparable, golden_path, helm, parse, rendered, template

VERSIONS = ("1.29", "1.33", "1.37")
OTHERS_KINDS = {"Issuer", "Certificate", "ServiceMonitor", "PrometheusRule", "TLSRoute"}
CERT_MANAGER = ("--api-versions", "cert-manager.io/v1")

each_case = pytest.mark.parametrize(("chart", "case"), CASES)


def tool(name: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "tools" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


@each_case
def test_lint_finds_nothing(chart: str, case: str) -> None:
    said = helm("lint", "--strict", str(CHARTS / chart), "-f", str(CHARTS / chart / "ci" / f"{case}-values.yaml"))
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


@each_case
def test_the_output_is_what_was_reviewed(chart: str, case: str) -> None:
    """After a wanted change: python tests/charts/rendering.py, and read the difference."""
    assert comparable(template(chart, case)) == golden_path(chart, case).read_text()


@pytest.mark.parametrize("version", VERSIONS)
@each_case
def test_every_object_is_valid_and_has_no_field_too_many(chart: str, case: str, version: str) -> None:
    checked = 0
    for one in rendered(chart, case).objects:
        if one["kind"] not in OTHERS_KINDS:
            kubernetes_validate.validate(one, version, strict=True)
            checked += 1
    assert checked >= 10


def test_the_validator_refuses_a_field_that_does_not_exist() -> None:
    broken = copy.deepcopy(rendered("silo", "default").one("StatefulSet"))
    broken["spec"]["template"]["spec"]["readOnlyRoot"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


# -- Pod Security


@each_case
def test_every_pod_is_restricted(chart: str, case: str) -> None:
    found = {name: list(violations(pod)) for name, pod in rendered(chart, case).pods()}
    assert len(found) >= 2
    assert {name: what for name, what in found.items() if what} == {}


def _container(pod: Any) -> Any:
    return pod["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda pod: pod["spec"].update(hostNetwork=True), "hostNetwork is set"),
        (lambda pod: pod["spec"]["volumes"].append({"name": "d", "hostPath": {"path": "/"}}), "d is of type hostPath"),
        (lambda pod: pod["spec"]["securityContext"].pop("seccompProfile"), "no seccomp profile"),
        (lambda pod: pod["spec"]["securityContext"].pop("runAsNonRoot"), "runAsNonRoot is not true"),
        (lambda pod: pod["spec"]["securityContext"].update(runAsUser=0), "runAsUser is 0"),
        (lambda pod: _container(pod)["securityContext"].update(privileged=True), "privileged"),
        (lambda pod: _container(pod)["securityContext"].pop("allowPrivilegeEscalation"), "allowPrivilegeEscalation"),
        (lambda pod: _container(pod)["securityContext"].pop("capabilities"), "capabilities are not dropped"),
        (lambda pod: _container(pod)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]), "SYS_ADMIN"),
        (lambda pod: _container(pod)["ports"][0].update(hostPort=80), "hostPort"),
        (lambda pod: pod["spec"]["securityContext"].update(sysctls=[{"name": "net.core.x", "value": "1"}]), "sysctl"),
    ],
)
def test_the_check_finds_what_restricted_forbids(spoil: Callable[[Any], Any], found: str) -> None:
    pod = copy.deepcopy(rendered("silo", "default").pod("gate"))
    spoil(pod)
    assert [what for what in violations(pod) if found in what]


@each_case
def test_every_container_has_what_restricted_does_not_ask_for(chart: str, case: str) -> None:
    for name, pod in rendered(chart, case).pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "@sha256:" in container["image"], name
            assert ":" not in container["image"].partition("@")[0].rpartition("/")[2], name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name


@each_case
def test_every_pod_runs_in_a_region_that_is_named(chart: str, case: str) -> None:
    for name, pod in rendered(chart, case).pods():
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (term,) = required["nodeSelectorTerms"]
        (expression,) = term["matchExpressions"]
        assert (expression["operator"], len(expression["values"]) >= 1) == ("In", True), name


@each_case
def test_what_pods_refer_to_is_there(chart: str, case: str) -> None:
    release = rendered(chart, case)
    made = {(one["kind"], one["metadata"]["name"]) for one in release.objects}
    made |= {("Secret", one["spec"]["secretName"]) for one in release.kind("Certificate")}
    text = (CHARTS / chart / "ci" / f"{case}-values.yaml").read_text()
    for name, pod in release.pods():
        mounts = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        claims = {
            claim["metadata"]["name"]
            for one in release.kind("StatefulSet")
            for claim in one["spec"]["volumeClaimTemplates"]
        }
        assert mounts <= set(volumes) | claims, name
        for volume in volumes.values():
            if "configMap" in volume:
                wanted = volume["configMap"]["name"]
                assert ("ConfigMap", wanted) in made or wanted in text, name
            if "secret" in volume:
                wanted = volume["secret"]["secretName"]
                assert ("Secret", wanted) in made or wanted in text, name
        for container in pod["spec"]["containers"]:
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "httpGet" in container.get(probe, {}):
                    assert container[probe]["httpGet"]["port"] in ports, name
    for service in release.kind("Service"):
        chosen = [
            pod for _, pod in release.pods() if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1
        ports = {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@each_case
def test_state_is_kept_and_a_disruption_is_bounded(chart: str, case: str) -> None:
    release = rendered(chart, case)
    for one in release.kind("StatefulSet"):
        assert one["spec"]["replicas"] == 1
        assert one["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    budgets = [one["spec"]["selector"]["matchLabels"] for one in release.kind("PodDisruptionBudget")]
    for one in [*release.kind("StatefulSet"), *release.kind("Deployment")]:
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert [budget for budget in budgets if budget.items() <= labels.items()]


def _commands(container: Any) -> list[list[str]]:
    """The `concordat` commands of a container, those in a line of shell included."""
    words = [*container["command"], *container.get("args", ())]
    if words[0] != "sh":
        return [words[1:]]
    parts = re.split(r"\|\||&&", words[2])
    return [shlex.split(part)[shlex.split(part).index("concordat") + 1 :] for part in parts if "concordat " in part]


@each_case
def test_every_command_and_option_is_one_that_exists(chart: str, case: str) -> None:
    import typer

    from federation.cli import command

    context = typer.Context(command)
    checked = 0
    for name, pod in rendered(chart, case).pods():
        for words in _commands(_container(pod)):
            group: Any = command.get_command(context, words[0])
            known = {option for parameter in group.commands[words[1]].params for option in parameter.opts}
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert used <= known, name
            checked += 1
    assert checked >= 2


# -- values


SILO_MISTAKES = [
    ({"worker.thread": "4"}, "worker: Additional property thread is not allowed"),
    ({"netwrk": "{}"}, "Additional property netwrk is not allowed"),
    ({"gate.persistence.size": '"10GB"'}, "gate.persistence.size: Does not match pattern"),
    ({"image.gate.digest": '"latest"'}, "image.gate.digest: Does not match pattern"),
    ({"image.worker.digest": '""'}, "image.worker.digest"),
    ({"image.gate.repository": '""'}, "image.gate.repository: String length must be greater than or equal to 1"),
    ({"network.coordinatorCidrs": "[]"}, "network.coordinatorCidrs"),
    ({"network.coordinatorCidrs": '["coordinator.example.org"]'}, "network.coordinatorCidrs.0: Does not match"),
    ({"silo.name": '"Charité"'}, "silo.name: Does not match pattern"),
    ({"silo.name": '""'}, "silo.name: Does not match pattern"),
    ({"residency.country": '"Germany"'}, "residency.country: Does not match pattern"),
    ({"residency.country": "false"}, "residency.country: Invalid type"),
    ({"residency.country": '"FR"'}, "residency.country is FR, but the policy places the silo in DE"),
    ({"residency.regions": '{"FR": ["eu-west-3"], "DE": null}'}, "residency.regions"),
    ({"policy.content": '"residency: {silo: AQ}"'}, "residency.regions has no entry for AQ: list the values"),
    ({"policy.content": '"residency: ["'}, "policy.content is not YAML"),
    ({"policy.content": '""'}, "residency.country is not set"),
    ({"policy.content": '""', "residency.country": '"DE"'}, "give the policy: policy.content or policy.existing"),
    ({"policy.existingConfigMap": '"p"'}, "got policy.content and policy.existingConfigMap, expected one of them"),
    ({"worker.data.existingClaim": '""'}, "worker.data.existingClaim"),
    ({"worker.data.mountPath": '"/etc"'}, "worker.data.mountPath: Does not match pattern"),
    ({"worker.datasets": "{}"}, "worker.datasets"),
    ({"worker.device": '"cuda"'}, "worker.device must be one of the following"),
    ({"worker.device": '"gpu"'}, "worker.device is gpu, but worker.resources.limits has no nvidia.com/gpu"),
    ({"worker.datasets.heart.path": '"/etc/shadow"'}, "expected a path below worker.data.mountPath, /data"),
    ({"channel.port": "80"}, "channel.port: Must be greater than or equal to 1024"),
    ({"channel.certificates.mode": '"none"'}, "channel.certificates.mode must be one of the following"),
    ({"channel.certificates.mode": '"existing"'}, "Secret is required with mode existing"),
    ({"enrolment.mode": '"token"'}, "enrolment.mode must be one of the following"),
    ({"enrolment.mode": '"request"'}, "silo.federation is required with enrolment mode request"),
    ({"enrolment.invitation.existingSecret": '""'}, "enrolment.invitation.existingSecret is required"),
    ({"maxUnavailable": "2"}, "maxUnavailable: Must be less than or equal to 1"),
    ({"gate.resources.limits": "null"}, "gate.resources"),
    ({"networkPolicies": '{"enabled": false}'}, "Additional property networkPolicies is not allowed"),
]  # fmt: skip

COORDINATOR_MISTAKES = [
    ({"coordinator.country": '""'}, "coordinator.country: Does not match pattern"),
    ({"coordinator.address": '"https://example.org"'}, "coordinator.address: Does not match pattern"),
    ({"coordinator.address": '""'}, "coordinator.address is required with enrolment mode request"),
    ({"residency.regions": "[]"}, "residency.regions: Array must have at least 1 items"),
    ({"image.digest": '""'}, "image.digest: Does not match pattern"),
    ({"service.type": '"ExternalName"'}, "service.type must be one of the following"),
    ({"ingress.enabled": "true"}, "ingress.host is required"),
    ({"tlsRoute.enabled": "true"}, "tlsRoute.gateway is required"),
    ({"network.membersFrom": "[]"}, "network.membersFrom: Array must have at least 1 items"),
    ({"replicas": "2"}, "Additional property replicas is not allowed"),
]


@pytest.mark.parametrize(
    ("chart", "sets", "said"),
    [
        *(("silo", sets, said) for sets, said in SILO_MISTAKES),
        *(("coordinator", sets, said) for sets, said in COORDINATOR_MISTAKES),
    ],
)
def test_a_wrong_value_fails_the_install(chart: str, sets: dict[str, str], said: str) -> None:
    with pytest.raises(HelmRefusedError) as refused:
        template(chart, "default", sets)
    assert said in refused.value.said


def test_no_value_turns_the_network_policies_off() -> None:
    for chart in ("silo", "coordinator"):
        text = (CHARTS / chart / "templates" / "networkpolicies.yaml").read_text()
        conditions = [line for line in text.splitlines() if "{{- if" in line]
        assert [line for line in conditions if "enrolment.mode" not in line and "online.enabled" not in line] == []


def test_a_worker_can_be_given_a_gpu() -> None:
    resources = '{"requests": {"cpu": "1"}, "limits": {"memory": "6Gi", "nvidia.com/gpu": 1}}'
    with_one = {"worker.device": '"gpu"', "worker.resources": resources, "worker.runtimeClassName": '"nvidia"'}
    found = parse(template("silo", "default", with_one))
    assert "\ndevice: gpu\n" in found.one("ConfigMap", "-worker")["data"]["worker.yaml"]
    pod = found.pod("worker")["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["runtimeClassName"] == "nvidia"
    assert "device" not in rendered("silo", "default").one("ConfigMap", "-worker")["data"]["worker.yaml"]


def test_norway_is_a_country() -> None:
    """Helm reads YAML 1.1, in which NO is false."""
    config = rendered("silo", "ipv6").one("ConfigMap", "-gate")["data"]["silo.yaml"]
    assert 'country: "NO"' in config
    assert 'regions: ["norwayeast","norwaywest"]' in config


def test_cert_manager_is_used_where_the_cluster_has_it() -> None:
    assert [one["metadata"]["name"] for one in parse(template("silo", "default")).kind("Certificate")] == []
    with_it = parse(template("silo", "default", None, *CERT_MANAGER))
    assert {one["spec"]["secretName"] for one in with_it.kind("Certificate")} == {
        "site-concordat-silo-channel-authority",
        "site-concordat-silo-gate-channel",
        "site-concordat-silo-worker-channel",
    }
    assert with_it.kind("Secret") == []


def test_the_generated_authoritys_key_is_nowhere() -> None:
    for secret in rendered("silo", "default").kind("Secret"):
        assert set(secret["data"]) == {"ca.crt", "tls.crt", "tls.key"}


def test_a_job_whose_content_changes_has_another_name() -> None:
    """A Job cannot be changed: an upgrade to another image would fail on it."""
    digest = json.dumps("sha256:" + "4" * 64)
    before = rendered("silo", "default").one("Job")["metadata"]["name"]
    assert parse(template("silo", "default", {"image.gate.digest": digest})).one("Job")["metadata"]["name"] != before
    assert parse(template("silo", "default")).one("Job")["metadata"]["name"] == before


def install(case: str, address: str) -> str:
    """What Helm says of an installation into a cluster that it may ask, without making anything."""
    values = CHARTS / "silo" / "ci" / f"{case}-values.yaml"
    where = ("--kube-apiserver", address, "--dry-run=server", "--hide-secret=false", "--disable-openapi-validation")
    return helm("install", "site", str(CHARTS / "silo"), "-n", "research", "-f", str(values), *where)


def secrets_of(said: str) -> dict[str, Any]:
    manifest = said.partition("MANIFEST:\n")[2].partition("\nNOTES:")[0]
    return {one["metadata"]["name"]: one for one in parse(manifest).kind("Secret")}


def test_an_upgrade_keeps_the_certificates_of_the_channel() -> None:
    with cluster({}) as address:
        made = secrets_of(install("default", address))
        again = secrets_of(install("default", address))
    assert made.keys() == again.keys() == {"site-concordat-silo-gate-channel", "site-concordat-silo-worker-channel"}
    assert all(made[name]["data"] != again[name]["data"] for name in made), "made anew where there are none"
    owner = {"meta.helm.sh/release-name": "site", "meta.helm.sh/release-namespace": "research"}
    for one in made.values():
        one["metadata"]["annotations"] = owner
    held = {f"/api/v1/namespaces/research/secrets/{name}": one for name, one in made.items()}
    with cluster(held) as address:
        kept = secrets_of(install("default", address))
    assert {name: one["data"] for name, one in kept.items()} == {name: one["data"] for name, one in made.items()}
    held.popitem()
    with cluster(held) as address:
        halved = secrets_of(install("default", address))
    assert all(halved[name]["data"]["ca.crt"] != made[name]["data"]["ca.crt"] for name in made), "both or none"


def test_notes_say_what_to_do_next() -> None:
    with cluster({}) as address:
        bank = install("bank", address).partition("NOTES:")[2]
        default = install("default", address).partition("NOTES:")[2]
    assert "Take the request, which holds no secret, to the federation's operator" in bank
    assert "kubectl -n research delete secret charite-invitation" in default
    for notes in (bank, default):
        assert "helm -n research test site" in notes


# -- what is generated


@pytest.mark.parametrize("chart", ["silo", "coordinator"])
def test_schema_and_readme_are_made_from_the_values(chart: str) -> None:
    docs = tool("chart-docs")
    assert (CHARTS / chart / "values.schema.json").read_text() == docs.schema_text(CHARTS / chart)
    assert (CHARTS / chart / "README.md").read_text() == docs.readme_text(CHARTS / chart)


def _objects(schema: Any, path: str = "values") -> list[tuple[str, Any]]:
    found = [(path, schema)] if schema.get("type") == "object" else []
    for name, child in schema.get("properties", {}).items():
        found += _objects(child, f"{path}.{name}")
    return found


@pytest.mark.parametrize("chart", ["silo", "coordinator"])
def test_every_object_of_values_is_closed_or_a_map(chart: str) -> None:
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
    open_ones = {
        path for path, one in _objects(schema) if one.get("additionalProperties") is not False and "properties" in one
    }
    assert open_ones == set()


@pytest.mark.parametrize("chart", ["silo", "coordinator"])
def test_every_value_is_used(chart: str) -> None:
    docs = tool("chart-docs")
    templates = "".join(path.read_text() for path in (CHARTS / chart / "templates").rglob("*") if path.is_file())

    def leaves(values: Any) -> list[str]:
        return [leaf for one in values for leaf in (leaves(one.children) if one.children else [one.name])]

    named = leaves(docs.read_values((CHARTS / chart / "values.yaml").read_text()))
    assert [name for name in named if f".{name}" not in templates] == []


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match="the value b has no comment"):
        tool("chart-docs").read_values("# What it is.\na: 1\nb: 2\n")


@pytest.mark.parametrize("chart", ["silo", "coordinator"])
def test_links_of_a_charts_readme_lead_somewhere(chart: str) -> None:
    readme = CHARTS / chart / "README.md"
    targets = re.findall(r"\]\(([^)#]+)\)", readme.read_text())
    assert targets
    assert [target for target in targets if not (readme.parent / target).exists()] == []
