"""`concordat demo`, as a user runs it, and what it leaves."""

from __future__ import annotations

import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from demo.federate import environment
from federation.home import Home
from federation.manifest import load_manifest
from federation.processes import Child, command_line

from .conftest import DemoRun, entries_of, processes_mentioning

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

SILOS = ("hospital-a", "hospital-b", "hospital-c")


def test_it_succeeds_and_shows_every_step(demo_run: DemoRun) -> None:
    assert demo_run.returncode == 0, demo_run.output[-3000:]
    steps = [line for line in demo_run.output.splitlines() if re.match(r"\d\. ", line)]
    assert [step[0] for step in steps] == ["1", "2", "3", "4", "5", "6"]
    assert len(re.findall(r"^  round +\d+  loss", demo_run.output, re.M)) == 20
    assert "Traceback" not in demo_run.output


def test_separate_processes_are_named(demo_run: DemoRun) -> None:
    started = re.findall(r"^  (\S+) \(process (\d+)\)$", demo_run.output, re.M)
    names = [name for name, _ in started]
    assert sorted(names) == sorted(["coordinator", *(f"{s}-{part}" for s in SILOS for part in ("gate", "worker"))])
    assert len({pid for _, pid in started}) == 7


def test_training_helps_and_the_table_has_every_silo(demo_run: DemoRun) -> None:
    rounds = re.findall(r"^  round +\d+  loss (\S+)  auc (\S+)", demo_run.output, re.M)
    final = re.search(r"final model: loss (\S+)  auc (\S+)", demo_run.output)
    assert final is not None
    assert float(final[1]) < 0.5 * float(rounds[0][0])
    assert float(final[2]) > 0.97
    for silo in SILOS:
        assert re.search(rf"{silo} +│ +\d+ │ +\d+% │ +0?1?\.\d+ \(\d\.\d+\) │", demo_run.output)
    assert "only this demonstration" in demo_run.output


def test_each_silo_refuses_the_other_purpose_with_rule_reason_and_place(demo_run: DemoRun) -> None:
    _, _, second = demo_run.output.partition("5. Submit the same run")
    for silo in SILOS:
        assert f"{silo}: REFUSED by rule purposes.allow" in second
    assert second.count("run purpose POA (population origins or ancestry research) is not allowed") == 3
    policy = (demo_run.directory / "hospital-a" / "gate" / "policy.yaml").read_text().splitlines()
    place = re.search(r"at policy\.yaml:(\d+):(\d+)", second)
    assert place is not None
    assert policy[int(place[1]) - 1].strip().startswith("allow: [HMB]")


def test_no_process_is_left(demo_run: DemoRun) -> None:
    assert processes_mentioning(str(demo_run.directory)) == []


def test_the_model_can_be_read_and_has_the_app_shapes(demo_run: DemoRun) -> None:
    path = re.search(r"^model: +(\S+)$", demo_run.output, re.M)
    assert path is not None
    with np.load(path[1]) as model:
        shapes = [model[name].shape for name in sorted(model.files)]
    assert shapes == [(30, 32), (32,), (32, 16), (16,), (16, 1), (1,)]


def test_the_report_is_whole_and_needs_nothing_from_outside(demo_run: DemoRun) -> None:
    page = (demo_run.directory / "report.html").read_text()
    assert page.count("<svg") == 2
    assert page.count("<polyline") == 6
    assert all(silo in page for silo in SILOS)
    assert "purposes.allow" in page
    assert not re.search(r"(src|href)=|@import|url\(", page)


def test_keys_are_private_and_never_printed(demo_run: DemoRun) -> None:
    keys = [*demo_run.directory.rglob("*key.pem")]
    assert len(keys) == 2 + 2 * 5
    secrets = []
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        secrets.append("".join(key.read_text().split("-----")[2].split())[40:80])
    texts = [path for path in demo_run.directory.rglob("*") if path.is_file() and path not in keys]
    for path in texts:
        content = path.read_bytes()
        assert b"PRIVATE KEY" not in content, path
        assert not any(secret.encode() in content for secret in secrets), path


def test_no_row_leaves_the_workers_directory(demo_run: DemoRun) -> None:
    """A row is recognised by its first two measurements beside each other, as text or as float32."""
    rows = (demo_run.directory / "hospital-a" / "worker" / "data" / "table.csv").read_text().splitlines()[1:]
    pairs = [row.split(",")[:2] for row in rows]
    text = re.compile("|".join(rf"{re.escape(a)}[^0-9]{{1,4}}{re.escape(b)}" for a, b in pairs).encode())
    binary = [struct.pack("<ff", float(a), float(b)) for a, b in pairs]
    assert text.search((demo_run.directory / "hospital-a" / "worker" / "data" / "table.csv").read_bytes())
    outside = [p for p in demo_run.directory.rglob("*") if p.is_file() and "worker" not in p.parts]
    assert len(outside) > 50
    for path in outside:
        content = path.read_bytes()
        assert not text.search(content), path
        assert not any(pattern in content for pattern in binary), path


def test_every_log_tells_the_whole_run(demo_run: DemoRun) -> None:
    entries = entries_of(demo_run.directory / "hospital-b" / "gate" / "audit")
    actions = [entry["action"] for entry in entries]
    assert actions[0] == "gate.start"
    assert actions[-1] == "gate.stop"
    assert actions.count("round.ingress") == 21
    assert actions.count("round.egress") == 20
    denied = [entry for entry in entries if entry["decision"] == "deny"]
    assert [entry["rule"] for entry in denied] == ["purposes.allow"]
    connected = next(entry for entry in entries if entry["action"] == "worker.connected")
    assert "network namespace" in connected["detail"]["network"] or "NOT SEPARATED" in connected["detail"]["network"]


def test_the_coordinator_logs_each_global_model_before_it_is_sent(demo_run: DemoRun) -> None:
    """What a silo took in is what the coordinator had recorded, and recorded earlier."""
    begun = {
        e["round"]: e for e in entries_of(demo_run.directory / "coordinator" / "audit") if e["action"] == "round.begin"
    }
    taken = [
        e for e in entries_of(demo_run.directory / "hospital-a" / "gate" / "audit") if e["action"] == "round.ingress"
    ][:20]
    assert len(taken) == 20
    for entry in taken:
        assert entry["detail"]["model"] == begun[entry["round"]]["detail"]["model"]
        assert begun[entry["round"]]["time"] < entry["time"]


@pytest.mark.parametrize("member", ["coordinator", *SILOS])
def test_a_tampered_byte_fails_verification_and_names_the_entry(demo_run: DemoRun, member: str, tmp_path: Path) -> None:
    home = demo_run.directory / member if member == "coordinator" else demo_run.directory / member / "gate"
    copy = tmp_path / "audit"
    shutil.copytree(home / "audit", copy)
    key = load_manifest(Home(demo_run.directory / "authority")).federation.member(member).log
    assert key is not None
    command = command_line("audit", "verify", str(copy), "--key", key)
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    segment = next((copy / "segments").glob("*.jsonl"))
    lines = segment.read_bytes().splitlines(keepends=True)
    changed = lines[17].replace(b'"decision":"allow"', b'"decision":"deny"', 1)
    if changed == lines[17]:
        changed = lines[17].replace(b'"decision":"record"', b'"decision":"allow"', 1)
    assert changed != lines[17]
    segment.write_bytes(b"".join([*lines[:17], changed, *lines[18:]]))
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "entry 17" in bad.stderr + bad.stdout
    assert "Traceback" not in bad.stderr


@pytest.mark.parametrize(
    ("moment", "text"),
    [("founding", "1. Found"), ("starting", "2. Start"), ("training", "  round   3"), ("comparing", "4. Compare")],
)
def test_ctrl_c_leaves_no_process(moment: str, text: str, short_tmp: Callable[[str], Path]) -> None:
    directory = short_tmp("int") / moment
    child = Child("demo", command_line("demo", "--directory", str(directory)), directory.parent / "log", environment())
    child.expect(text, 120)
    child.signal(signal.SIGINT)
    assert child.wait(30) == 130
    child.join()
    assert processes_mentioning(str(directory)) == []
    assert "Traceback" not in child.output()
    assert child.output().rstrip().endswith("interrupted")


def test_a_killed_demo_takes_its_processes_with_it(short_tmp: Callable[[str], Path]) -> None:
    directory = short_tmp("kill") / "d"
    child = Child("demo", command_line("demo", "--directory", str(directory)), directory.parent / "log", environment())
    child.expect("  round   2", 120)
    workers = [int(pid) for pid in re.findall(r"\(process (\d+)\)", child.output())]
    handles = [_pidfd(pid) for pid in workers]
    child.signal(signal.SIGKILL)
    child.wait(10)
    import select

    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "a process outlived the demo"
        handle.close()
    # The trainers are the workers' children: they end with them, a moment later.
    for _ in range(100):
        if not processes_mentioning(str(directory)):
            break
        select.select([], [], [], 0.1)
    assert processes_mentioning(str(directory)) == []


def _pidfd(pid: int):  # type: ignore[no-untyped-def]
    import os

    return os.fdopen(os.pidfd_open(pid), "rb", buffering=0)


def test_wrong_input_is_a_sentence(tmp_path: Path) -> None:
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "federation", "demo", "--directory", str(foreign)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not an earlier demo's" in done.stderr
    assert "Traceback" not in done.stderr
    assert (foreign / "thesis.txt").read_text() == "years of work"
