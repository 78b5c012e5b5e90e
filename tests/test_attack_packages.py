"""Nobody is told to install a stranger's package: the public index has a `concordat` that is not this project's."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from audit.export.rendering import product_version

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS, STRANGER = "concordat-fl", "concordat"

STRANGERS = re.compile(
    r"\bconcordat\[[a-z]"  # an extra of it
    r"|\b(?:install|add)\b(?:\s+-\S+)*\s+['\"`]?concordat(?![-\w/.:])"  # pip, pipx, uv, conda, poetry
    r"|\b(?:pip3?|pipx|uv|conda|poetry)\b[^\n|;&]*\b(?:install|add)\b[^\n|;&]*\s['\"]?concordat(?![-\w/.:])"
    r"|\bconcordat(?:==|~=|>=)\d"  # a pin of it
)


def strangers(text: str) -> list[str]:
    return [found.group() for found in STRANGERS.finditer(text)]


@pytest.mark.parametrize(
    "text",
    [
        f"pip install {STRANGER}",
        f"python -m pip install -U '{STRANGER}'",
        f'uv add "{STRANGER}"',
        f"pipx install {STRANGER}\n",
        f"pip install numpy {STRANGER}",
        f"install `{STRANGER}` first",
        f"`pip install {STRANGER}[silo]`",
        f"install `{STRANGER}[silo-gpu]`",
        f"{STRANGER}==0.1.0",
        f"FROM x\nRUN pip install --no-cache {STRANGER} && true",
    ],
)
def test_a_strangers_package_is_seen(text: str) -> None:
    assert strangers(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install concordat-fl",
        "pip install 'concordat-fl[silo]'",
        "pip install --no-deps .",
        "helm install concordat-silo charts/silo",
        "install what comes back: concordat silo join",
        "concordat silo doctor --home gate",
    ],
)
def test_our_own_is_none(text: str) -> None:
    assert strangers(text) == []


def test_no_file_names_the_strangers_package() -> None:
    for name in TRACKED:
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            assert strangers(path.read_text(errors="replace")) == [], name


def test_the_projects_extras_are_its_own() -> None:
    """An extra that asks for other extras names this distribution, so that no index is asked for it."""
    assert PROJECT["name"] == OURS
    wanted = [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]
    assert {one.name for one in wanted if "concordat" in one.name} == {OURS}
    own = {extra for one in wanted if one.name == OURS for extra in one.extras}
    assert own <= set(PROJECT["optional-dependencies"])


def test_what_is_installed_here_is_this_project() -> None:
    assert importlib.metadata.metadata(OURS)["Name"] == OURS
    assert {"audit", "coordinator", "federation", "policies", "silo"} <= {
        package for package, names in importlib.metadata.packages_distributions().items() if OURS in names
    }
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.metadata("concordat")


def test_the_version_that_is_told_and_exported_is_of_the_projects_own_distribution() -> None:
    told = subprocess.run([sys.executable, "-m", "federation", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"concordat {PROJECT['version']}\n"
    assert product_version() == importlib.metadata.version(OURS) == PROJECT["version"]
