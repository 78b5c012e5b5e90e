"""A gate's process on a machine whose clock is wrong, at a coordinator's process: it waits, says why, and goes on."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.processes import Child, command_line

from .conftest import Online, environment

pytestmark = pytest.mark.federation

SHIFTED = """
import datetime as _module, os, pathlib

class _Shifted(_module.datetime):
    @classmethod
    def now(cls, tz=None):
        seconds = float(pathlib.Path(os.environ["AHEAD"]).read_text() or 0)
        return super().now(tz) + _module.timedelta(seconds=seconds)

_module.datetime = _Shifted
"""
POLICY = (Path(__file__).parents[1] / "smallest_policy.yaml").read_text()


@contextmanager
def gate_with_a_clock(online: Online, tmp_path: Path, name: str, ahead: int) -> Iterator[tuple[Child, Path]]:
    """A gate's process whose machine's clock is so many seconds ahead, and the file that sets it."""
    home = online.member(name)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SHIFTED)
    (home.path / "policy").mkdir()
    (home.path / "policy" / "policy.yaml").write_text(POLICY)
    config = home.path / "silo.yaml"
    config.write_text(f"apiVersion: concordat/v1\nkind: Silo\npolicy: policy/policy.yaml\nsocket: {home.path}/w.sock\n")
    clock = home.path / "ahead"  # in the home, which the confined gate may read
    clock.write_text(str(ahead))
    child = Child(
        name,
        command_line("silo", "gate", str(config), "--home", str(home.path)),
        tmp_path / "gate.log",
        {**environment(), "PYTHONPATH": f"{site}{os.pathsep}{Path.cwd()}", "AHEAD": str(clock)},
    )
    try:
        yield child, clock
    finally:
        child.signal(signal.SIGKILL)
        child.wait(30)


def test_a_gate_whose_clock_is_wrong_waits_and_goes_on_once_it_is_set(online: Online, tmp_path: Path) -> None:
    with gate_with_a_clock(online, tmp_path, "clock-ahead", 1200) as (child, clock):
        said = child.expect("waiting for the coordinator: ", 60)
        assert re.search("the clock of clock-ahead is 1(199|200|201) s ahead of the coordinator's", said)
        fresh = clock.with_name("fresh")
        fresh.write_text("0")
        fresh.replace(clock)
        child.expect("connected to", 60)
    online.expect_entry(0, action="connection.refused", actor="clock-ahead", reason="the clock of clock-ahead is")


def test_a_gate_whose_clock_is_before_its_certificate_ends_and_names_the_clock(online: Online, tmp_path: Path) -> None:
    with gate_with_a_clock(online, tmp_path, "clock-behind", -1200) as (child, _):
        assert "or set this machine's clock right" in child.expect("the certificate is valid from", 60)
        assert child.wait(60) == 1
