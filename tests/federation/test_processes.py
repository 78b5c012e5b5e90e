from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from federation.errors import ConcordatError
from federation.processes import PARENT_VARIABLE, Child, command_line, stop_all, uninterrupted

pytestmark = pytest.mark.federation

PATIENCE = 60.0
OBEDIENT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True); "
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
FOREVER = "signal.pause()\nwhile True: signal.pause()"


def start(tmp_path: Path, program: str, name: str = "child", environment: dict[str, str] | None = None) -> Child:
    return Child(name, [sys.executable, "-c", program], tmp_path / f"{name}.log", environment)


def gone(pid: int) -> bool:
    """Wait for a process that is not ours to end."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE)[0])
    finally:
        os.close(descriptor)


def test_a_line_is_waited_for_and_everything_is_kept(tmp_path: Path):
    child = start(tmp_path, "import sys; print('first'); print('the port is 9443'); print('last', file=sys.stderr)")
    assert child.expect("port is", PATIENCE) == "the port is 9443\n"
    assert child.wait(PATIENCE) == child.returncode == 0
    child.expect("last", PATIENCE)
    assert sorted(child.output().split("\n")) == ["", "first", "last", "the port is 9443"]
    child.join()
    assert child.log.read_text() == child.output()


def test_a_child_that_ends_first_is_reported_with_its_last_words(tmp_path: Path):
    child = start(tmp_path, "print('so far'); print('the disk is full')")
    with pytest.raises(ConcordatError, match=r"child ended: the disk is full; see .*child\.log"):
        child.expect("listening", PATIENCE)
    with pytest.raises(ConcordatError, match="nothing was printed"):
        start(tmp_path, "").expect("listening", PATIENCE)


def test_a_child_that_says_nothing_is_reported_when_time_runs_out(tmp_path: Path):
    child = start(tmp_path, OBEDIENT + FOREVER)
    child.expect("ready", PATIENCE)
    with pytest.raises(ConcordatError, match="did not say 'listening' within 0 s: ready"):
        child.expect("listening", 0.01)
    assert stop_all([child], PATIENCE) == []


def test_a_child_is_given_the_environment_and_no_input(tmp_path: Path):
    program = "import os, sys; print(os.environ['A'], 'HOME' in os.environ, repr(sys.stdin.read()))"
    child = start(tmp_path, program, environment={"A": "b"})
    assert child.expect("b", PATIENCE) == "b False ''\n"
    child.wait(PATIENCE)


def test_a_child_is_ended_gently(tmp_path: Path):
    child = start(tmp_path, OBEDIENT + FOREVER)
    child.expect("ready", PATIENCE)
    assert child.returncode is None
    assert stop_all([child], PATIENCE) == []
    assert child.returncode == 7
    child.signal(signal.SIGKILL)
    assert stop_all([child], PATIENCE) == []
    assert child.returncode == 7


def test_a_child_that_does_not_listen_is_ended_by_force_and_the_others_too(tmp_path: Path):
    stubborn = start(tmp_path, STUBBORN + FOREVER, "stubborn")
    obedient = start(tmp_path, OBEDIENT + FOREVER, "obedient")
    for child in (stubborn, obedient):
        child.expect("ready", PATIENCE)
    assert "stubborn" in stop_all([stubborn, obedient], 0.3)
    assert stubborn.returncode == -signal.SIGKILL
    assert obedient.returncode is not None


def test_a_child_goes_when_its_parent_is_killed(tmp_path: Path):
    """Whatever ends the parent, no gate or worker is left behind."""
    grandchild = "from federation.processes import end_with_parent_if_asked as f; f(); import os; " + STUBBORN + FOREVER
    parent = f"""
import sys, signal
from pathlib import Path
from federation.processes import Child
child = Child("c", [sys.executable, "-c", {grandchild!r}], Path({str(tmp_path / "c.log")!r}))
child.expect("ready", {PATIENCE})
print(child.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
        process.wait(PATIENCE)
        assert gone(pid)


def test_a_process_whose_parent_is_gone_already_does_not_start():
    """The parent may die between starting the process and the process asking to end with it."""
    done = subprocess.run(
        command_line("--help"),
        capture_output=True,
        check=False,
        env={**os.environ, PARENT_VARIABLE: "1"},
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    done = subprocess.run(
        command_line("--help"),
        capture_output=True,
        check=False,
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        timeout=PATIENCE,
    )
    assert done.returncode == 0


def test_ctrl_c_is_put_off_until_what_was_started_is_known() -> None:
    done: list[str] = []

    def start() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("started and noted")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert done == ["started and noted"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_without_ctrl_c_nothing_is_raised() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        pass
    assert signal.getsignal(signal.SIGINT) is before
