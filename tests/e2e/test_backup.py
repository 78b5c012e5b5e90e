"""The commands of docs/backup.md, run as they stand there, on members that run."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import keys as log_keys
from audit.entry import Event
from audit.errors import AuditCorrupt
from audit.log import AuditLog
from audit.verify import verify
from demo.federate import Deployment, environment
from demo.founding import found
from demo.scenarios import DataSource, scenario
from federation.processes import command_line

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "backup.md").read_text(), re.S)
BACK_UP, RESTORE = BLOCKS
ORIGIN = "heart.example/silo/hospital-a"


def shell(script: str, home: Path, backup: Path) -> None:
    variables = {"HOME_OF_MEMBER": str(home), "BACKUP": str(backup), "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-euc", script], check=True, env=variables)


def concordat(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = command_line(*map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=120)


@pytest.mark.federation
def test_members_that_run_are_backed_up_and_go_on_from_the_copy(short_tmp: Callable[[str], Path]) -> None:
    founded = found(short_tmp("backup"), scenario("breast_cancer"), DataSource())
    silo = founded.silos["hospital-a"]
    homes = {"coordinator": founded.coordinator.path, "silo": silo.gate.path}
    first = Deployment(founded)
    try:
        start(first, founded)
        for name, home in homes.items():
            shell(BACK_UP, home, founded.directory / f"{name}-backup")
    finally:
        first.stop()
    for name, home in homes.items():
        shutil.move(home, home.with_name(f"{name}-aside"))
        shell(RESTORE, home, founded.directory / f"{name}-backup")
        key = (home / "audit" / "log.vkey").read_text().strip()
        done = concordat("audit", "verify", home / "audit", "--key", key)
        assert done.returncode == 0, done.stderr
    second = Deployment(founded)
    try:
        start(second, founded)
        examined = concordat("silo", "doctor", "--gate", silo.silo_config, "--home", silo.gate.path)
        assert examined.returncode == 0, examined.stdout
    finally:
        second.stop()
    for member, home in (("coordinator", founded.coordinator), ("hospital-a", silo.gate)):
        log = founded.manifest.federation.member(member).log
        actions = re.findall(
            r'"action":"([\w.]+)"', "".join(p.read_text() for p in home.audit.glob("segments/*.jsonl"))
        )
        assert verify(home.audit, log).size == len(actions)
        kind = "coordinator" if member == "coordinator" else "gate"
        assert actions.count(f"{kind}.start") == 2, "one from the backup, one after the restore"


def start(deployment: Deployment, founded: object) -> None:
    """The coordinator and one gate."""
    from demo.founding import Founded

    assert isinstance(founded, Founded)
    silo = founded.silos["hospital-a"]
    deployment.spawn("coordinator", "coordinator", "serve", "--home", str(founded.coordinator.path))
    deployment.spawn("gate", "silo", "gate", str(silo.silo_config), "--home", str(silo.gate.path))
    deployment.children["coordinator"].expect("listening on", 30)
    deployment.children["gate"].expect("connected to", 30)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, threading.Event]:
    """A home whose log is being written until the event is set."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    log_keys.create_key(home / "log-key.pem")
    (home / "key.pem").write_text("")
    return home, threading.Event()


def test_a_log_that_is_written_meanwhile_is_whole_in_the_copy(written: tuple[Path, threading.Event]) -> None:
    home, stop = written
    key = log_keys.load_key(home / "log-key.pem")
    grew = threading.Event()

    def write() -> None:
        with AuditLog.open(home / "audit", origin=ORIGIN, key=key) as log:
            while not stop.is_set():
                log.append(Event(actor="a", action="round.egress", resource="run/1", payload={"loss": 0.5}))
                if log.size > 50:
                    grew.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert grew.wait(60)
    backup = home.with_name("backup")
    try:
        shell(BACK_UP, home, backup)
    finally:
        stop.set()
        thread.join()
    with AuditLog.open(backup / "audit", origin=ORIGIN, key=key) as log:
        assert log.size > 50
        assert verify(backup / "audit", log.vkey).size == log.size


def test_the_other_order_gives_a_copy_that_is_refused(written: tuple[Path, threading.Event]) -> None:
    """A checkpoint that is read last signs entries that the copied segments do not have."""
    home, _ = written
    key, backup = log_keys.load_key(home / "log-key.pem"), home.with_name("backup")
    with AuditLog.open(home / "audit", origin=ORIGIN, key=key) as log:
        log.append(Event(actor="a", action="one", resource="r"))
        shutil.copytree(home, backup)
        log.append(Event(actor="a", action="two", resource="r"))
        shutil.copy(home / "audit" / "checkpoint", backup / "audit" / "checkpoint")
    with pytest.raises(AuditCorrupt):
        AuditLog.open(backup / "audit", origin=ORIGIN, key=key)
