"""A federation on disk, founded as its people would."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.founding import MARKER, clear
from demo.scenarios import SCENARIOS
from federation.errors import UsageError
from federation.manifest import load_manifest
from federation.run import app_digest
from policies.model import load_policy
from silo.config import load_silo_config, load_worker_config

from .conftest import Site


def _files(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()}


# -- clear


def test_an_empty_or_absent_directory_is_taken(tmp_path: Path) -> None:
    for directory in (tmp_path / "new" / "demo", tmp_path / "empty"):
        if directory.name == "empty":
            directory.mkdir()
        clear(directory)
        assert [path.name for path in directory.iterdir()] == [MARKER]


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    clear(tmp_path / "demo")
    (tmp_path / "demo" / "old").mkdir()
    (tmp_path / "demo" / "old" / "file").write_text("x")
    clear(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [MARKER]


@pytest.mark.parametrize("content", [{"thesis.tex": "x"}, {".hidden": "x"}, {"deep/er": "x"}])
def test_a_directory_of_someone_elses_is_left_alone(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="holds files that are not an earlier demo's; give another --directory"):
        clear(tmp_path)
    assert _files(tmp_path) == content


# -- found


def test_the_members_are_those_of_the_scenario(site: Site) -> None:
    scenario = SCENARIOS["breast_cancer"]
    federation = site.founded.manifest.federation
    assert federation.metadata.name == "breast-cancer.example"
    found = {member.name: (member.role.value, member.country) for member in federation.members}
    assert found == {
        "coordinator": ("coordinator", "DE"),
        "operator": ("operator", "DE"),
        **{name: ("silo", country) for name, country in scenario.silos.items()},
    }
    for home in (site.founded.coordinator, site.founded.operator, *(p.gate for p in site.founded.silos.values())):
        assert load_manifest(home).document.digest == site.founded.manifest.document.digest
        home.private_key()  # raises where key and certificate do not belong together


def test_every_key_is_its_members_own(site: Site) -> None:
    keys = [path for path in site.founded.directory.rglob("*.pem") if "key" in path.name]
    assert len(keys) == 2 + 2 * 5, "the authority's two, and a key and a log key for each member"
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert len({path.read_bytes() for path in keys}) == len(keys)


def test_data_lies_with_the_workers_and_keys_with_the_gates(site: Site) -> None:
    for place in site.founded.silos.values():
        assert not list(place.gate.path.rglob("*.csv"))
        assert not list(place.worker.rglob("*.pem"))
        assert place.data.is_file()
        assert place.data.parent.stat().st_mode & 0o077 == 0
        assert str(place.worker) not in place.silo_config.read_text()


def test_every_policy_approves_the_app_that_was_built(site: Site) -> None:
    for name, place in site.founded.silos.items():
        policy = load_policy(place.policy).model
        assert [app.digest for app in policy.apps.allow] == [app_digest(site.founded.app)]
        assert policy.residency.silo == site.founded.manifest.federation.member(name).country


def test_the_configurations_load_and_meet_at_one_socket(site: Site) -> None:
    for name, place in site.founded.silos.items():
        gate, worker = load_silo_config(place.silo_config), load_worker_config(place.worker_config)
        assert worker.silo == name
        assert gate.socket == worker.socket
        assert gate.policy == place.policy.resolve()
        assert worker.datasets["wisconsin"].path == place.data.resolve()
        assert worker.threads == 1
    sockets = {load_silo_config(place.silo_config).socket for place in site.founded.silos.values()}
    assert len(sockets) == 3
