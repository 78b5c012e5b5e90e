"""A trainer whose app speaks on the connection to the gate by itself: it speaks for its own run alone."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from silo.channel import ChannelError, Frame, receive, send
from silo.gate.worker_link import WorkerLink

from .simulator import SECONDS


def _trainer(path: Path, name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(SECONDS)
    connection.connect(str(path))
    send(connection, Frame("hello", {"name": name}))
    return connection


@pytest.mark.parametrize("ended_by", ["the gate", "its own words"])
def test_what_one_trainer_said_in_advance_answers_nothing_of_the_next_run(short_path: Path, ended_by: str) -> None:
    """Its app writes answers to questions that nobody asked, to be taken for those of the run that follows."""
    link = WorkerLink(short_path / "worker.sock")
    with ThreadPoolExecutor() as pool, _trainer(short_path / "worker.sock", "first") as first:
        try:
            assert link.wait(SECONDS)["name"] == "first"
            for _ in range(3):
                send(first, Frame("prepared", {"forged": True}))
            if ended_by == "the gate":
                link.drop()
            waiting = pool.submit(link.wait, SECONDS)
            with _trainer(short_path / "worker.sock", "second") as second:
                # Where the forged words are there before the second came, the first is dropped for them.
                while (hello := waiting.result())["name"] == "first":
                    waiting = pool.submit(link.wait, SECONDS)
                assert hello["name"] == "second"
                asked = pool.submit(link.ask, Frame("prepare"), SECONDS)
                assert receive(second).op == "prepare"
                send(second, Frame("prepared", {"forged": False}))
                assert asked.result().fields == {"forged": False}
            with pytest.raises(ChannelError):
                receive(first)
        finally:
            link.close()
