"""What the install script puts into the images: from the locks, without what does not belong there, with a bill."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .conftest import TARGETS, install
from .rendering import ROOT

INSTALL = ROOT / "images" / "install"
SPDX_LIKE = re.compile(r"[A-Za-z0-9.()+ -]+")
each_target = pytest.mark.parametrize("target", TARGETS)


def bill(prefix: Path) -> dict[str, Any]:
    return dict(json.loads((prefix / "share" / "concordat" / "sbom.cdx.json").read_text()))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> set[tuple[str, str]]:
    """The pins of a lock; one package may have several, for several Pythons."""
    text = (ROOT / "locks" / name).read_text()
    return {(normal(pin), version) for pin, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M)}


def importable(prefix: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([prefix / "bin" / "python", "-I", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("target", "absent"),
    [
        ("coordinator", ("tensorflow", "keras", "pandas", "pyarrow", "silo", "pip", "uv", "demo")),
        ("gate", ("tensorflow", "keras", "pandas", "pyarrow", "coordinator", "pip", "uv", "demo")),
        ("worker", ("coordinator", "pip", "uv", "demo")),
    ],
)
def test_what_does_not_belong_there_is_absent(images: Mapping[str, Path], target: str, absent: tuple[str, ...]) -> None:
    assert [name for name in absent if importable(images[target], name)] == []
    present = {"coordinator": "coordinator.service", "gate": "silo.gate.service", "worker": "tensorflow"}
    assert importable(images[target], present[target].partition(".")[0])


@each_target
def test_no_compiler_no_headers_and_no_command_but_ours(images: Mapping[str, Path], target: str) -> None:
    commands = {path.name for path in (images[target] / "bin").iterdir()}
    assert {name for name in commands if not name.startswith("python")} == {"concordat"}
    (packages,) = images[target].glob("lib/python3.*/site-packages")
    assert not (packages / "tensorflow" / "include").exists()
    assert not (packages / "pyarrow" / "include").exists()


@each_target
def test_the_command_says_the_version_of_the_project(images: Mapping[str, Path], target: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = subprocess.run(
        [images[target] / "bin" / "concordat", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"concordat {version}\n"


@each_target
def test_every_version_is_the_locks(images: Mapping[str, Path], target: str) -> None:
    pins = locked("silo.txt" if target == "worker" else "coordinator.txt")
    found = {(normal(part["name"]), part["version"]) for part in bill(images[target])["components"]}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert found - pins == {("concordat-fl", version)}
    assert len(found) >= 50


@each_target
def test_the_bill_has_the_form_of_cyclonedx(images: Mapping[str, Path], target: str) -> None:
    """The fields that the 1.6 schema requires, and references that lead somewhere."""
    content = bill(images[target])
    assert (content["bomFormat"], content["specVersion"], content["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", content["serialNumber"])
    root = content["metadata"]["component"]
    assert (root["type"], root["name"]) == ("application", f"concordat-{target}")
    references = {root["bom-ref"]}
    for part in content["components"]:
        assert part["type"] == "library"
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[\w.+!-]+", part["purl"])
        assert part["name"]
        assert part["version"]
        for licence in part.get("licenses", ()):
            assert SPDX_LIKE.fullmatch(licence.get("expression", "x"))
            assert licence.get("expression") or licence["license"]["name"]
        references.add(part["bom-ref"])
    assert len(references) == len(content["components"]) + 1
    for edge in content["dependencies"]:
        assert {edge["ref"], *edge["dependsOn"]} <= references


@each_target
def test_every_licence_is_known_or_its_text_is_there(images: Mapping[str, Path], target: str) -> None:
    texts = {path.name for path in (images[target] / "share" / "concordat" / "licences").iterdir()}
    for part in bill(images[target])["components"]:
        assert part.get("licenses") or f"{normal(part['name'])}-{part['version']}" in texts, part["name"]


def test_the_same_lock_gives_the_same_bill(images: Mapping[str, Path], tmp_path: Path) -> None:
    install("gate", tmp_path / "again")
    assert bill(tmp_path / "again") == bill(images["gate"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gate",), "got 1 arguments, expected: coordinator, gate or worker, and the directory"),
        (("server", "/tmp/x"), "got server, expected coordinator, gate or worker"),
        (("gate", str(ROOT)), "is not empty"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    done = run([str(INSTALL), *arguments])
    assert done.returncode == 1
    assert said in done.stderr


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    uv = Path(sys.executable).with_name("uv")
    cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHON": sys.executable, "UV": str(uv)}
    environment |= {"UV_OFFLINE": "1", "UV_CACHE_DIR": cache}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    for name in ("audit", "federation", "policies", "silo", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "install").write_bytes(INSTALL.read_bytes())
    (tmp_path / "locks").mkdir()
    for path in (ROOT / "locks").iterdir():
        changed = re.sub(r"(?<=--hash=sha256:)[0-9a-f]{8}", "00000000", path.read_text())
        (tmp_path / "locks" / path.name).write_text(changed if path.name == "coordinator.txt" else path.read_text())
    done = run(["sh", str(tmp_path / "images" / "install"), "gate", str(tmp_path / "out")])
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()
    assert not (tmp_path / "out" / "bin" / "concordat").exists()
