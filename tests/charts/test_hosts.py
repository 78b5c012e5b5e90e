"""What institutions without Kubernetes are given: systemd units, a compose file, Containerfiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from silo.config import load_silo_config, load_worker_config

from .rendering import ROOT

IMAGES = ROOT / "images"
UNITS = sorted((IMAGES / "systemd").glob("*.service"))
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)


def settings(unit: Path) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    assert tool is not None, "systemd-analyze is missing: tools/test-tools installs it"
    return tool


@each_unit
def test_systemd_reads_the_unit_without_a_remark(unit: Path, analyze: str, tmp_path: Path) -> None:
    for other in UNITS:  # a unit that another one wants has to be there; the program is not
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", other.read_text(), flags=re.M)
        (tmp_path / other.name).write_text(text)
    done = subprocess.run([analyze, "verify", tmp_path / unit.name], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@each_unit
def test_systemd_finds_the_unit_well_confined(unit: Path, analyze: str, tmp_path: Path) -> None:
    """An exposure of at most 1.5 of 10 by systemd's own count."""
    (tmp_path / unit.name).write_text(unit.read_text())
    command = [analyze, "security", "--offline=true", "--threshold=15", "--no-pager", tmp_path / unit.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@each_unit
def test_every_unit_has_what_hardening_begins_with(unit: Path) -> None:
    found = settings(unit)
    for name, value in {
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "ProtectHome": "yes",
        "RestrictNamespaces": "yes",
        "UMask": "0077",
    }.items():
        assert found[name] == [value], name
    assert found.get("DynamicUser") == ["yes"] or found["User"][0].startswith("concordat-")


def test_the_worker_has_no_network_and_the_gate_no_data() -> None:
    worker, gate = (settings(IMAGES / "systemd" / f"concordat-{name}.service") for name in ("worker", "gate"))
    assert worker["PrivateNetwork"] == ["yes"]
    assert worker["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert "PrivateNetwork" not in gate
    assert worker["User"] != gate["User"]
    assert worker["InaccessiblePaths"] == ["-/var/lib/concordat-gate"]
    users = (IMAGES / "systemd" / "concordat.sysusers").read_text()
    assert set(re.findall(r"^u (\S+)", users, re.M)) == {*worker["User"], *gate["User"]}


@each_unit
def test_the_command_of_a_unit_is_one_that_exists(unit: Path) -> None:
    import typer

    from federation.cli import command

    (line,) = settings(unit)["ExecStart"]
    words = line.split()[1:]
    context = typer.Context(command)
    group: Any = command.get_command(context, words[0])
    known = {option for parameter in group.commands[words[1]].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


# -- compose


@pytest.fixture
def services() -> dict[str, Any]:
    return dict(YAML(typ="safe").load((IMAGES / "compose" / "compose.yaml").read_text())["services"])


def test_the_composed_worker_has_no_network_and_the_gate_no_data(services: dict[str, Any]) -> None:
    targets = {
        name: {one["target"] if isinstance(one, dict) else one.partition(":")[2] for one in service["volumes"]}
        for name, service in services.items()
    }
    assert services["worker"]["network_mode"] == "none"
    assert "network_mode" not in services["gate"]
    assert "/data" in targets["worker"] - targets["gate"]
    assert "/var/lib/concordat" in targets["gate"] - targets["worker"]
    assert targets["gate"] & targets["worker"] == {"/run/concordat"}
    data = next(one for one in services["worker"]["volumes"] if isinstance(one, dict) and one["target"] == "/data")
    assert data["read_only"] is True


def test_composed_services_are_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["user"].startswith(("0", "root")), name
        assert not service.get("privileged"), name
    assert services["gate"]["user"] != services["worker"]["user"]
    assert all(port.startswith("127.0.0.1:") for port in services["gate"]["ports"])


def test_the_composed_configurations_fit_each_other_and_the_users(services: dict[str, Any]) -> None:
    silo = load_silo_config(IMAGES / "compose" / "silo.yaml")
    worker = load_worker_config(IMAGES / "compose" / "worker.yaml")
    assert silo.socket == worker.socket
    assert silo.worker_uid == int(services["worker"]["user"].partition(":")[0])
    assert silo.metrics == "0.0.0.0:9550"
    assert all(str(source.path).startswith("/data/") for source in worker.datasets.values())


# -- Containerfiles


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*/Containerfile")), ids=lambda path: path.parent.name)
def test_containerfiles_pin_their_base_and_end_as_somebody_else_than_root(path: Path) -> None:
    lines = path.read_text().splitlines()
    stages = re.findall(r"^FROM (\S+) AS (\S+)", path.read_text(), re.M)
    known = {name for _, name in stages}
    assert {base for base, _ in stages} - known == {"${PYTHON_BASE}"}
    assert "ARG PYTHON_BASE" in lines, "no default: whoever builds names a digest"
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]
    for target in re.findall(r"images/install (\w+)", path.read_text()):
        assert target in {"coordinator", "gate", "worker"}
    assert "curl" not in path.read_text()
    assert not re.search(r"^ADD ", path.read_text(), re.M)


@pytest.mark.parametrize(
    ("base", "accepted"),
    [
        ("python:3.12-slim@sha256:" + "a" * 64, True),
        ("python:3.12-slim", False),
        ("python@sha256:abc", False),
        ("", False),
    ],
)
def test_a_base_without_a_digest_is_refused(base: str, accepted: bool) -> None:
    text = (IMAGES / "silo" / "Containerfile").read_text()
    check = re.search(r"^RUN (case .*?esac)$", text, re.M | re.S)
    assert check is not None
    command = check[1].replace("\\\n", "")
    done = subprocess.run(["sh", "-c", command], env={"PYTHON_BASE": base}, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is accepted


def test_an_image_is_built_from_what_the_script_needs_and_nothing_else() -> None:
    listed = set(re.findall(r"^!(\S+)", (ROOT / ".containerignore").read_text(), re.M))
    script = (IMAGES / "install").read_text()
    copied = re.search(r"for part in ([^;]+);", script)
    assert copied is not None
    assert listed == {*copied[1].split(), "images", "locks"}
