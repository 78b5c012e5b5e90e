"""The template of the trainers as the process that it is, with trainers that need no TensorFlow."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.processes import Child

PROGRAM = """
import os, signal, sys
from pathlib import Path
from silo.worker.template import keep_trainers

SCRATCH, SEEN = Path(sys.argv[1]), []

def trainer():
    own = SCRATCH / f"trainer-{os.getpid()}"
    own.mkdir()
    (own / "left").touch()
    SEEN.append(own)
    number = len(list(SCRATCH.parent.glob("began-*")))
    (SCRATCH.parent / f"began-{number}").touch()
    print(f"trainer {number}: {os.getpid()} of {os.getppid()} saw {len(SEEN)}", flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    told = signal.sigwait([signal.SIGUSR1, signal.SIGUSR2])
    if told == signal.SIGUSR2:
        raise RuntimeError("as told")
    return 0

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
sys.exit(keep_trainers(trainer, SCRATCH, lambda text: print("said:", text, flush=True)))
"""


@pytest.fixture
def template(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "scratch").mkdir()
    child = Child("template", [sys.executable, "-c", PROGRAM, str(tmp_path / "scratch")], tmp_path / "log")
    yield child
    child.signal(signal.SIGKILL)
    child.wait(30)


def trainer_of(template: Child, number: int = 0) -> int:
    """A trainer's process id; it is a fork of the template that knows of no trainer before it."""
    match = re.search(r": (\d+) of (\d+) saw (\d+)$", template.expect(f"trainer {number}: ", 30).strip())
    assert match is not None
    assert (int(match[2]), match[3]) == (template.pid, "1")
    return int(match[1])


def test_each_trainer_begins_as_the_template_is_and_leaves_nothing(template: Child, tmp_path: Path) -> None:
    for number in range(3):
        trainer = trainer_of(template, number)
        assert [path.name for path in (tmp_path / "scratch").iterdir()] == [f"trainer-{trainer}"]
        os.kill(trainer, signal.SIGUSR1)
    trainer_of(template, 3)
    assert "said:" not in template.output()


def test_a_trainer_that_fails_is_told_of_and_replaced(template: Child) -> None:
    os.kill(trainer_of(template), signal.SIGUSR2)
    template.expect("said: the trainer ended with code 1; starting a fresh one", 30)
    assert "RuntimeError: as told" in template.output()
    os.kill(trainer_of(template, 1), signal.SIGKILL)
    template.expect("said: the trainer ended with code -9; starting a fresh one", 30)
    trainer_of(template, 2)


def test_a_template_told_to_stop_ends_a_trainer_that_does_not_listen(template: Child, tmp_path: Path) -> None:
    descriptor = os.pidfd_open(trainer_of(template))
    template.signal(signal.SIGTERM)
    assert template.wait(30) == 0
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, 0)
    os.close(descriptor)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_killed_template_takes_its_trainer_along(template: Child) -> None:
    descriptor = os.pidfd_open(trainer_of(template))
    template.signal(signal.SIGKILL)
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    assert waiting.poll(30_000)
    os.close(descriptor)
