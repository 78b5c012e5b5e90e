"""The rendered pods run: the charts' commands, files and certificates, as processes of the images' trees.

Their network namespaces let pass what the rendered NetworkPolicies allow. From request and bundle to a round.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from coordinator.authority import Authority
from demo.scenarios import EXAMPLES, DataSource, write_wisconsin
from federation.enrolment import join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role
from federation.operator import build_app
from federation.processes import Child, command_line, stop_all
from federation.run import app_digest

from .container import USER, Container, Volume
from .network import Network, network_of
from .rendering import Object, Rendered, parse, template

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

FEDERATION = "cancer.example"
GATE_HOST = "SITE_CONCORDAT_SILO_GATE_SERVICE_HOST"
COORDINATOR, ENROLMENT = "10.77.1.2:9443", "10.77.1.2:9444"
SECONDS = 60.0


def _needs_root_and_tools() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to make namespaces and mounts as a container engine does")
    tried = subprocess.run(["ip", "netns", "add", f"c{os.getpid()}-try"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this host allows no network namespace: {tried.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", f"c{os.getpid()}-try"], check=True)


@dataclass
class Pod:
    """A rendered pod with its volumes on this machine."""

    template: Object
    container: Container
    service_variables: Mapping[str, str]

    def command(self) -> list[str]:
        """The container's command with its variables put in, as the kubelet does."""
        (one,) = self.template["spec"]["containers"]
        known = {**self.service_variables, **self.container.environment}

        def put_in(word: str) -> str:
            return re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), word)

        return [put_in(word) for word in [*one["command"], *one.get("args", ())]]


@dataclass
class Site:
    """A coordinator's and a silo's release on one machine."""

    directory: Path
    network: Network
    images: Mapping[str, Path]
    authority: Authority
    operator: Home
    run_file: Path
    releases: dict[str, Rendered] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        """The app's bundle, as it was approved."""
        return self.directory / "app.fab"

    def pod(self, name: str, release: str, template: Object, image: str, endpoint: str) -> Pod:
        """A pod's container, its volumes filled as the kubelet fills them."""
        (one,) = template["spec"]["containers"]
        made = self.releases[release]
        volumes = [self._volume(mount, template, made, release) for mount in one["volumeMounts"]]
        variables = {GATE_HOST: self.network.pods["gate"].address, "KUBERNETES_SERVICE_HOST": "10.77.4.2",
                     "KUBERNETES_SERVICE_PORT": "443"}  # fmt: skip
        environment = {entry["name"]: entry.get("value", "eu-central-1") for entry in one.get("env", ())}
        container = Container(
            self.directory / "roots" / name,
            self.images[image],
            volumes,
            environment,
            self.network.pods[endpoint].network,
        )
        self.pods[name] = Pod(template, container, variables)
        return self.pods[name]

    def _volume(self, mount: dict[str, Any], template: Object, made: Rendered, release: str) -> Volume:
        read_only, name, target = mount.get("readOnly", False), mount["name"], mount["mountPath"]
        described = {one["name"]: one for one in template["spec"].get("volumes", ())}.get(name, {})
        if "emptyDir" in described:
            return Volume(target)
        claim = described.get("persistentVolumeClaim", {}).get("claimName", "")
        if not described or claim.startswith("home-"):
            return Volume(target, self.home(release), read_only)
        if claim:
            return Volume(target, self.directory / claim, read_only)
        if "configMap" in described:
            content = {k: v.encode() for k, v in made.one("ConfigMap", described["configMap"]["name"])["data"].items()}
            return Volume(
                mount["mountPath"], self.files(described["configMap"]["name"], content, 0o644), read_only=True
            )
        secret = described["secret"]["secretName"]
        given = self.directory / "secrets" / secret
        if not given.exists():
            content = {k: base64.b64decode(v) for k, v in made.one("Secret", secret)["data"].items()}
            self.files(secret, content, 0o440)
        return Volume(
            mount["mountPath"], given if given.exists() else self.directory / "files" / secret, read_only=True
        )

    def files(self, name: str, content: Mapping[str, bytes], mode: int, folder: str = "files") -> Path:
        """A directory of files that belong to root and to the pods' group."""
        directory = self.directory / folder / name
        directory.mkdir(parents=True, exist_ok=True)
        for key, value in content.items():
            path = directory / key
            path.write_bytes(value)
            os.chown(path, 0, USER)
            path.chmod(mode)
        return directory

    def home(self, release: str) -> Path:
        """The volume of a release's home."""
        directory = self.directory / f"volume-{release}"
        if not directory.exists():
            directory.mkdir()
            os.chown(directory, 0, USER)
            directory.chmod(0o2770)
        return directory

    def start(self, name: str) -> Child:
        pod = self.pods[name]
        self.children[name] = pod.container.start(name, pod.command(), self.directory / f"{name}.log")
        return self.children[name]

    def render(self, release: str, case: str, sets: Mapping[str, Any]) -> Rendered:
        text = template(release, case, {key: json.dumps(value) for key, value in sets.items()})
        self.releases[release] = parse(text)
        return self.releases[release]

    def job(self, release: str, image: str, endpoint: str) -> str:
        """Run a release's enrolment Job to its end; returns what it printed."""
        job = self.releases[release].one("Job")["spec"]["template"]
        pod = self.pod(f"{release}-job", release, job, image, endpoint)
        done = pod.container.run(pod.command())
        assert done.returncode == 0, done.stderr
        return done.stdout

    def enrol(self, requested: str) -> bytes:
        """At the authority: certify what a Job printed."""
        request = parse_request(requested[requested.index("{") :].encode())
        certificate, _ = self.authority.enrol(request)
        return certificate

    def give_authority_to_the_pod(self) -> None:
        """What the operator wrote into the authority's directory in the volume belongs to the pod's user."""
        for path in (self.authority.path, *self.authority.path.rglob("*")):
            os.chown(path, USER, USER)

    def give_bundle(self, certificate: bytes, secret: str) -> None:
        bundle = json.dumps(self.authority.bundle(certificate)).encode()
        self.files(secret, {"bundle.json": bundle}, 0o440, folder="secrets")


SILO_VALUES = {
    "silo.name": "hospital-a",
    "network.coordinatorCidrs": ["10.77.1.2/32"],
    "worker.threads": 1,
    "worker.data.existingClaim": "oncology",
    "worker.datasets": {"wisconsin": {"format": "csv", "path": "/data/table.csv"}},
}
COORDINATOR_VALUES = {
    "coordinator.federation": FEDERATION,
    "coordinator.address": COORDINATOR,
    "coordinator.country": "DE",
    "residency.regions": ["eu-central-1"],
    "enrolment.online.enabled": True,
}


KEY_THIEF = """
for path in ("/etc/concordat/channel/tls.key", "/etc/concordat/config/worker.yaml"):
    try:
        open(path, "rb").read()
    except PermissionError:
        continue
    raise ArithmeticError
"""
"""The app's last lines: they fail the run where a file of the pod can be read, or is not there to be tried."""


@pytest.fixture(scope="module")
def site(images: Mapping[str, Path]) -> Iterator[Site]:
    """Both releases rendered, enrolled and started."""
    _needs_root_and_tools()
    directory = Path(tempfile.mkdtemp(prefix="c-site-"))
    directory.chmod(0o755)
    labels = {"app.kubernetes.io/instance": "site", "app.kubernetes.io/name": "concordat-silo"}
    component = "app.kubernetes.io/component"
    names = {
        "coordinator": {**labels, "app.kubernetes.io/name": "concordat-coordinator", component: "coordinator"},
        "gate": {**labels, component: "gate"},
        "worker": {**labels, component: "worker"},
        "bystander": {"app": "something else"},
        "test": {**labels, component: "test"},
        "enrolment": {**labels, component: "enrolment"},
    }
    try:
        with network_of(names) as network:
            site = _found(directory, network, images)
            try:
                _start(site)
                yield site
            finally:
                site.children["worker"].signal(signal.SIGKILL)  # its trainer may be busy importing TensorFlow
                assert stop_all(list(site.children.values())) == []
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _found(directory: Path, network: Network, images: Mapping[str, Path]) -> Site:
    (directory / "roots").mkdir()
    authority = Authority(directory / "volume-coordinator" / "authority")
    operator = Home(directory / "operator")
    shutil.copytree(EXAMPLES / "breast_cancer" / "app", directory / "app", ignore=shutil.ignore_patterns("__pycache__"))
    with (directory / "app" / "model.py").open("a") as model:
        model.write(KEY_THIEF)
    text = (EXAMPLES / "breast_cancer" / "run.yaml").read_text()
    run_file = directory / "run.yaml"
    run_file.write_text(text.replace("rounds: 20", "rounds: 1"))
    (directory / "oncology").mkdir()
    tables = {name: directory / f"{name}.csv" for name in ("hospital-b", "hospital-c")}
    write_wisconsin({"hospital-a": directory / "oncology" / "table.csv", **tables}, DataSource())
    site = Site(directory, network, images, authority, operator, run_file)
    site.home("coordinator")
    authority.found(FEDERATION)
    return site


def _start(site: Site) -> None:
    policy = (EXAMPLES / "breast_cancer" / "policies" / "hospital-a.yaml").read_text()
    bundle = build_app(site.directory / "app")
    site.bundle.write_bytes(bundle)
    values = {**SILO_VALUES, "policy.content": re.sub(r"sha256:0{64}", app_digest(bundle), policy)}
    site.render("coordinator", "default", COORDINATOR_VALUES)
    site.render("silo", "default", values)
    policies = [one for release in site.releases.values() for one in release.kind("NetworkPolicy")]
    _without_filter(site)
    site.network.enforce(policies)
    # Started first, as by Helm; the gate waits for its certificate, and its worker for the gate.
    site.pod("gate", "silo", site.releases["silo"].pod("gate"), "gate", "gate")
    site.pod("worker", "silo", site.releases["silo"].pod("worker"), "worker", "worker")
    site.start("worker")
    site.start("gate").expect("waiting for a certificate", SECONDS)
    # The coordinator by request and bundle, as by courier; the silo on line, with an invitation.
    hub = site.enrol(site.job("coordinator", "coordinator", "coordinator"))
    request_enrolment(site.operator, FEDERATION, "operator", Role.OPERATOR, "DE", ())
    operator = site.enrol(site.operator.request.read_text())
    join(site.operator, json.dumps(site.authority.bundle(operator)).encode())
    site.give_bundle(hub, "coordinator-bundle")
    invitation = site.authority.invite("hospital-a", Role.SILO, "DE", ENROLMENT).model_dump(mode="json")
    site.files("charite-invitation", {"invitation.json": json.dumps(invitation).encode()}, 0o440, folder="secrets")
    site.give_authority_to_the_pod()
    bundled = {**COORDINATOR_VALUES, "enrolment.bundle.existingSecret": "coordinator-bundle"}
    hub_pod = site.render("coordinator", "default", bundled).pod("coordinator")
    site.job("coordinator", "coordinator", "coordinator")
    site.pod("coordinator", "coordinator", hub_pod, "coordinator", "coordinator")
    site.start("coordinator").expect("listening on", SECONDS)
    assert "joined cancer.example as hospital-a" in site.job("silo", "gate", "enrolment")
    assert site.job("silo", "gate", "enrolment") == "", "a Job that runs again finds the certificate and ends"
    site.children["gate"].expect("connected to", SECONDS)


def _without_filter(site: Site) -> None:
    """Before the policies hold, everything answers: so that it is they that silence it afterwards."""
    found = _reach(site, "worker", f"{site.network.pods['bystander'].address}:443")
    assert found == "answered"


LISTEN = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
listener.settimeout(30)
listener.accept()
"""
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()
    print("answered")
except OSError as error:
    print(type(error).__name__)
"""


def _reach(site: Site, source: str, address: str) -> str:
    """What comes of a connection from one pod's namespace to an address at which somebody listens."""
    host, _, port = address.partition(":")
    target = next(pod for pod in site.network.pods.values() if pod.address == host)
    python = ["/usr/bin/env", "python3", "-c"]
    with subprocess.Popen(
        ["ip", "netns", "exec", target.network, *python, LISTEN, host, port], stdout=subprocess.PIPE, text=True
    ) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "listening\n"
        try:
            knocked = subprocess.run(
                ["ip", "netns", "exec", site.network.pods[source].network, *python, KNOCK, host, port],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            listening.kill()
    return knocked.stdout.strip()


def _entries(site: Site, release: str) -> list[dict[str, Any]]:
    segments = sorted((site.home(release) / "home" / "audit" / "segments").glob("*.jsonl"))
    return [json.loads(line) for path in segments for line in path.read_text().splitlines()]


def _helm_test(site: Site, name: str) -> subprocess.CompletedProcess[str]:
    template = site.releases["silo"].one("Pod", f"-test-{name}")
    pod = site.pod(f"test-{name}", "silo", template, "gate", "worker" if name == "isolation" else "test")
    return pod.container.run(pod.command())


def test_the_charts_own_test_finds_the_gate_ready(site: Site) -> None:
    """As soon as the trainer is warm."""
    deadline = time.monotonic() + SECONDS
    done = _helm_test(site, "ready")
    while done.returncode != 0 and time.monotonic() < deadline:
        assert "no worker is connected" in done.stdout
        done = _helm_test(site, "ready")
    assert done.stdout.splitlines() == [f"ok   {site.network.pods['gate'].address}:9550 is ready: ok"]
    probe = site.pods["worker"].template["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    inside = ["nsenter", f"--target={site.children['worker'].pid}", "--mount", "--root", "--wd=/", *probe]
    found = subprocess.run(inside, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"/scratch/trainer-\d+/connected\n", found.stdout)


@pytest.fixture(scope="module")
def completed(site: Site) -> str:
    """A run of one round, submitted from outside both releases."""
    enter = ["ip", "netns", "exec", site.network.pods["bystander"].network]
    submit = ("run", "submit", str(site.run_file), "--bundle", str(site.bundle), "--home", str(site.operator.path))
    command = [*enter, *command_line(*submit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_round_passes_through(site: Site, completed: str) -> None:
    assert "run completed" in completed
    actions = [entry["action"] for entry in _entries(site, "silo")]
    for action in ("gate.start", "worker.connected", "run.admit", "view.build", "round.egress", "evaluation.egress"):
        assert action in actions
    for release, name, role in (("silo", "hospital-a", "silo"), ("coordinator", "coordinator", "coordinator")):
        member = site.authority.manifest().federation.member(name)
        report = verify(site.home(release) / "home" / "audit", member.log)
        assert report.size == len(_entries(site, release)), role


def test_attack_the_app_reads_neither_the_channels_key_nor_the_configuration(site: Site, completed: str) -> None:
    assert KEY_THIEF in (site.directory / "app" / "model.py").read_text()
    root = Path(f"/proc/{site.children['worker'].pid}/root")
    assert (root / "etc/concordat/channel/tls.key").read_bytes(), "the key is in the pod"
    assert "run completed" in completed


def test_the_log_says_how_the_worker_was_separated(site: Site, completed: str) -> None:
    entries = _entries(site, "silo")
    connected = next(entry for entry in entries if entry["action"] == "worker.connected")
    assert connected["detail"]["network"].startswith("NO EMPTY NETWORK NAMESPACE: TCP to port 9551 alone")
    assert connected["detail"]["processes"].startswith(("processes, IPC", "PROCESSES NOT SEPARATED"))
    view = next(entry for entry in entries if entry["action"] == "view.build")
    assert view["detail"]["sockets"] == "no sockets by seccomp"
    start = next(entry for entry in entries if entry["action"] == "gate.start")
    assert (start["detail"]["country"], start["detail"]["region"]) == ("DE", "eu-central-1")


def test_processes_are_not_root_and_their_tree_cannot_be_written(site: Site, completed: str) -> None:
    for name in ("gate", "worker", "coordinator"):
        status = Path(f"/proc/{site.children[name].pid}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}" in status, name
        assert "CapEff:\t0000000000000000" in status, name
        assert "NoNewPrivs:\t1" in status, name
        root = Path(f"/proc/{site.children[name].pid}/root")
        with pytest.raises(OSError, match="Read-only file system"):
            (root / "opt/concordat/bin/new").touch()
        with pytest.raises(OSError, match="Read-only file system"):
            (root / "new").touch()


def test_lines_are_json(site: Site, completed: str) -> None:
    for name in ("gate", "worker", "coordinator"):
        for line in site.children[name].output().splitlines():
            assert json.loads(line)["component"] == name


def test_from_the_worker_nothing_but_its_gate_answers(site: Site, completed: str) -> None:
    done = _helm_test(site, "isolation")
    assert done.returncode == 0, done.stdout
    outcomes = {line.split()[1] + " " + line.rpartition(" ")[2]: line[:4] for line in done.stdout.splitlines()}
    assert set(outcomes.values()) == {"ok  "}
    assert len(done.stdout.splitlines()) == 5
    gate, bystander = site.network.pods["gate"].address, site.network.pods["bystander"].address
    assert f"{gate}:9551 answers: connected" in done.stdout
    assert _reach(site, "worker", f"{bystander}:443") == "TimeoutError"
    assert _reach(site, "worker", f"{bystander}:9551") == "TimeoutError"
    assert _reach(site, "bystander", f"{site.network.pods['worker'].address}:443") == "TimeoutError"


def test_the_charts_own_test_fails_where_the_policies_are_not_enforced(site: Site, completed: str) -> None:
    router = site.network.router
    subprocess.run(["ip", "netns", "exec", router, "nft", "delete", "table", "inet", "policies"], check=True)
    done = _helm_test(site, "isolation")
    assert done.returncode == 1
    assert f"FAIL {site.network.pods['gate'].address}:9550 does not answer: connected" in done.stdout
