"""The architecture holds: who imports whom, what the coordinator loads, what the locks pin, how large a module is."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("audit", "coordinator", "demo", "federation", "policies", "silo", "simulation")
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["coordinator.service", "silo.gate.service", "federation.operator", "audit.log"])
def test_these_load_without_tensorflow_and_without_data_libraries(module: str) -> None:
    heavy = ["tensorflow", "keras", "pandas", "pyarrow", "sklearn"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_flowers_internals_are_touched_in_two_modules_only() -> None:
    inner = re.compile(r"^\s*(from|import) flwr\.(superlink|supernode|supercore|proto|server|common)", re.M)
    found = {str(path.relative_to(ROOT)) for path in modules() if inner.search(path.read_text())}
    assert found == {"silo/gate/fleet.py", "coordinator/superlink.py"}


def test_tensorflow_is_imported_under_training_only() -> None:
    direct = re.compile(r"^\s*(from|import) (tensorflow|keras)", re.M)
    found = {str(path.relative_to(ROOT)) for path in modules() if direct.search(path.read_text())}
    assert {str(Path(name).parent) for name in found} == {"silo/worker/training"}


def test_no_module_is_longer_than_six_hundred_lines() -> None:
    assert [path for path in modules() if len(path.read_text().splitlines()) > 600] == []


def test_no_file_keeps_the_marks_of_an_unfinished_merge() -> None:
    marks = re.compile(rb"^(<{7}|>{7})( |$)", re.M)
    kept = [name for name in TRACKED if name and (ROOT / name).is_file() and marks.search((ROOT / name).read_bytes())]
    assert kept == []


def locked(name: str) -> dict[str, set[str]]:
    pins: dict[str, set[str]] = {}
    for pin, version in re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "locks" / name).read_text(), re.M):
        pins.setdefault(pin.lower().replace("_", "-").replace(".", "-"), set()).add(version)
    return pins


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("coordinator.txt", ("coordinator",)),
        ("silo.txt", ("silo",)),
        ("silo-gpu.txt", ("silo-gpu",)),
        ("dev.txt", ("coordinator", "silo", "demo", "dev")),
    ],
)
def test_locks_pin_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in extras for r in project["optional-dependencies"][extra])]
    pins = locked(lock)
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name == "concordat-fl":
            continue
        versions = pins[requirement.name.lower().replace("_", "-").replace(".", "-")]
        assert any(requirement.specifier.contains(version) for version in versions), text


def test_every_pin_has_a_hash_and_no_lock_names_a_host() -> None:
    for path in (ROOT / "locks").glob("*.txt"):
        text = path.read_text()
        pins = re.findall(r"^[\w.-]+==.*?(?=^\S|\Z)", text, re.M | re.S)
        assert pins
        assert all("--hash=sha256:" in pin for pin in pins), path
        assert "://" not in text


def test_the_coordinators_lock_has_no_tensorflow() -> None:
    assert not {"tensorflow", "tensorflow-cpu", "keras", "pandas", "pyarrow"} & set(locked("coordinator.txt"))


def test_the_tree_names_no_machine() -> None:
    """No path of a build machine in what is committed; the pattern is put together so that this file passes too."""
    pattern = re.compile("/" + "work/|/" + r"root/\.|\.lib" + "rary/")
    for name in TRACKED:
        path = ROOT / name
        if name and path.is_file():
            assert not pattern.search(path.read_text(errors="replace")), name
